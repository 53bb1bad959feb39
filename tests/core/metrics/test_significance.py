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
    ClusterSums,
    can_reject,
    clusters_needed,
    difference_intervals,
    holm,
    paired_interval,
    permutation_p,
    permutation_p_less,
    sum_clusters,
    sum_pairs,
    unseen_losses,
    wilson,
)

NAN = float("nan")
VALUES = st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.125, 0.5, 1.0])
ROWS = st.lists(st.tuples(st.integers(0, 5), VALUES, VALUES), min_size=2, max_size=24)


def searches_that_differ_by(effect: float, n: int, rng: np.random.Generator):
    """Two runs over the same queries, whose difficulty they share; differences lie within -1 to 1."""
    difficulty = rng.normal(0, 1, n)
    return difficulty + np.clip(rng.normal(effect, 0.2, n), -0.9, 0.9), difficulty + rng.uniform(-0.1, 0.1, n)


def alone(differences) -> ClusterSums:
    """Each query in a cluster of its own."""
    differences = np.asarray(differences, float)
    return sum_clusters(differences[:, None], np.arange(len(differences)))


def in_clusters(rows) -> tuple[np.ndarray, np.ndarray]:
    clusters = np.array([row[0] for row in rows], np.int64)
    return np.array([row[1:] for row in rows]), clusters


def all_that_is_said(pairs: ClusterSums) -> list[float]:
    statements = (
        pairs.means,
        difference_intervals(pairs),
        unseen_losses(pairs),
        clusters_needed(pairs, np.full(pairs.sums.shape[1], 0.02)),
        permutation_p_less(pairs.sums, 2_000),
    )
    return np.concatenate([np.ravel(values) for values in statements]).tolist()


@given(ROWS)
def test_sums_are_those_of_a_plain_loop(rows):
    differences, clusters = in_clusters(rows)
    pairs = sum_clusters(differences, clusters)
    expected = [sum(d for c, d, _ in rows if c == code) for code in sorted(set(clusters.tolist()))]
    assert pairs.sums[:, 0].tolist() == expected
    assert pairs.sizes.sum() == len(rows)
    assert pairs.means == pytest.approx(differences.mean(axis=0))


def test_the_standard_error_of_single_queries_is_the_usual_one():
    differences = np.random.default_rng(0).uniform(-1, 1, 40)
    assert alone(differences).standard_errors[0] == pytest.approx(stats.sem(differences))
    assert alone(differences).n_effective == 40


def test_the_standard_error_of_clusters_is_that_of_their_means_where_they_are_equally_large():
    differences = np.random.default_rng(0).uniform(-1, 1, (30, 4))
    pairs = sum_clusters(differences.reshape(-1, 1), np.repeat(np.arange(30), 4))
    assert pairs.standard_errors[0] == pytest.approx(stats.sem(differences.mean(axis=1)))
    assert pairs.n_effective == pytest.approx(30)


