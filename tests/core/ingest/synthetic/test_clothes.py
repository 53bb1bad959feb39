"""Every choice that a category leaves open gives a cut that fits the drawing plane."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.clothes import CLOTHES
from retrieval_core.ingest.synthetic.products import CATEGORIES, CUTS, plan_product


@pytest.mark.parametrize("category", CLOTHES)
@pytest.mark.parametrize("shape", [(-1.0,) * 4, (1.0,) * 4])
def test_every_cut_hangs_in_the_plane(category: str, shape: tuple[float, float, float, float]) -> None:
    cut = CUTS[category]
    planned = replace(plan_product(0, CATEGORIES.index(category)), shape=shape)
    choices = combinations(cut.sleeve or (None,), cut.neckline or (None,), cut.length or (None,), ((), cut.details))
    for sleeve, neckline, length, details in choices:
        chosen = replace(planned, sleeve=sleeve, neckline=neckline, length=length, details=details)
        garment = CLOTHES[category](chosen)
        points = np.concatenate([part.outline for part in garment.parts])
        assert garment.shown_on == "hanger"
        assert -0.05 <= points.min() <= points.max() <= 1.05, chosen


def test_details_add_parts_seams_or_buttons() -> None:
    for category, cut in CUTS.items():
        for detail in cut.details if category in CLOTHES else ():
            planned = replace(plan_product(0, CATEGORIES.index(category)), details=(), pattern_style=1)
            plain, detailed = (CLOTHES[category](replace(planned, details=chosen)) for chosen in ((), (detail,)))
            drawn = [
                (len(g.parts), len(g.seams), len(g.buttons), sum(p.ribs for p in g.parts)) for g in (plain, detailed)
            ]
            assert drawn[0] != drawn[1], (category, detail)
