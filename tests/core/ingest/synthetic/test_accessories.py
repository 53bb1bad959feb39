"""Every style of bag, shoe and hat is cut within the drawing plane and differs from the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.accessories import bag, hat, shoe
from retrieval_core.ingest.synthetic.garment import Garment
from retrieval_core.ingest.synthetic.products import CATEGORIES, CUTS, Product, plan_product

CUTTERS = {"bag": bag, "shoe": shoe, "hat": hat}


@pytest.mark.parametrize(("category", "cutter"), CUTTERS.items())
@pytest.mark.parametrize("extreme", [-1.0, 1.0])
def test_every_style_fits_the_plane(category: str, cutter: Callable[[Product], Garment], extreme: float) -> None:
    cut = CUTS[category]
    planned = replace(plan_product(0, CATEGORIES.index(category)), shape=(extreme,) * 4, motif_at=(extreme,) * 2)
    garments = [cutter(replace(planned, style=style, details=cut.details)) for style in cut.style]
    for garment in garments:
        points = np.concatenate([part.outline for part in garment.parts])
        assert -0.05 <= points.min() <= points.max() <= 1.05
    assert len({garment.parts[0].outline.tobytes() for garment in garments}) == len(cut.style)


@pytest.mark.parametrize(("category", "detail"), [("bag", "pocket"), ("bag", "print"), ("hat", "ribbon")])
def test_a_detail_adds_a_part(category: str, detail: str) -> None:
    for style in CUTS[category].style:
        planned = replace(plan_product(0, CATEGORIES.index(category)), style=style, details=())
        plain, detailed = (CUTTERS[category](replace(planned, details=chosen)) for chosen in ((), (detail,)))
        assert len(detailed.parts) > len(plain.parts)
