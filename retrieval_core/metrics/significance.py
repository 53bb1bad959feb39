"""Significance of the difference between two searches that are measured on the same queries.

Pictures of one product are found or missed together, so the observations are products, not pictures. Every function
works on `ClusterSums`: the paired differences, in -1 to 1, summed over each cluster of queries that belong together.
With one query a cluster these are the usual paired methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.errors import DimensionMismatch

BLOCK_DRAWS = 4_000_000
FLIPS_AT_ONCE = 5_000
ENOUGH_EXTREMES = 200  # the relative standard error of p is then 1/14
Z = 1.959964  # 95% of a normal distribution lie within +-Z


class Interval(NamedTuple):
    """The mean difference of `n_pairs` pairs and its 95% confidence interval; all NaN without pairs."""

    difference: float
    low: float
    high: float
    n_pairs: int


class ClusterSums(NamedTuple):
    """The (g, m) sums of m metrics over g clusters of queries, and the (g,) numbers of queries in them."""

    sums: Float64
    sizes: Float64

    @property
    def means(self) -> Float64:
        """(m,) means over all queries."""
        means: Float64 = self.sums.sum(axis=0) / self.sizes.sum()
        return means

    @property
    def standard_errors(self) -> Float64:
        """(m,) cluster-robust standard errors of the means; infinite with a single cluster.

        Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986.
        """
        n_clusters = len(self.sizes)
        if n_clusters < 2:
            return np.full(self.sums.shape[1], np.inf)
        residuals = self.sums - self.sizes[:, None] * self.means
        variances = n_clusters / (n_clusters - 1) * (residuals**2).sum(axis=0)
        errors: Float64 = np.sqrt(variances) / self.sizes.sum()
        return errors

    @property
    def n_effective(self) -> float:
        """The number of clusters of equal size that tell as much (Kish, "Survey Sampling", 1965)."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())


def sum_clusters(differences: Float64, clusters: Int64) -> ClusterSums:
    """Sum (n >= 1, m) differences over the queries of each cluster; `clusters` (n,) are codes in any order."""
    order = np.argsort(clusters, kind="stable")
    _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    return ClusterSums(np.add.reduceat(differences[order], starts, axis=0), sizes.astype(np.float64))


def sum_pairs(a: Float64, b: Float64, clusters: Int64) -> ClusterSums | None:
    """Sum the differences a - b of (n,) values over clusters, without the pairs that are NaN on a side.

    None where no pair is left. Raises `DimensionMismatch`.
    """
    if a.ndim != 1 or not a.shape == b.shape == clusters.shape:
        raise DimensionMismatch(
            f"paired values of shapes {a.shape} and {b.shape} in clusters {clusters.shape}, expected three equal (n,)"
        )
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    is_pair = ~np.isnan(differences)
    return sum_clusters(differences[is_pair, None], clusters[is_pair]) if is_pair.any() else None


def paired_interval(a: Float64, b: Float64, clusters: Int64) -> Interval:
    """Return the mean of a - b, (n,) values in 0 to 1, with its interval. Raises `DimensionMismatch`."""
    pairs = sum_pairs(a, b, clusters)
    if pairs is None:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = difference_intervals(pairs)[:, 0].tolist()
    return Interval(float(pairs.means[0]), low, high, int(pairs.sizes.sum()))


def difference_intervals(pairs: ClusterSums, level: float = 0.95) -> Float64:
    """Return the low and high ends, (2, m), of the confidence intervals of the mean differences, in -1 to 1.

    Student's t with the cluster-robust standard error. Where few queries differ their spread says little, so each end
    is at least as far away as Wilson's for the share of clusters that changed wholly and were not drawn: without any
    change the ends lie at about 4 / (number of clusters). `python -m benchmarks.gate` measures how often they cover.
    """
    reach, means = _student(pairs, (1 + level) / 2) * pairs.standard_errors, pairs.means
    unseen = [_unseen(sign * means, pairs, (1 + level) / 2) for sign in (-1, 1)]
    return np.clip([means - np.maximum(reach, unseen[0]), means + np.maximum(reach, unseen[1])], -1.0, 1.0)


def unseen_losses(pairs: ClusterSums, confidence: float = 0.95) -> Float64:
    """Return the loss, (m,) in 0 to 1, that cannot be excluded with this confidence even where the means are equal."""
    reach = _student(pairs, confidence) * pairs.standard_errors
    return np.minimum(np.maximum(reach, _unseen(np.zeros(len(reach)), pairs, confidence)), 1.0)


def clusters_needed(pairs: ClusterSums, max_losses: Float64, confidence: float = 0.95) -> Float64:
    """Return about how many clusters like these bring the unseen losses down to `max_losses`, both (m,).

    The standard error falls with the root of their number, and Wilson's end with their number. A loss below 0.001
    counts as 0.001.
    """
    max_losses, n_clusters = np.maximum(max_losses, 1e-3), len(pairs.sizes)
    errors = pairs.standard_errors if n_clusters > 1 else np.zeros(pairs.sums.shape[1])
    quantile = NormalDist().inv_cdf(confidence)
    by_spread = n_clusters * (quantile * errors / max_losses) ** 2
    by_number = quantile**2 * (1 / max_losses - 1) * n_clusters / pairs.n_effective
    return np.ceil(np.maximum(by_spread, by_number))


def _student(pairs: ClusterSums, probability: float) -> float:
    """Return the quantile of Student's t for these clusters; infinite with a single one."""
    from scipy.special import stdtrit

    return float(stdtrit(pairs.n_effective - 1, probability)) if len(pairs.sizes) > 1 else float("inf")


