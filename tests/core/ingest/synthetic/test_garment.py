"""A cut collects parts, seams and buttons, and mirrors what comes in pairs."""

from __future__ import annotations

import numpy as np

from retrieval_core.ingest.synthetic.garment import Garment
from retrieval_core.ingest.synthetic.outlines import box, mirror


def test_a_pair_is_a_part_and_its_mirror_image() -> None:
    garment, sleeve = Garment(), box(0.6, 0.2, 0.8, 0.5)
    garment.add_pair(sleeve, "trim", turn_deg=10, folds=0.5)
    left, right = garment.parts
    assert np.array_equal(left.outline, mirror(sleeve))
    assert np.array_equal(right.outline, sleeve)
    assert (left.turn_deg, right.turn_deg) == (-10, 10)
    assert {left.cloth, right.cloth} == {"trim"}


def test_stitches_are_finer_than_seams() -> None:
    garment, line = Garment(), np.array([[0.2, 0.5], [0.8, 0.5]])
    garment.sew(line)
    garment.sew(line, mirror(line), stitched=True)
    assert [seam.stitched for seam in garment.seams] == [False, True, True]
    assert garment.seams[1].width < garment.seams[0].width


def test_a_row_of_buttons_is_evenly_spaced() -> None:
    garment = Garment()
    garment.button_row(0.5, 0.2, 0.6, 3)
    assert np.allclose([(x, y) for x, y, _ in garment.buttons], [(0.5, 0.2), (0.5, 0.4), (0.5, 0.6)])
