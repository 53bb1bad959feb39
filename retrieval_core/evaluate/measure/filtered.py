"""Recall under filters: what the published index finds within a selection, against exact search within it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.setup import K, SearchSetup, hash_rows, single_query_ms
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.ranking import ann_recall

PERCENTS = (50.0, 10.0, 1.0, 0.1)
N_TIMED = 30
BLOCK_ROWS = 100_000  # rows of a selection copied at a time


class FilterFacts(Value):
    """Recall@10 within a selection of `n_rows`, whose rows are compared exactly or found by the index (`how`).

    `name` is the scope of its metric, `meaning` describes the selection.
    """

    name: str
    meaning: str
    n_rows: int
    recall: float
    latency_ms_p50: float
    how: Literal["exact", "selector"]


class Filter(NamedTuple):
    """A selection to search in; `rows` are positions in the items, `name` is the scope of its metrics."""

    name: str
    meaning: str
    rows: Int64


def choose_filters(items: pl.DataFrame, seed: int) -> list[Filter]:
    """Return filters that pass 50, 10, 1 and 0.1% of the rows by a hash of their ids, and the most frequent category.

    Rows of one category lie close together, unlike random rows, so that a search of few lists finds all or none of
    them. Filters that pass fewer than ten rows are left out, and so is a category that all items have.
    """
    return [selection for selection in _filters(items, seed) if len(selection.rows) >= K]


def _filters(items: pl.DataFrame, seed: int) -> Iterator[Filter]:
    shares = hash_rows(items["row_id"].to_numpy(), seed) / 2.0**64
    for percent in PERCENTS:
        rows = np.flatnonzero(shares < percent / 100)
        yield Filter(f"where{percent:g}", f"{percent:g}% of the rows", rows)
    counts = items["category"].drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    if len(counts) and counts["count"][0] < len(items):
        category = counts["category"][0]
        rows = (items["category"] == category).fill_null(False).arg_true().to_numpy().astype(np.int64)
        yield Filter("where_category", f"category {category}", rows)


def measure_filters(setup: SearchSetup, seed: int) -> tuple[FilterFacts, ...]:
    """Measure the search under each of `choose_filters`; none where there are no queries."""
    if not len(setup.protocol.queries):
        return ()
    return tuple(_measure(setup, chosen) for chosen in choose_filters(setup.items, seed))


def _measure(setup: SearchSetup, chosen: Filter) -> FilterFacts:
    queries = setup.protocol.queries
    selection = setup.index.select(setup.items["row_id"].to_numpy()[chosen.rows])
    find = partial(setup.find, only=selection)
    found, _ = find(queries)
    recall = ann_recall(_exact_scores(setup, chosen.rows), found)
    return FilterFacts(
        name=chosen.name,
        meaning=chosen.meaning,
        n_rows=len(chosen.rows),
        recall=float(recall.mean()),
        latency_ms_p50=float(np.median(single_query_ms(find, queries[:N_TIMED]))),
        how="exact" if selection.is_exact else "selector",
    )


def _exact_scores(setup: SearchSetup, rows: Int64) -> Float32:
    """Return the scores of each query's exact nearest among `rows`, (q, 10), falling."""
    queries = setup.vectors[setup.protocol.queries]
    best = np.full((len(queries), K), -np.inf, np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        scores, _ = exact_topk(queries, setup.vectors[rows[start : start + BLOCK_ROWS]], K)
        best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, : -K - 1 : -1]
    return best
