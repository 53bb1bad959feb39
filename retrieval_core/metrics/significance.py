"""Significance of the difference between two searches that are measured on the same queries.

Values are paired: one a query, (n,), NaN where a query leaves the metric undefined; pairs with a NaN on either side are
dropped. Bootstrap and permutation follow Smucker, Allan and Carterette, "A comparison of statistical significance tests
for information retrieval evaluation", CIKM 2007. Several metrics of the same queries are (n, m) differences without
NaN; they share the random draws, so that resampling all of them is one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.errors import DimensionMismatch

BLOCK_DRAWS = 4_000_000
FLIPS_AT_ONCE = 5_000
ENOUGH_EXTREMES = 200  # the relative standard error of p is then 1/14

Alternative = Literal["two-sided", "less"]


class Interval(NamedTuple):
    """The mean of paired differences a - b over `n_pairs`, and its confidence interval.

    All NaN without pairs; -inf to inf with a single pair, which has no spread.
    """

    difference: float
    low: float
    high: float
    n_pairs: int


def paired_bootstrap(a: Float64, b: Float64, n_resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return the percentile bootstrap interval of mean(a - b) over queries. Raises `DimensionMismatch`."""
    differences = _differences(a, b)
    n = len(differences)
    if n < 2:
        mean = float(differences.sum()) if n else float("nan")
        return Interval(mean, mean - float("inf"), mean + float("inf"), n)
    low, high = bootstrap_intervals(differences[:, None], n_resamples, seed, level)[:, 0]
    return Interval(float(differences.mean()), float(low), float(high), n)


def bootstrap_intervals(differences: Float64, n_resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Float64:
    """Return the low and high ends, (2, m), of the bootstrap intervals of the means of (n >= 1, m) differences."""
    rng, n = np.random.default_rng(seed), len(differences)
    sums = [_counts(rng, n_rows, n) @ differences for n_rows in _blocks(n_resamples, n)]
    ends: Float64 = np.quantile(np.concatenate(sums) / n, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends


def _counts(rng: np.random.Generator, n_rows: int, n: int) -> Float64:
    """Return how often each of n queries is drawn when n are drawn with replacement, (n_rows, n)."""
    drawn = rng.integers(0, n, (n_rows, n), dtype=np.int32) + n * np.arange(n_rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_rows * n).reshape(n_rows, n).astype(np.float64)


def paired_permutation_p(
    a: Float64, b: Float64, n_resamples: int = 5000, seed: int = 0, alternative: Alternative = "two-sided"
) -> float:
    """Return p of the sign-flip permutation test of mean(a - b) = 0, in (0, 1]; "less" tests whether a is below b.

    The observed signs count as one of the draws (Phipson and Smyth, 2010), so p is never 0 and the test never exceeds
    its level. Where no pair differs p is 1. Raises `DimensionMismatch`.
    """
    differences = _differences(a, b)
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    observed = differences.sum()
    slack = _slack(sizes)
    rng = np.random.default_rng(seed)
    n_extreme = 0
    for n_rows in _blocks(n_resamples, len(sizes)):
        sums = _flipped(rng, n_rows, sizes)
        extreme = sums <= observed + slack if alternative == "less" else np.abs(sums) >= abs(observed) - slack
        n_extreme += int(extreme.sum())
    return (1 + n_extreme) / (1 + n_resamples)


def permutation_p_less(differences: Float64, max_resamples: int, seed: int = 0) -> Float64:
    """Return p of the one-sided sign-flip test ("less") of each column of (n, m) differences, (m,) in (0, 1].

    Signs are drawn for a column until `ENOUGH_EXTREMES` draws are as low as it, and p is their share, or until
    `max_resamples`. So a column that is clearly no loss costs little, and no p is too small (Besag and Clifford,
    "Sequential Monte Carlo p-values", 1991).
    """
    moved = differences[(differences != 0).any(axis=1)]
    sizes, observed = np.abs(moved), moved.sum(axis=0)
    rng, n_drawn = np.random.default_rng(seed), 0
    p = np.ones(differences.shape[1])
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


def _flipped(rng: np.random.Generator, n_rows: int, sizes: Float64) -> Float64:
    """Return sums of (n,) or (n, m) sizes with random signs, (n_rows,) or (n_rows, m); a query has one sign."""
    n = len(sizes)
    flips = np.unpackbits(rng.integers(0, 256, (n_rows, (n + 7) // 8), dtype=np.uint8), axis=1)[:, :n]
    sums: Float64 = 2 * (flips @ sizes) - sizes.sum(axis=0)
    return sums


def _slack(sizes: Float64) -> Float64:
    """Return the difference below which two sums are ties that differ only in the order of addition."""
    return np.asarray(1e-9 * sizes.sum(axis=0))


def can_reject(n_differing: Int64, alpha: float) -> Bool:
    """Return which of m one-sided sign-flip tests can reject at all, given the number of pairs that differ in each.

    With d differing pairs no p is below 2^-d. A test whose least p passes no corrected level can never reject, so the
    others need not be corrected for it (Tarone, "A modified Bonferroni method for discrete data", 1990). The choice
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


def _differences(a: Float64, b: Float64) -> Float64:
    if a.ndim != 1 or a.shape != b.shape:
        raise DimensionMismatch(f"paired values of shapes {a.shape} and {b.shape}, expected two equal (n,)")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return differences[~np.isnan(differences)]


def _blocks(n_resamples: int, n_pairs: int) -> Iterator[int]:
    """Split `n_resamples` into blocks of rows, so that rows times n_pairs stays within `BLOCK_DRAWS`."""
    step = max(1, BLOCK_DRAWS // n_pairs)
    return (min(step, n_resamples - start) for start in range(0, n_resamples, step))