def test_the_standard_error_of_uneven_clusters_is_that_of_the_bootstrap_over_clusters():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 8, 200)
    sums = rng.normal(0, 0.3, 200) * sizes
    pairs = ClusterSums(sums[:, None], sizes.astype(float))
    resampled = stats.bootstrap(
        (sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, rng=2
    )
    assert pairs.standard_errors[0] == pytest.approx(resampled.standard_error, rel=0.05)
    low, high = difference_intervals(pairs)[:, 0]
    assert low == pytest.approx(resampled.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(resampled.confidence_interval.high, abs=0.01)


def test_the_interval_of_many_different_queries_is_students():
    differences = np.random.default_rng(2).uniform(-1, 0.9, 300)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert difference_intervals(alone(differences))[:, 0] == pytest.approx(list(expected))


@pytest.mark.parametrize("n", [10, 50, 500])
def test_without_a_change_the_interval_is_wilsons_of_no_case(n):
    low, high = difference_intervals(alone(np.zeros(n)), level=0.9)[:, 0]
    quantile = stats.t.ppf(0.95, n - 1)
    expected = stats.binomtest(0, n).proportion_ci(2 * stats.norm.cdf(quantile) - 1, method="wilson").high
    assert high == -low == pytest.approx(expected)
    assert unseen_losses(alone(np.zeros(n)))[0] == pytest.approx(expected)


@given(st.integers(2, 200), st.integers(0, 200))
def test_wilsons_interval_is_that_of_scipy(n, successes):
    successes = min(n, successes)
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(np.array(successes / n), n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(ROWS)
def test_an_interval_holds_the_mean_and_stays_within_bounds(rows):
    pairs = sum_clusters(*in_clusters(rows))
    low, high = difference_intervals(pairs)
    assert np.all((low >= -1) & (low <= pairs.means + 1e-12) & (pairs.means <= high + 1e-12) & (high <= 1))
    narrow_low, narrow_high = difference_intervals(pairs, level=0.5)
    assert np.all((low <= narrow_low) & (narrow_high <= high))
    assert np.all((unseen_losses(pairs) > 0) & (unseen_losses(pairs) <= 1))


def test_a_single_cluster_tells_nothing():
    pairs = sum_clusters(np.full((5, 1), -0.5), np.zeros(5, np.int64))
    assert difference_intervals(pairs).ravel().tolist() == [-1, 1]
    assert unseen_losses(pairs).tolist() == [1]
    assert permutation_p(pairs) > 0.4


@settings(max_examples=50)
@given(ROWS, st.randoms(use_true_random=False))
def test_names_of_clusters_and_the_order_of_queries_change_nothing(rows, random):
    said = all_that_is_said(sum_clusters(*in_clusters(rows)))
    names = random.sample(range(100), 6)
    other = random.sample([(names[code], *values) for code, *values in rows], len(rows))
    assert all_that_is_said(sum_clusters(*in_clusters(other))) == pytest.approx(said, abs=1e-12)


@settings(max_examples=50)
@given(ROWS, st.integers(2, 5))
def test_copies_of_queries_within_their_clusters_tell_nothing_new(rows, n_copies):
    said = all_that_is_said(sum_clusters(*in_clusters(rows)))
    assert all_that_is_said(sum_clusters(*in_clusters(rows * n_copies))) == pytest.approx(said)


def test_equal_queries_of_one_product_count_once():
    rng = np.random.default_rng(3)
    lost = np.repeat(rng.random(60) < 0.1, 4).astype(float)
    clustered = sum_clusters(-lost[:, None], np.repeat(np.arange(60), 4))
    assert permutation_p_less(clustered.sums, 20_000)[0] > 100 * permutation_p_less(alone(-lost).sums, 20_000)[0]
    assert difference_intervals(clustered)[0, 0] < difference_intervals(alone(-lost))[0, 0]


def test_as_many_clusters_as_are_needed_show_the_loss():
    rng = np.random.default_rng(4)
    for churn in (0.0, 0.02, 0.2):
        differences = np.where(rng.random(400) < churn, rng.choice([-1.0, 1.0], 400), 0.0)
        needed = int(clusters_needed(alone(differences), np.array([0.02]))[0])
        more = alone(np.resize(differences, needed))
        assert unseen_losses(more)[0] == pytest.approx(0.02, rel=0.1)


def test_pairs_with_an_unknown_side_are_dropped():
    a, b = np.array([1.0, NAN, 0.25, 0.5, NAN]), np.array([0.0, 1.0, NAN, 0.25, NAN])
    clusters = np.array([3, 1, 2, 0, 0])
    known = paired_interval(a[[0, 3]], b[[0, 3]], clusters[[0, 3]])
    assert paired_interval(a, b, clusters) == known
    assert (known.difference, known.n_pairs) == (0.625, 2)


def test_without_pairs_nothing_is_known():
    interval = paired_interval(np.array([NAN]), np.array([1.0]), np.array([0]))
    assert interval.n_pairs == 0
    assert all(math.isnan(value) for value in interval[:3])
    assert permutation_p(sum_pairs(np.array([]), np.array([]), np.array([], np.int64))) == 1


def test_a_constant_difference_is_beyond_chance():
    a = np.random.default_rng(0).random(50) / 2
    difference, low, high, _ = paired_interval(a, a + 0.5, np.arange(50))
    assert difference == pytest.approx(-0.5)
    assert low < -0.5 < high < 0
    assert permutation_p(sum_pairs(a, a + 0.5, np.arange(50))) == pytest.approx(1 / 5001)


def test_runs_of_different_length_are_refused():
    with pytest.raises(DimensionMismatch, match="paired values"):
        paired_interval(np.zeros(3), np.zeros(4), np.zeros(3, np.int64))
    with pytest.raises(DimensionMismatch, match="paired values"):
        sum_pairs(np.zeros(3), np.zeros(3), np.zeros(4, np.int64))


@settings(max_examples=25)
@given(ROWS)
def test_p_is_that_of_all_sign_flips_of_whole_clusters(rows):
    pairs = sum_clusters(*in_clusters(rows))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(pairs.sums))))
    flipped, observed = signs @ pairs.sums, pairs.sums.sum(axis=0)
    less = (flipped <= observed + 1e-9).mean(axis=0)
    # Two hundred extremes tell p to a fourteenth of itself: four such deviations, and the draws of a small p.
    assert np.all(np.abs(permutation_p_less(pairs.sums, 20_000) - less) <= 0.3 * less + 0.002)
    both = (np.abs(flipped[:, 0]) >= np.abs(observed[0]) - 1e-9).mean()
    assert permutation_p(ClusterSums(pairs.sums[:, :1], pairs.sizes)) == pytest.approx(both, abs=0.03)


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_p_is_that_of_the_permutation_test_of_scipy(alternative):
    rng = np.random.default_rng(5)
    pairs = sum_clusters(rng.choice([-1.0, 0.0, 0.0, 0.5], (36, 1)), np.repeat(np.arange(12), 3))
    theirs = stats.permutation_test(
        (pairs.sums[:, 0],), np.sum, permutation_type="samples", n_resamples=10_000, alternative=alternative
    ).pvalue
    ours = permutation_p(pairs, 20_000) if alternative == "two-sided" else permutation_p_less(pairs.sums, 20_000)[0]
    assert ours == pytest.approx(theirs, rel=0.2, abs=0.01)


