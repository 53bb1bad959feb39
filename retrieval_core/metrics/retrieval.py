"""Score a search: one value a query and metric, from the positions of each query's nearest gallery items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.per_query import Retrieval
from retrieval_core.metrics.registry import METRICS, parse_metric
from retrieval_core.metrics.relevance import MAX_CUTOFF, Truth


class Scores(NamedTuple):
    """What a search achieves.

    `per_query` has one row a query, in their order, and one Float64 column a metric, null where the query leaves it
    undefined; a metric that no query defines has no column. `summary` holds the means over the queries that define
    each metric, and the standard deviation of those metrics that report one.
    """

    per_query: pl.DataFrame
    summary: dict[str, float]


def score(positions: Int64, truth: Truth, ranking: Mapping[str, Float64] | None = None) -> Scores:
    """Score (q, k >= 10) positions in the gallery, nearest first, -1 where fewer were found.

    `ranking` are the metrics of the whole ranking by name, if they were measured. Raises `DimensionMismatch` where
    positions and truth do not fit.
    """
    _check(positions, truth)
    retrieval = Retrieval(positions[:, :MAX_CUTOFF], truth)
    values = {metric.name: metric.compute(retrieval) for metric in METRICS if metric.compute}
    return summarise(values | dict(ranking or {}), len(positions))


def summarise(values: Mapping[str, Float64 | None], n_queries: int) -> Scores:
    """Return the scores of metrics by name, each (q,) with NaN where undefined, or None."""
    defined = {name: column for name, column in values.items() if column is not None and not np.isnan(column).all()}
    summary = {}
    for name, column in defined.items():
        summary[name] = float(np.nanmean(column))
        metric = parse_metric(name).metric
        if metric.deviation:
            summary[metric.full_name("std")] = float(np.nanstd(column))
    per_query = pl.DataFrame(height=n_queries).with_columns(pl.Series(*column) for column in defined.items())
    return Scores(per_query.fill_nan(None), summary)


def random_scores(truth: Truth) -> Scores:
    """Return the expected scores of each query where the gallery is in random order, and their exact summary.

    A standard deviation counts how values vary over queries, and over the order.
    """
    expected: dict[str, Float64 | None] = {}
    variances: dict[str, Float64] = {}
    for metric in METRICS:
        if metric.chance:
            expected[metric.name] = metric.chance(truth)
        elif metric.chance_moments and (moments := metric.chance_moments(truth)):
            expected[metric.name], variances[metric.full_name("std")] = moments
    scores = summarise(expected, truth.queries.n_items)
    for name in variances.keys() & scores.summary.keys():
        scores.summary[name] = float(np.sqrt(scores.summary[name] ** 2 + np.nanmean(variances[name])))
    return scores


def random_baseline(truth: Truth) -> dict[str, float]:
    """Return the summary of `random_scores` under the names of baselines: `map@5_random`, `label_iou@5_random_std`."""
    baseline = {}
    for name, value in random_scores(truth).summary.items():
        metric, statistic, _ = parse_metric(name)
        baseline[metric.full_name("random_std" if statistic == "std" else "random")] = value
    return baseline


def _check(positions: Int64, truth: Truth) -> None:
    n_queries, n_gallery = truth.queries.n_items, truth.gallery.n_items
    if positions.ndim != 2 or positions.shape[0] != n_queries or positions.shape[1] < MAX_CUTOFF:
        raise DimensionMismatch(f"positions of shape {positions.shape}, expected ({n_queries}, {MAX_CUTOFF} or more)")
    if positions.size and not -1 <= positions.min() <= positions.max() < n_gallery:
        raise DimensionMismatch(
            f"positions {positions.min()} to {positions.max()}, "
            f"expected -1 to {n_gallery - 1} in a gallery of {n_gallery} items"
        )
