"""Who queries whom: held-out pictures against the rest of the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.config import EvaluateConfig
from retrieval_core.metrics.relevance import Judgements, Truth, encode, find_truth


class Protocol(NamedTuple):
    """Rows of the items table, in its order: (q,) and (g,) int64, disjoint; and what a perfect search would find."""

    queries: Int64
    gallery: Int64
    truth: Truth
    judgements: Judgements


def choose_protocol(items: pl.DataFrame, config: EvaluateConfig) -> Protocol:
    """Draw up to `config.queries` queries from the held-out rows of `items` (split, product_id and what judges).

    Where the source names a gallery, that is searched; otherwise every row that does not query. A product shown in
    several pictures gives at most half of them as queries, so that the other half can be found.
    """
    held_out = items.with_row_index("row").filter(pl.col("split").is_in(HELD_OUT))
    shuffled = held_out.sample(fraction=1.0, shuffle=True, seed=config.seed)
    named_gallery = items["split"] == "gallery"
    if not named_gallery.any():
        rank = pl.int_range(pl.len()).over("product_id")
        at_most = pl.max_horizontal(pl.len().over("product_id") // 2, 1)
        shuffled = shuffled.filter(pl.col("product_id").is_null() | (rank < at_most))
    queries = np.sort(shuffled["row"].to_numpy().astype(np.int64)[: config.queries])
    asked = np.zeros(len(items), np.bool_)
    asked[queries] = True
    searched = named_gallery.to_numpy() if named_gallery.any() else ~asked
    gallery = np.flatnonzero(searched).astype(np.int64)
    judgements = encode(items)
    truth = find_truth(judgements.take(queries), judgements.take(gallery))
    return Protocol(queries, gallery, truth, judgements)


def positions_in_gallery(row_ids: Int64, gallery_row_ids: Int64, k: int) -> Int64:
    """The first k of each query's (q, any) hits that lie in the gallery, as (q, k) positions in it, padded with -1."""
    order = np.argsort(gallery_row_ids, kind="stable")
    ordered = gallery_row_ids[order]
    slots = np.minimum(np.searchsorted(ordered, row_ids), max(len(ordered) - 1, 0))
    inside = ordered[slots] == row_ids if len(ordered) else np.zeros(row_ids.shape, np.bool_)
    out = np.full((len(row_ids), k), -1, np.int64)
    rank = np.cumsum(inside, axis=1) - 1
    rows, columns = np.nonzero(inside & (rank < k))
    out[rows, rank[rows, columns]] = order[slots[rows, columns]]
    return out
