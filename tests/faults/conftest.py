"""A small shop with pictures and a fitted backbone, to be damaged."""

from tests.core.conftest import new_shop, pixels_backbone

__all__ = ["new_shop", "pixels_backbone"]
