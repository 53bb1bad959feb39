"""Every kind of backdrop is drawn by its seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.ingest.synthetic.backdrops import BACKDROPS, draw_backdrop


@pytest.mark.parametrize("kind", BACKDROPS)
def test_a_seed_draws_one_picture_and_another_seed_another(kind: str) -> None:
    first, again, other = (np.asarray(draw_backdrop(kind, seed, 64)) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
