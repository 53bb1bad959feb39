"""A view shows the product in its colours before a backdrop, with the exact mask of the pixels that show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.ingest.synthetic.backdrops import BACKDROPS
from retrieval_core.ingest.synthetic.figure import make_figure
from retrieval_core.ingest.synthetic.products import CATEGORIES, PALETTE, Product, plan_product
from retrieval_core.ingest.synthetic.scene import SUPERSAMPLE, View, plan_view, shoot

SIDE_PX = 64


def product_like(**changes: object) -> Product:
    wanted = {"pattern": "solid", "details": (), **changes}
    return replace(plan_product(0, CATEGORIES.index(str(wanted.get("category", "t-shirt")))), **wanted)  # type: ignore[arg-type]


def plain_view(**changes: object) -> View:
    return replace(plan_view(0, 0, 0), **{"tag": False, "exposure": 1.0, "warmth": 0.0, **changes})  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000))
@settings(max_examples=40)
def test_the_views_of_a_product_stand_before_different_kinds_of_backdrop(seed: int, number: int) -> None:
    kinds = [plan_view(seed, number, view).backdrop for view in range(len(BACKDROPS))]
    assert len(set(kinds)) == len(BACKDROPS)


@pytest.mark.parametrize("number", range(len(CATEGORIES)))
def test_another_backdrop_changes_no_pixel_of_the_product_and_no_mask(number: int) -> None:
    figure = make_figure(plan_product(1, number), SIDE_PX * SUPERSAMPLE)
    view = plan_view(1, number, 0)
    first, second = (shoot(figure, replace(view, backdrop=kind, backdrop_seed=5)) for kind in ("foliage", "street"))
    assert np.array_equal(first.mask, second.mask)
    assert 0.02 < first.mask.mean() < 0.9
    inner = eroded(first.mask)
    assert share_of_equal(first.picture[inner], second.picture[inner]) > 0.97
    changed = (first.picture != second.picture).any(axis=2)
    assert changed[eroded(~first.mask)].mean() > 0.9


def share_of_equal(first: np.ndarray, second: np.ndarray) -> float:
    """Of pixels; not all, since a slit narrower than a pixel lets the backdrop shine through."""
    return float((first == second).all(axis=-1).mean())


def eroded(mask: np.ndarray) -> np.ndarray:
    """Without its rim, whose pixels are rightly a mixture of product and backdrop."""
    padded = np.pad(mask, 1)
    return np.all(
        [padded[1 + dy : 1 + dy + SIDE_PX, 1 + dx : 1 + dx + SIDE_PX] for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0
    )


def test_a_tag_before_the_product_is_cut_out_of_the_mask() -> None:
    figure = make_figure(product_like(category="coat"), SIDE_PX * SUPERSAMPLE)
    bare, tagged = shoot(figure, plain_view()), shoot(figure, plain_view(tag=True))
    hidden = bare.mask & ~tagged.mask
    assert hidden.any()
    assert not (tagged.mask & ~bare.mask).any()
    assert np.array_equal(eroded(tagged.mask) & bare.mask, eroded(tagged.mask))
    untouched = eroded(tagged.mask)
    assert share_of_equal(bare.picture[untouched], tagged.picture[untouched]) > 0.97


@pytest.mark.parametrize("colour", PALETTE)
def test_a_plain_product_has_the_colour_of_its_name(colour: str) -> None:
    product = product_like(category="t-shirt", colour=colour, base=PALETTE[colour])
    shot = shoot(make_figure(product, SIDE_PX * SUPERSAMPLE), plain_view(contrast=0.6))
    median = np.median(shot.picture[shot.mask], axis=0)
    nearest = min(PALETTE, key=lambda name: float(np.linalg.norm(median - PALETTE[name])))
    assert nearest == colour
