"""Is a difference between two searches, measured on the same queries, more than chance?

Everything works on paired values, one a query, (n,) float64 with NaN where a query leaves the metric undefined; pairs
with a NaN on either side are dropped. Bootstrap and permutation as in Smucker, Allan and Carterette, "A comparison of
statistical significance tests for information retrieval evaluation", CIKM 2007.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval_core.errors import DimensionMismatch

BLOCK_DRAWS = 4_000_000

Float64 = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "less"]


class Interval(NamedTuple):
    """A mean paired difference a - b over `n_pairs`, and its confidence interval.

    All NaN without pairs; with a single pair the interval is -inf to inf, for one pair tells nothing about spread.
    """

    difference: float
    low: float
    high: float
    n_pairs: int


def paired_bootstrap(a: Float64, b: Float64, n_resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of mean(a - b), queries resampled with replacement. Raises `DimensionMismatch`."""
    differences = _differences(a, b)
    n = len(differences)
    if n < 2:
        mean = float(differences.sum()) if n else float("nan")
        return Interval(mean, mean - float("inf"), mean + float("inf"), n)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[rng.integers(0, n, (n_rows, n), dtype=np.int32)].mean(axis=1)
            for n_rows in _blocks(n_resamples, n)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), n)


def paired_permutation_p(
    a: Float64, b: Float64, n_resamples: int = 5000, seed: int = 0, alternative: Alternative = "two-sided"
) -> float:
    """p of the sign-flip permutation test of mean(a - b) = 0, in (0, 1]; "less" asks only whether a is below b.

    Counts the observed arrangement among the drawn ones (Phipson and Smyth, 2010), so p is never 0 and the test never
    exceeds its level. Without a pair that differs, p is 1. Raises `DimensionMismatch`.
    """
    differences = _differences(a, b)
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    observed = differences.sum()
    # Sums that are equal but for the order of addition count as ties.
    slack = 1e-9 * sizes.sum()
    rng = np.random.default_rng(seed)
    n_extreme = 0
    for n_rows in _blocks(n_resamples, len(sizes)):
        flips = np.unpackbits(rng.integers(0, 256, (n_rows, (len(sizes) + 7) // 8), dtype=np.uint8), axis=1)
        sums = 2 * (flips[:, : len(sizes)] @ sizes) - sizes.sum()
        extreme = sums <= observed + slack if alternative == "less" else np.abs(sums) >= abs(observed) - slack
        n_extreme += int(extreme.sum())
    return (1 + n_extreme) / (1 + n_resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: below alpha, they keep the family-wise error below alpha.

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
    """Row counts that add up to `n_resamples`, so that rows times n_pairs stays within `BLOCK_DRAWS`."""
    step = max(1, BLOCK_DRAWS // n_pairs)
    return (min(step, n_resamples - start) for start in range(0, n_resamples, step))