def _unseen(means: Float64, pairs: ClusterSums, probability: float) -> Float64:
    """Return how far Wilson's upper end lies above each of (m,) means, those below 0 counting as 0."""
    if len(pairs.sizes) < 2:
        return np.full(len(means), np.inf)
    shares = np.clip(means, 0.0, 1.0)
    return wilson(shares, pairs.n_effective, _student(pairs, probability))[1] - shares


def wilson(shares: Float64, n: float, z: float = Z) -> tuple[Float64, Float64]:
    """Return the ends of Wilson's interval of each share of n observations ("Probable inference", JASA 1927)."""
    centres, scale = shares + z**2 / (2 * n), 1 + z**2 / n
    reach = z * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
    return np.maximum((centres - reach) / scale, 0.0), np.minimum((centres + reach) / scale, 1.0)


def permutation_p(pairs: ClusterSums | None, n_resamples: int = 5000, seed: int = 0) -> float:
    """Return p, in (0, 1], of the two-sided sign-flip test that the mean of the one metric of `pairs` is 0.

    The sign of a whole cluster is drawn. The observed signs count as one of the draws (Phipson and Smyth, 2010), so p
    is never 0 and the test never exceeds its level. Where no cluster differs p is 1.
    """
    moved = _moved(pairs.sums) if pairs else np.zeros((0, 1))
    if not len(moved):
        return 1.0
    sizes, observed = np.abs(moved), np.abs(moved.sum(axis=0))
    rng, n_extreme = np.random.default_rng(seed), 0
    step = max(1, BLOCK_DRAWS // len(moved))
    for start in range(0, n_resamples, step):
        sums = _flipped(rng, min(step, n_resamples - start), sizes)
        n_extreme += int((np.abs(sums) >= observed - _slack(sizes)).sum())
    return (1 + n_extreme) / (1 + n_resamples)


def permutation_p_less(sums: Float64, max_resamples: int, seed: int = 0) -> Float64:
    """Return p of the one-sided sign-flip test ("less") of each column of (g, m) sums over clusters, (m,) in (0, 1].

    The test is exact where the sum of a cluster is as likely as its negative, however its queries depend on each other
    (Canay, Romano and Shaikh, "Randomization tests under an approximate symmetry assumption", Econometrica 2017). Signs
    are drawn for a column until `ENOUGH_EXTREMES` draws are as low as it, and p is their share, or until
    `max_resamples`. So a column that is clearly no loss costs little, and no p is too small (Besag and Clifford,
    "Sequential Monte Carlo p-values", 1991).
    """
    moved = _moved(sums)
    sizes, observed = np.abs(moved), moved.sum(axis=0)
    rng, n_drawn = np.random.default_rng(seed), 0
    p = np.ones(sums.shape[1])
    n_extreme = np.zeros(len(p), np.int64)
    is_open = (sizes > 0).any(axis=0)
    while n_drawn < max_resamples and is_open.any():
        n_rows = min(FLIPS_AT_ONCE, max(1, BLOCK_DRAWS // len(moved)), max_resamples - n_drawn)
        running = n_extreme + (_flipped(rng, n_rows, sizes) <= observed + _slack(sizes)).cumsum(axis=0)
        n_extreme = running[-1]
        enough = is_open & (n_extreme >= ENOUGH_EXTREMES)
        n_draws = n_drawn + 1 + (running >= ENOUGH_EXTREMES).argmax(axis=0)
        p[enough] = ENOUGH_EXTREMES / n_draws[enough]
        n_drawn += n_rows
        is_open &= ~enough
    p[is_open] = (1 + n_extreme[is_open]) / (1 + n_drawn)
    return p


def _moved(sums: Float64) -> Float64:
    """Return the clusters in which a metric differs, in an order that depends on their sums only."""
    moved = sums[(sums != 0).any(axis=1)]
    return moved[np.lexsort(moved.T)] if moved.size else moved


def _flipped(rng: np.random.Generator, n_rows: int, sizes: Float64) -> Float64:
    """Return sums of (g, m) sizes with random signs, (n_rows, m); a cluster has one sign."""
    n = len(sizes)
    flips = np.unpackbits(rng.integers(0, 256, (n_rows, (n + 7) // 8), dtype=np.uint8), axis=1)[:, :n]
    sums: Float64 = 2 * (flips @ sizes) - sizes.sum(axis=0)
    return sums


def _slack(sizes: Float64) -> Float64:
    """Return the difference below which two sums are ties that differ only in the order of addition."""
    return np.asarray(1e-9 * sizes.sum(axis=0))


def can_reject(n_differing: Int64, alpha: float) -> Bool:
    """Return which of m one-sided sign-flip tests can reject at all, given the number of clusters that differ in each.

    With d differing clusters no p is below 2^-d. A test whose least p passes no corrected level can never reject, so
    the others need not be corrected for it (Tarone, "A modified Bonferroni method for discrete data", 1990). The choice
    depends on the sizes of differences only, and the test draws only signs, so that the correction stays exact.
    """
    least_p = 0.5 ** n_differing.astype(np.float64)
    for n_tests in range(1, len(least_p) + 1):
        can = least_p < alpha / n_tests
        if can.sum() <= n_tests:
            return np.asarray(can)
    return np.zeros(len(least_p), np.bool_)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p-values in the given order, which control the family-wise error.

    NaN stays NaN and does not count as a test.
    """
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return [float(value) for value in adjusted]
