"""Planted effects are found, absent ones are not, and small cases match a full enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.significance import (
    bootstrap_intervals,
    can_reject,
    holm,
    paired_bootstrap,
    paired_permutation_p,
    permutation_p_less,
)

NAN = float("nan")


def searches_that_differ_by(effect: float, n: int, rng: np.random.Generator):
    """Two runs over the same queries, whose difficulty they share."""
    difficulty = rng.normal(0, 1, n)
    return difficulty + rng.normal(effect, 0.5, n), difficulty + rng.normal(0, 0.5, n)


def test_the_interval_covers_the_true_difference_at_its_level():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = paired_bootstrap(*searches_that_differ_by(0.1, 100, rng), n_resamples=400, seed=seed)[1:3]
        covered += low <= 0.1 <= high
    # 95% of 300 is 285; three binomial deviations are 11.
    assert 271 <= covered <= 297


def test_the_interval_is_that_of_the_bootstrap_of_scipy():
    a, b = searches_that_differ_by(0.1, 200, np.random.default_rng(1))
    ours = paired_bootstrap(a, b, n_resamples=5000, seed=0)
    theirs = stats.bootstrap((a - b,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.difference == pytest.approx((a - b).mean())


def test_a_higher_level_gives_a_wider_interval():
    a, b = searches_that_differ_by(0, 100, np.random.default_rng(1))
    narrow, wide = paired_bootstrap(a, b, level=0.5), paired_bootstrap(a, b, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairs_with_an_unknown_side_are_dropped():
    a, b = np.array([1.0, NAN, 3.0, 5.0, NAN]), np.array([0.0, 1.0, NAN, 2.0, NAN])
    whole, known = paired_bootstrap(a, b), paired_bootstrap(a[[0, 3]], b[[0, 3]])
    assert whole == known
    assert whole.n_pairs == 2
    assert paired_permutation_p(a, b) == paired_permutation_p(a[[0, 3]], b[[0, 3]])


def test_without_pairs_nothing_is_known():
    interval = paired_bootstrap(np.array([NAN]), np.array([1.0]))
    assert interval.n_pairs == 0
    assert all(math.isnan(value) for value in interval[:3])
    assert paired_permutation_p(np.array([]), np.array([])) == 1


def test_one_pair_tells_nothing_about_spread():
    assert paired_bootstrap(np.array([1.0]), np.array([3.0])) == (-2, -math.inf, math.inf, 1)


def test_equal_runs_do_not_differ():
    values = np.random.default_rng(0).random(50)
    assert paired_bootstrap(values, values) == (0, 0, 0, 50)
    assert paired_permutation_p(values, values) == 1


def test_a_constant_difference_has_an_interval_of_no_width_and_a_small_p():
    a = np.random.default_rng(0).random(50)
    assert paired_bootstrap(a, a + 0.5)[:3] == pytest.approx((-0.5, -0.5, -0.5))
    assert paired_permutation_p(a, a + 0.5) == pytest.approx(1 / 5001)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([-1.0, -0.5, -1 / 3, 0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=9))
def test_p_is_that_of_all_sign_flips(differences):
    d = np.array(differences)
    sums = [np.dot(signs, np.abs(d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    slack = 1e-9
    less = np.mean([s <= d.sum() + slack for s in sums])
    both = np.mean([abs(s) >= abs(d.sum()) - slack for s in sums])
    zeros = np.zeros(len(d))
    assert paired_permutation_p(d, zeros, alternative="two-sided") == pytest.approx(both, abs=0.03)
    if d.any():
        assert paired_permutation_p(d, zeros, alternative="less") == pytest.approx(less, abs=0.03)


def test_equal_runs_are_rejected_no_more_often_than_alpha():
    rng = np.random.default_rng(2)
    p = [paired_permutation_p(*searches_that_differ_by(0, 60, rng), n_resamples=300, seed=seed) for seed in range(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert 0.4 < np.mean(p) < 0.6


def test_a_planted_loss_is_found_and_a_gain_is_not_called_one():
    worse, better = searches_that_differ_by(-0.3, 200, np.random.default_rng(3))
    assert paired_permutation_p(worse, better, alternative="less") < 0.001
    assert paired_permutation_p(worse, better) < 0.001
    assert paired_permutation_p(better, worse, alternative="less") > 0.99


def test_the_seed_decides_everything_and_blocks_change_only_the_draws(monkeypatch):
    a, b = searches_that_differ_by(0.05, 100, np.random.default_rng(4))
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)
    whole = paired_bootstrap(a, b), paired_permutation_p(a, b)
    monkeypatch.setattr("retrieval_core.metrics.significance.BLOCK_DRAWS", 1000)
    assert paired_bootstrap(a, b)[1:3] == pytest.approx(whole[0][1:3], abs=0.02)
    assert paired_permutation_p(a, b) == pytest.approx(whole[1], abs=0.05)


def test_metrics_that_share_their_draws_have_the_intervals_they_have_alone():
    rng = np.random.default_rng(5)
    pairs = [searches_that_differ_by(effect, 80, rng) for effect in (-0.2, 0.0, 0.3)]
    low, high = bootstrap_intervals(np.column_stack([a - b for a, b in pairs]))
    alone = [paired_bootstrap(a, b) for a, b in pairs]
    assert low == pytest.approx([interval.low for interval in alone], abs=1e-12)
    assert high == pytest.approx([interval.high for interval in alone], abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(*[st.sampled_from([-1.0, -0.5, -1 / 3, 0.0, 0.1, 1.0])] * 3), min_size=1, max_size=9))
def test_p_that_stops_early_is_that_of_all_sign_flips_of_each_metric(rows):
    d = np.array(rows)
    signs = np.array(list(itertools.product((-1, 1), repeat=len(d))))
    exact = ((signs @ np.abs(d)) <= d.sum(axis=0) + 1e-9).mean(axis=0)
    # Two hundred extremes tell p to a fourteenth of itself: four such deviations, and the draws of a small p.
    p = permutation_p_less(d, 20_000)
    assert np.all(np.abs(p - exact) <= 0.3 * exact + 0.002)


def test_p_stops_early_where_nothing_is_lost_and_goes_on_where_much_is(monkeypatch):
    drawn = []
    draw = np.random.Generator.integers

    class Counting(np.random.Generator):
        def integers(self, *args, **more):
            drawn.append(args[2][0])
            return draw(self, *args, **more)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting(np.random.PCG64(seed)))
    worse, better = searches_that_differ_by(-0.5, 200, np.random.Generator(np.random.PCG64(3)))
    assert permutation_p_less((better - worse)[:, None], 50_000)[0] > 0.99
    assert sum(drawn) == 5_000
    drawn.clear()
    assert permutation_p_less(np.column_stack([worse - better, better - worse]), 50_000)[0] == 1 / 50_001
    assert sum(drawn) == 50_000


def test_p_that_stops_early_rejects_equal_runs_no_more_often_than_alpha():
    rng = np.random.default_rng(6)
    differences = np.column_stack([np.subtract(*searches_that_differ_by(0, 60, rng)) for _ in range(1000)])
    p = np.concatenate([permutation_p_less(differences[:, i : i + 1], 1000, seed=i) for i in range(1000)])
    for alpha in (0.02, 0.05, 0.2):
        assert np.mean(p < alpha) <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 1000)
    assert 0.45 < p.mean() < 0.55


def test_p_of_what_differs_nowhere_is_one_and_no_draw_is_made():
    assert permutation_p_less(np.zeros((40, 2)), 10**12).tolist() == [1, 1]
    assert permutation_p_less(np.zeros((0, 2)), 10**12).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("n_differing", "chosen"),
    [
        ([10, 0, 0, 0], [True, False, False, False]),
        ([5], [True]),  # 1/32 passes 0.05,
        ([5, 5], [False, False]),  # and two of them do not pass half of that;
        ([6, 6], [True, True]),  # 1/64 does.
        ([7, 5, 5], [True, False, False]),
        ([], []),
    ],
)
def test_only_what_can_reject_is_corrected_for(n_differing, chosen):
    assert can_reject(np.array(n_differing, np.int64), 0.05).tolist() == chosen


@given(st.lists(st.integers(0, 14), max_size=40), st.sampled_from([0.01, 0.05]))
def test_of_the_tests_left_out_none_could_have_rejected_in_the_family_of_all(n_differing, alpha):
    chosen = can_reject(np.array(n_differing, np.int64), alpha)
    least = 0.5 ** np.array(n_differing)
    assert np.all(least[~chosen] * len(least) >= alpha)
    # Even Holm's last step, with every chosen test rejected before, is one that the chosen may reach.
    assert np.all(least[chosen] < alpha / max(chosen.sum(), 1))


def test_leaving_out_by_size_keeps_the_family_wise_error():
    """Fifty categories in which few or many of forty queries flip either way: the discrete case that Holm pays for."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(300):
        flips = rng.random((40, 50)) < rng.choice([0.05, 0.2, 0.6], 50)
        differences = np.where(flips, rng.choice([-1.0, 1.0], (40, 50)), 0)
        chosen = can_reject((differences != 0).sum(axis=0), 0.05)
        p = permutation_p_less(differences[:, chosen], 5000)
        wrong += any(value < 0.05 for value in holm(p.tolist()))
    assert wrong <= 0.05 * 300 + 3 * math.sqrt(0.05 * 0.95 * 300)


def test_runs_of_different_length_are_refused():
    with pytest.raises(DimensionMismatch, match="paired values"):
        paired_bootstrap(np.zeros(3), np.zeros(4))


def test_holm_by_hand():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 raised to its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([0.02, NAN, 0.04])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_exactly_what_its_step_down_procedure_rejects(p_values):
    alpha = 0.05
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - step) >= alpha:
            break
        rejected.add(i)
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p < alpha} == rejected
    assert all(raw <= p <= 1 for raw, p in zip(p_values, adjusted, strict=True))
