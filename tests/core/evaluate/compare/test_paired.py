"""Paired tests agree with an independent implementation, and correct over all tests of a table."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.metrics.retrieval import Scores

METRIC = st.floats(0, 1) | st.just(math.nan)


def test_p_values_are_those_of_an_independent_permutation_test_corrected_over_all() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random(60)
    pairs = [(theirs + np.clip(rng.normal(shift, 0.3, 60), -1, 1), theirs) for shift in (0.0, 0.06, 0.12, 0.5)]
    tests = paired_tests(pairs, np.arange(60))
    for (a, b), test in zip(pairs, tests, strict=True):
        oracle = stats.permutation_test(
            (a, b),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(0),
        )
        assert test.p == pytest.approx(oracle.pvalue, abs=0.015)
    worst = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test.p)):
        worst = max(worst, min(1.0, (len(tests) - rank) * test.p))
        assert test.p_holm == pytest.approx(worst)


def test_a_clear_difference_stays_clear_among_many_tests() -> None:
    rng = np.random.default_rng(0)
    noise = [(rng.random(80), rng.random(80)) for _ in range(59)]
    clear = np.ones(80), rng.random(80)
    assert paired_tests([*noise, clear], np.arange(80))[-1].p_holm < 0.01


def test_queries_of_one_product_count_as_one() -> None:
    values = np.repeat(np.random.default_rng(0).random(10) < 0.8, 4).astype(float)
    (apart,) = paired_tests([(values, np.zeros(40))], np.arange(40))
    (together,) = paired_tests([(values, np.zeros(40))], np.repeat(np.arange(10), 4))
    assert together.difference == apart.difference
    assert together.p > 10 * apart.p
    assert together.low < apart.low < apart.high < together.high


@given(st.lists(st.tuples(METRIC, METRIC), max_size=20))
def test_a_query_is_a_pair_where_both_searches_define_the_metric(pairs) -> None:
    values, baseline = np.array(pairs).reshape(-1, 2).T
    assert n_pairs(values, baseline) == sum(not (math.isnan(a) or math.isnan(b)) for a, b in pairs)
    assert n_pairs(values, np.empty(0)) == 0


@given(st.lists(st.tuples(METRIC, METRIC), min_size=2, max_size=20))
def test_wins_and_the_difference_are_those_of_the_queries_that_both_define(pairs) -> None:
    values, baseline = np.array(pairs).T
    if n_pairs(values, baseline) < 2:
        return
    (test,) = paired_tests([(values, baseline)], np.arange(len(pairs)))
    differences = [a - b for a, b in pairs if not math.isnan(a - b)]
    assert test.n_queries == len(differences)
    assert test.difference == pytest.approx(sum(differences) / len(differences))
    assert (test.n_better, test.n_worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))


@pytest.mark.parametrize(
    ("difference", "p_holm", "verdict"),
    [(0.1, 0.049, "better"), (-0.1, 0.049, "worse"), (0.1, 0.05, "same"), (-0.1, 1.0, "same"), (0.0, 0.001, "same")],
)
def test_a_difference_counts_where_the_corrected_p_is_below_five_percent(difference, p_holm, verdict) -> None:
    test = PairedTest(
        difference=difference, low=0.0, high=0.0, p=0.001, p_holm=p_holm, n_queries=9, n_better=1, n_worse=1
    )
    assert test.verdict == verdict


def test_an_undefined_metric_has_no_values_and_an_undefined_query_is_nan() -> None:
    scores = Scores(pl.DataFrame({"map@5": [0.5, None]}), {"map@5": 0.5})
    assert per_query(scores, "map@5").tolist()[0] == 0.5
    assert math.isnan(per_query(scores, "map@5")[1])
    assert len(per_query(scores, "recall@1")) == 0
