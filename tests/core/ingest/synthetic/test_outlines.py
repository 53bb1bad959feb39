"""Curves in the drawing plane have the symmetry and the size that they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.outlines import BEZIER_POINTS, box, ellipse, mirror, motif, strip, symmetric, trace
from retrieval_core.ingest.synthetic.products import MOTIFS


def test_a_curve_passes_through_the_ends_of_its_steps() -> None:
    curve = trace((0.1, 0.2), (0.3, 0.2), (0.5, 0.2, 0.5, 0.6))
    assert curve.shape == (2 + BEZIER_POINTS - 1, 2)
    assert curve[[0, 1, -1]].tolist() == [[0.1, 0.2], [0.3, 0.2], [0.5, 0.6]]


def test_mirroring_twice_changes_nothing() -> None:
    curve = trace((0.5, 0.1), (0.8, 0.4, 0.6, 0.9))
    assert np.allclose(mirror(mirror(curve)), curve)
    assert np.allclose(mirror(curve)[:, 0], 1 - curve[:, 0])


def test_a_symmetric_outline_is_its_own_mirror_image() -> None:
    outline = symmetric((0.5, 0.1), (0.7, 0.2), (0.9, 0.5, 0.5, 0.9))
    assert np.allclose(mirror(outline)[::-1], outline)


def test_a_strip_is_as_wide_as_asked() -> None:
    band = strip(np.array([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]]), 0.04)
    assert np.allclose(np.ptp(band, axis=0), [0.8, 0.04])


def test_a_box_and_an_ellipse_fill_their_bounds() -> None:
    rectangle, oval = box(0.2, 0.3, 0.6, 0.8), ellipse(0.5, 0.4, 0.2, 0.1)
    assert np.allclose([rectangle.min(axis=0), rectangle.max(axis=0)], [[0.2, 0.3], [0.6, 0.8]])
    assert np.allclose([oval.min(axis=0), oval.max(axis=0)], [[0.3, 0.3], [0.7, 0.5]])


@pytest.mark.parametrize("name", MOTIFS)
def test_a_motif_stands_around_its_place(name: str) -> None:
    outline = motif(name, 0.5, 0.4, 0.1)
    assert (np.abs(outline - [0.5, 0.4]) <= 0.1 + 1e-9).all()
    assert (np.ptp(outline, axis=0) > 0.08).all()
