"""A swatch shows its product's pattern in the product's colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.fabrics import mix, swatch
from retrieval_core.ingest.synthetic.products import PATTERNS, plan_product

PRODUCT = replace(plan_product(0, 1), base=(200, 40, 40), accent=(40, 40, 200), trim=(240, 240, 240))
WEAVE = 5  # the largest difference that the weave makes to a colour


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_fills_the_swatch_and_is_drawn_alike_each_time(pattern: str) -> None:
    product = replace(PRODUCT, pattern=pattern)
    cloth = swatch(product, 64)
    assert (cloth.shape, cloth.dtype) == ((64, 64, 3), np.uint8)
    assert np.array_equal(cloth, swatch(product, 64))
    is_base = (np.abs(cloth.astype(int) - PRODUCT.base) <= WEAVE).all(axis=2)
    assert is_base.all() == (pattern == "solid")
    assert is_base.any() or pattern == "checked"


def test_mixing_goes_from_the_first_colour_to_the_second() -> None:
    assert [mix((0, 100, 200), (100, 0, 200), share) for share in (0.0, 0.25, 1.0)] == [
        (0, 100, 200),
        (25, 75, 200),
        (100, 0, 200),
    ]
