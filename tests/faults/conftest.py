"""A small shop with real pictures and a real backbone, to damage."""

from tests.core.conftest import new_shop, pixels_backbone

__all__ = ["new_shop", "pixels_backbone"]
