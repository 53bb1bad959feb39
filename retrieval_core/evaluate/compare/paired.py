"""Paired tests: which differences between two searches of the same queries are more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.metrics.retrieval import Scores
from retrieval_core.metrics.significance import holm, paired_interval, permutation_p, sum_pairs

ALPHA = 0.05
# Draws of a permutation test per test of its table: the smallest p that n draws can show is 1 / (n + 1), and Holm's
# correction multiplies it by the number of tests.
DRAWS_PER_TEST = 1000
MIN_DRAWS, MAX_DRAWS = 5_000, 100_000


class PairedTest(Value):
    """The difference of a metric on the same queries: values less baseline.

    `difference` is that of the means, `low` to `high` its 95% interval, `p` that of the two-sided permutation
    test, and `p_holm` is corrected over all tests of a table.
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
        """The direction of the difference; `same` if chance may explain it."""
        if self.p_holm >= ALPHA or self.difference == 0:
            return "same"
        return "better" if self.difference > 0 else "worse"


def paired_tests(pairs: Sequence[tuple[Float64, Float64]], clusters: Int64) -> list[PairedTest]:
    """Return a test of each (values, baseline), corrected over all of them.

    Both are (n,) float64, NaN where undefined, and both defined for at least two queries. Queries of one of the (n,)
    `clusters` count as one observation.
    """
    n_draws = min(max(MIN_DRAWS, DRAWS_PER_TEST * len(pairs)), MAX_DRAWS)
    p_values = [permutation_p(sum_pairs(values, baseline, clusters), n_draws) for values, baseline in pairs]
    tests = []
    for (values, baseline), p, p_holm in zip(pairs, p_values, holm(p_values), strict=True):
        difference, low, high, n_queries = paired_interval(values, baseline, clusters)
        tests.append(
            PairedTest(
                difference=difference,
                low=low,
                high=high,
                p=p,
                p_holm=p_holm,
                n_queries=n_queries,
                n_better=int((values > baseline).sum()),
                n_worse=int((values < baseline).sum()),
            )
        )
    return tests


def per_query(scores: Scores, metric: str) -> Float64:
    """Return the metric of each query, (q,) float64, NaN where undefined; empty if it is undefined for all."""
    if metric not in scores.per_query.columns:
        return np.empty(0)
    return scores.per_query[metric].fill_null(math.nan).to_numpy()


def n_pairs(values: Float64, baseline: Float64) -> int:
    """Return the number of queries for which both are defined."""
    return 0 if len(values) != len(baseline) else int((~np.isnan(values - baseline)).sum())
