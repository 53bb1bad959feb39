"""A figure has colour and relief where the product covers it, and nothing elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.figure import make_figure
from retrieval_core.ingest.synthetic.products import CATEGORIES, plan_product

SIDE_PX = 96


@pytest.mark.parametrize("number", range(len(CATEGORIES)))
def test_relief_lies_within_the_cover(number: int) -> None:
    figure = make_figure(plan_product(2, number), SIDE_PX)
    is_covered = figure.cover == 255
    assert set(np.unique(figure.cover)) == {0, 255}
    assert figure.albedo.shape == (SIDE_PX, SIDE_PX, 3)
    for slope in (figure.slope_x, figure.slope_y):
        assert slope.dtype == np.float32
        assert slope[is_covered].any()
        assert not slope[~is_covered].any()


def test_the_same_product_makes_the_same_figure_and_another_cloth_another() -> None:
    product = plan_product(2, 0)
    first, again, other = (
        make_figure(p, SIDE_PX) for p in (product, product, replace(product, cloth_seed=product.cloth_seed + 7))
    )
    assert np.array_equal(first.albedo, again.albedo)
    assert np.array_equal(first.cover, other.cover)
    assert not np.array_equal(first.slope_x, other.slope_x)
