"""Differences between two searches of the same queries, and which of a family of them are more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from retrieval_core.arrays import Float64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.metrics.retrieval import Scores
from retrieval_core.metrics.significance import holm, paired_bootstrap, paired_permutation_p

ALPHA = 0.05
# Of a permutation test, for each test of its table: the least p that n draws can show is 1 / (n + 1), and Holm's
# correction multiplies it by the number of tests.
DRAWS_PER_TEST = 1000
MIN_DRAWS, MAX_DRAWS = 5_000, 100_000


class PairedTest(Value):
    """A difference on the same queries, ours less theirs, in the mean and query by query.

    `low` to `high` is its 95% bootstrap interval, `p` of the two-sided permutation test, `p_holm` corrected over its
    family.
    """

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n_queries: int
    n_better: int
    n_worse: int

    @property
    def verdict(self) -> Literal["better", "worse", "same"]:
        """`same` is whatever chance may explain."""
        if self.p_holm >= ALPHA or self.difference == 0:
            return "same"
        return "better" if self.difference > 0 else "worse"


def paired_tests(pairs: Sequence[tuple[Float64, Float64]]) -> list[PairedTest]:
    """Test each (ours, theirs), two (n,) with NaN where undefined and 2 pairs or more, and correct over all of them."""
    n_draws = min(max(MIN_DRAWS, DRAWS_PER_TEST * len(pairs)), MAX_DRAWS)
    p_values = [paired_permutation_p(ours, theirs, n_draws) for ours, theirs in pairs]
    tests = []
    for (ours, theirs), p, p_holm in zip(pairs, p_values, holm(p_values), strict=True):
        difference, low, high, n_queries = paired_bootstrap(ours, theirs)
        n_better, n_worse = int((ours > theirs).sum()), int((ours < theirs).sum())
        tests.append(
            PairedTest(
                difference=difference,
                low=low,
                high=high,
                p=p,
                p_holm=p_holm,
                n_queries=n_queries,
                n_better=n_better,
                n_worse=n_worse,
            )
        )
    return tests


def per_query(scores: Scores, metric: str) -> Float64:
    """(q,) float64, NaN where a query leaves the metric undefined; empty where all do."""
    if metric not in scores.per_query.columns:
        return np.empty(0)
    return scores.per_query[metric].fill_null(math.nan).to_numpy()


def n_pairs(ours: Float64, theirs: Float64) -> int:
    """How many queries define both."""
    return 0 if len(ours) != len(theirs) else int((~np.isnan(ours - theirs)).sum())
