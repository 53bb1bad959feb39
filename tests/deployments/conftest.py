"""A release made without a flow, for the app to answer from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.conftest import new_shop, pixels_backbone

__all__ = ["new_shop", "pixels_backbone"]

FIRST, SECOND = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two releases: half of the products, and all of them in production."""
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish(FIRST, range(6))
    shop.publish(SECOND)
    return shop
