"""What simulated shoppers chose moves the gate where a release is better or worse, not where they chose at random."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrieval_core.arrays import Int64
from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.paired_comparison import MetricChange, compare
from retrieval_core.feedback.grades import Evidence, Judged, find_impressions, grade
from retrieval_core.feedback.propensity import PositionBias, estimate_bias
from retrieval_core.metrics.graded import ndcg
from retrieval_core.metrics.registry import GOLDEN_NDCG
from tests.core.feedback.simulated_shoppers import Catalogue, choose, draw_catalogue, rank

N_QUESTIONS, N_ITEMS = 80, 30


def measured(catalogue: Catalogue, judged: list[Judged], ranking: Int64) -> pl.DataFrame:
    """A row a judged question with the nDCG of a release."""
    rows = []
    for each in judged:
        question = int(each.question[1:])
        order = [catalogue.item(question, item) for item in ranking[question].tolist()]
        found = [each.grades[item_id] for item_id in order if item_id in each.grades]
        rows.append((each.question, ndcg(found, list(each.grades.values()))))
    return pl.DataFrame(rows, ["item_id", GOLDEN_NDCG.name], orient="row")


def compared(catalogue: Catalogue, judged: list[Judged], challenger: Int64, production: Int64) -> MetricChange:
    tables = [measured(catalogue, judged, ranking) for ranking in (challenger, production)]
    (change,) = compare(*tables, GateConfig()).overall
    return change


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_better_release_wins_and_a_worse_one_is_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue = draw_catalogue(N_QUESTIONS, N_ITEMS, rng)
    production, better, worse = (rank(catalogue, quality, rng) for quality in (0.8, 2.0, 0.1))
    impressions = find_impressions(choose(catalogue, production, 100, 1.0, rng))
    judged = grade(impressions, estimate_bias(impressions), Evidence())
    change = compared(catalogue, judged, better, production)
    assert change.low is not None
    assert change.low > 0.02
    assert not change.blocks
    assert compared(catalogue, judged, worse, production).blocks
    better_values, values = (measured(catalogue, judged, each)[GOLDEN_NDCG.name] for each in (better, production))
    differences = (better_values - values).to_numpy()
    bootstrap = np.quantile(rng.choice(differences, (2_000, len(differences))).mean(axis=1), [0.025, 0.975])
    assert change.high is not None
    assert 0 < change.low < bootstrap[0] + 0.005, "the interval of the gate holds that of a bootstrap"
    assert change.high > bootstrap[1] - 0.005


def test_shoppers_who_choose_at_random_do_not_move_the_gate_unless_positions_are_forgotten() -> None:
    blocks, blocks_uncorrected = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        catalogue = draw_catalogue(N_QUESTIONS, N_ITEMS, rng)
        production, other = rank(catalogue, 0.8, rng), rank(catalogue, 0.8, rng)
        impressions = find_impressions(choose(catalogue, production, 100, 1.0, rng, noise=True))
        for bias in (PositionBias(1.0), PositionBias(0.0)):
            judged = grade(impressions, bias, Evidence())
            is_held = len(judged) > 1 and compared(catalogue, judged, other, production).blocks
            blocks += is_held and bias.eta > 0
            blocks_uncorrected += is_held and bias.eta == 0
    assert blocks <= 2
    assert blocks_uncorrected >= 9, "as what stood first was chosen most, any other order would look worse"
