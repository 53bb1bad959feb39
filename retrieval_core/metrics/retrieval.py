"""Score a search: one value a query and metric, from the positions of each query's nearest gallery items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.registry import METRICS, Retrieval, parse_metric
from retrieval_core.metrics.relevance import MAX_CUTOFF, Truth


class Scores(NamedTuple):
    """What a search achieves.

    `per_query` has one row a query, in their order, and one Float64 column a metric, null where the query leaves it
    undefined; a metric that no query defines has no column. `summary` holds the means over the queries that define
    each metric, and the standard deviation of those metrics that report one.
    """

    per_query: pl.DataFrame
    summary: dict[str, float]


def score(positions: Int64, truth: Truth) -> Scores:
    """Score (q, k >= 10) positions in the gallery, nearest first, -1 where fewer were found.

    Raises `DimensionMismatch` where positions and truth do not fit.
    """
    _check(positions, truth)
    retrieval = Retrieval(positions[:, :MAX_CUTOFF], truth)
    columns, summary = {}, {}
    for metric in METRICS:
        values = metric.compute(retrieval) if metric.compute else None
        if values is None or np.isnan(values).all():
            continue
        columns[metric.name] = values
        summary[metric.name] = float(np.nanmean(values))
        if metric.deviation:
            summary[metric.full_name("std")] = float(np.nanstd(values))
    per_query = pl.DataFrame(height=len(positions)).with_columns(pl.Series(*column) for column in columns.items())
    return Scores(per_query.fill_nan(None), summary)


def random_scores(truth: Truth, seed: int) -> Scores:
    """Score retrieval at random: for each query up to 10 gallery items are drawn without replacement."""
    n_found = min(MAX_CUTOFF, truth.gallery.n_items)
    positions = np.full((truth.queries.n_items, MAX_CUTOFF), -1, np.int64)
    positions[:, :n_found] = _draw_distinct(np.random.default_rng(seed), truth, n_found)
    return score(positions, truth)


def random_baseline(truth: Truth, seed: int) -> dict[str, float]:
    """Return the summary of `random_scores` under the names of baselines: `map@5_random`, `label_iou@5_random_std`."""
    baseline = {}
    for name, value in random_scores(truth, seed).summary.items():
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


def _draw_distinct(rng: np.random.Generator, truth: Truth, n_drawn: int) -> Int64:
    """(q, n_drawn) gallery positions, distinct within a row and uniform, without shuffling a gallery for each query."""
    drawn = np.empty((truth.queries.n_items, 0), np.int64)
    for i in range(n_drawn):
        # The r-th of the items not drawn yet lies behind every drawn item that is at or before it.
        pick = rng.integers(0, truth.gallery.n_items - i, len(drawn))
        for earlier in np.sort(drawn, axis=1).T:
            pick += pick >= earlier
        drawn = np.column_stack([drawn, pick])
    return drawn
