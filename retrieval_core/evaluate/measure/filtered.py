"""Recall under filters: what the published index finds within a selection, against exact search within it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.setup import K, SearchSetup, hash_rows, single_query_ms
from retrieval_core.metrics.ranking import ann_recall

PERCENTS = (50.0, 10.0, 1.0, 0.1)
CATEGORY = "where_category"
N_CATEGORIES = 20  # the most frequent ones, each measured alone
N_CATEGORY_QUERIES = 200  # spread over all queries; most of them are of another category
N_FIRST, N_QUERIES = 200, 500  # that search in each other filter: more than the first where these leave a wide interval
MAX_MARGIN = 0.01  # on each side of a recall, of its 95% interval
N_TIMED = 30

Find = Callable[[Int64], tuple[Float32, Int64]]


class FilterFacts(Value):
    """Recall@10 within a selection of `n_rows`, which the index seeks first, or 1 where all are compared (`how`).

    `name` is the scope of its metric, `meaning` describes the selection. Of several selections `recall` is the mean and
    `n_rows` the total.
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
    """Return filters that pass 50, 10, 1 and 0.1% of the rows by a hash of their ids, and the most frequent categories.

    Rows of one category lie close together and far from most queries, unlike random rows. The filter `where_categories`
    passes the most frequent categories that together hold half of the rows, the others pass one each. Filters that pass
    fewer than ten rows are left out, and so is a category that all items have.
    """
    return [selection for selection in _filters(items, seed) if len(selection.rows) >= K]


def _filters(items: pl.DataFrame, seed: int) -> Iterator[Filter]:
    shares = hash_rows(items["row_id"].to_numpy(), seed) / 2.0**64
    for percent in PERCENTS:
        rows = np.flatnonzero(shares < percent / 100)
        yield Filter(f"where{percent:g}", f"{percent:g}% of the rows", rows)
    counts = items["category"].drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    categories = counts.filter(pl.col("count") < len(items))["category"].to_list()
    n_half = int((counts["count"].cum_sum() < len(items) / 2).sum()) + 1
    if 1 < n_half < len(categories):
        rows = _rows_of(items, categories[:n_half])
        yield Filter("where_categories", f"any of the {n_half:,} most frequent categories", rows)
    for category in categories[:N_CATEGORIES]:
        yield Filter(CATEGORY, f"category {category}", _rows_of(items, [category]))


def _rows_of(items: pl.DataFrame, categories: list[str]) -> Int64:
    is_in = items["category"].is_in(categories).fill_null(False)
    return is_in.arg_true().to_numpy().astype(np.int64)


def measure_filters(setup: SearchSetup, seed: int) -> tuple[FilterFacts, ...]:
    """Measure the search under each of `choose_filters`; return none where there are no queries.

    Several categories become the means over all of them, and the worst of them as `where_category_worst`.
    """
    queries = setup.protocol.queries
    if not len(queries):
        return ()
    chosen = choose_filters(setup.items, seed)
    many = queries[:: -(-len(queries) // N_QUERIES)]
    facts = [_measure(setup, part, many, N_TIMED) for part in chosen if part.name != CATEGORY]
    categories = [part for part in chosen if part.name == CATEGORY]
    some = queries[:: -(-len(queries) // N_CATEGORY_QUERIES)]
    n_timed = -(-N_TIMED // max(len(categories), 1))
    by_category = [_measure(setup, category, some, n_timed) for category in categories]
    return (*facts, *(by_category if len(by_category) < 2 else _summarised(by_category)))


def _summarised(by_category: list[FilterFacts]) -> tuple[FilterFacts, FilterFacts]:
    worst = min(by_category, key=lambda facts: facts.recall)
    every = FilterFacts(
        name=CATEGORY,
        meaning=f"each of the {len(by_category)} most frequent categories",
        n_rows=sum(facts.n_rows for facts in by_category),
        recall=float(np.mean([facts.recall for facts in by_category])),
        latency_ms_p50=float(np.median([facts.latency_ms_p50 for facts in by_category])),
        how="exact" if all(facts.how == "exact" for facts in by_category) else "selector",
    )
    return every, worst.model_copy(update={"name": f"{CATEGORY}_worst", "meaning": f"{worst.meaning}, the worst"})


def _measure(setup: SearchSetup, chosen: Filter, queries: Int64, n_timed: int) -> FilterFacts:
    selection = setup.index.select(setup.items["row_id"].to_numpy()[chosen.rows])
    find = partial(setup.find, only=selection)
    recall = 1.0
    if not selection.is_exact:
        first = queries[:: -(-len(queries) // N_FIRST)]
        recalls = _recalls(setup, chosen, find, first)
        if 1.96 * recalls.std() > MAX_MARGIN * len(recalls) ** 0.5:
            rest = np.setdiff1d(queries, first)
            recalls = np.concatenate([recalls, _recalls(setup, chosen, find, rest)])
        recall = float(recalls.mean())
    return FilterFacts(
        name=chosen.name,
        meaning=chosen.meaning,
        n_rows=len(chosen.rows),
        recall=recall,
        latency_ms_p50=float(np.median(single_query_ms(find, queries[:n_timed]))),
        how="exact" if selection.is_exact else "selector",
    )


def _recalls(setup: SearchSetup, chosen: Filter, find: Find, rows: Int64) -> Float64:
    exact, _ = setup.exact(f"{chosen.name} {chosen.meaning}", rows, chosen.rows)
    return ann_recall(exact, find(rows)[0])
