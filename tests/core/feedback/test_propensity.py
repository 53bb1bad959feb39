"""Position bias is learned from items that a question showed at several positions, and else assumed."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.feedback.grades import find_impressions
from retrieval_core.feedback.propensity import ETA, MIN_PROPENSITY, PositionBias, estimate_bias
from tests.core.feedback.simulated_shoppers import choose, draw_catalogue, joined, rank


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.4])
def test_the_exponent_that_shoppers_have_is_found(eta: float) -> None:
    rng = np.random.default_rng(1)
    catalogue = draw_catalogue(30, 20, rng)
    logs = [choose(catalogue, rank(catalogue, 0.5, rng), 60, eta, rng, name=name) for name in "ab"]
    bias = estimate_bias(find_impressions(joined(*logs)))
    assert bias.n_choices > 200
    assert abs(bias.eta - eta) < 0.15


def test_one_ranking_alone_says_nothing_of_positions() -> None:
    rng = np.random.default_rng(1)
    catalogue = draw_catalogue(10, 20, rng)
    log = choose(catalogue, rank(catalogue, 0.5, rng), 60, 0.5, rng)
    assert estimate_bias(find_impressions(log)) == PositionBias(ETA, 0)


def test_propensities_fall_to_a_bound() -> None:
    propensity = PositionBias(1.0).propensity(np.array([1, 2, 1000]))
    assert propensity.tolist() == [1.0, 0.5, MIN_PROPENSITY]
