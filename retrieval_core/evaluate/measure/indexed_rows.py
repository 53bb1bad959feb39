"""The items of a release and their exact neighbours among the rows of its index, to compare two releases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.evaluate.measure.setup import hash_rows
from retrieval_core.index.lookup import ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.index.topk import best_of
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.store.base import Store

BLOCK_ROWS = 32_768  # vectors compared at a time: 64 MiB at 512 dimensions
COLUMNS = ["item_id", "row_id", "content_id", "category"]


@dataclass(frozen=True, eq=False)
class IndexedItems:
    """Items (`COLUMNS` at least, unique row ids), all of which are in `index`.

    `family` names the space of the vectors: vectors of two families cannot be compared.
    """

    items: pl.DataFrame
    index: ShardedIndex
    family: str

    def sample(self, n: int, seed: int) -> Int64:
        """Draw up to n row ids, ascending, by the hash of each id, so that two releases draw the same items."""
        row_ids = self.items["row_id"].to_numpy()
        return sample_rows(row_ids, n, seed)

    def nearest(self, row_ids: Int64, k: int, among: Int64 | None = None) -> tuple[Float32, Int64]:
        """Find the k rows nearest to each of q rows, itself excluded, by exact search among all rows or `among`.

        Returns (q, k) scores, falling, and (q, k) row ids, padded with -inf and -1. Raises `NotFound` for a row that is
        not in the index.
        """
        queries = self.index.vectors_of(row_ids)
        scores = np.full((len(row_ids), k), -np.inf, np.float32)
        nearest = np.full((len(row_ids), k), -1, np.int64)
        allowed = None if among is None else np.sort(among)
        for shard in self.index.shards:
            for start in range(0, len(shard.row_ids), BLOCK_ROWS):
                rows = np.asarray(shard.row_ids[start : start + BLOCK_ROWS])
                vectors = shard.vectors[start : start + BLOCK_ROWS]
                if allowed is not None:
                    is_allowed = positions_of(allowed, rows)[1]
                    rows, vectors = rows[is_allowed], vectors[is_allowed]
                if len(rows):
                    scores, nearest = _merge(scores, nearest, *_search_block(row_ids, queries, rows, vectors, k))
        return scores, nearest


def open_indexed(store: Store, release: Release) -> IndexedItems:
    """Open the items and the index of a release. Raises `NotFound`, `ShardCorrupt`."""
    index_set = IndexSet.open(store, release.index)
    index = open_index(store, index_set)
    items = load_items(store, release.catalog.name, COLUMNS)
    indexed = pl.DataFrame({"row_id": index.row_ids()}, schema={"row_id": pl.Int64})
    return IndexedItems(items.join(indexed, on="row_id", how="semi", maintain_order="left"), index, index_set.family)


def sample_rows(row_ids: Int64, n: int, seed: int) -> Int64:
    """Return up to n of these row ids, ascending: those with the lowest hashes."""
    return np.sort(row_ids[np.argsort(hash_rows(row_ids, seed), kind="stable")[:n]])


def _search_block(query_ids: Int64, queries: Float32, rows: Int64, vectors: Float32, k: int) -> tuple[Float32, Int64]:
    position, is_inside = positions_of(rows, query_ids)
    scores, positions = exact_topk(queries, vectors, k, exclude=np.where(is_inside, position, -1))
    return scores, np.where(positions >= 0, rows[positions], -1)


def _merge(scores: Float32, ids: Int64, more_scores: Float32, more_ids: Int64) -> tuple[Float32, Int64]:
    k = ids.shape[1]
    ids, scores = np.concatenate([ids, more_ids], axis=1), np.concatenate([scores, more_scores], axis=1)
    query, column = np.nonzero(ids >= 0)
    return best_of(query, ids[query, column], scores[query, column], len(ids), k)