def test_equal_runs_are_rejected_no_more_often_than_alpha():
    rng = np.random.default_rng(2)
    p = [permutation_p(alone(rng.normal(0, 0.2, 60)), n_resamples=300, seed=seed) for seed in range(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert 0.4 < np.mean(p) < 0.6


def test_a_planted_loss_is_found_and_a_gain_is_not_called_one():
    worse, better = searches_that_differ_by(-0.15, 200, np.random.default_rng(3))
    assert permutation_p_less(alone(worse - better).sums, 10_000)[0] < 0.001
    assert permutation_p(alone(worse - better)) < 0.001
    assert permutation_p_less(alone(better - worse).sums, 10_000)[0] > 0.99


def test_the_seed_decides_everything_and_blocks_change_only_the_draws(monkeypatch):
    pairs = alone(np.subtract(*searches_that_differ_by(0.02, 100, np.random.default_rng(4))))
    assert permutation_p(pairs, seed=1) == permutation_p(pairs, seed=1) != permutation_p(pairs, seed=2)
    whole = permutation_p(pairs)
    monkeypatch.setattr("retrieval_core.metrics.significance.BLOCK_DRAWS", 1000)
    assert permutation_p(pairs) == pytest.approx(whole, abs=0.05)


@settings(max_examples=25)
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
