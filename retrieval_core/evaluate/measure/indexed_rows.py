"""A release to be compared with another: its items, and exact neighbours among the rows of its index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.evaluate.measure.search_setup import hash_rows
from retrieval_core.index.build import places_of
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.topk import best_of
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.search.release import open_index
from retrieval_core.store.base import Store

BLOCK_ROWS = 32_768  # of vectors compared at a time: 64 MiB at 512 dimensions

COLUMNS = ["item_id", "row_id", "content_id", "category"]


@dataclass(frozen=True, eq=False)
class Indexed:
    """`items` (`COLUMNS` at least, unique row ids) that all stand in `index`.

    `family` names the space of its vectors: vectors of two families do not compare.
    """

    items: pl.DataFrame
    index: ShardedIndex
    family: str

    def sample(self, n: int, seed: int) -> Int64:
        """Up to n row ids, ascending: a row is drawn or not by its own hash, so that two releases draw the same."""
        row_ids = self.items["row_id"].to_numpy()
        return sample_rows(row_ids, n, seed)

    def nearest(self, row_ids: Int64, k: int, among: Int64 | None = None) -> tuple[Float32, Int64]:
        """The k rows nearest to each of these rows but itself, by exact search; `among` limits what may be found.

        Returns (q, k) float32 scores, falling, and (q, k) int64 row ids, padded with -inf and -1. Raises `NotFound` for
        a row that is not in the index.
        """
        asked = self.index.vectors_of(row_ids)
        scores = np.full((len(row_ids), k), -np.inf, np.float32)
        found = np.full((len(row_ids), k), -1, np.int64)
        allowed = None if among is None else np.sort(among)
        for shard in self.index.shards:
            for start in range(0, len(shard.row_ids), BLOCK_ROWS):
                rows = np.asarray(shard.row_ids[start : start + BLOCK_ROWS])
                vectors = shard.vectors[start : start + BLOCK_ROWS]
                if allowed is not None:
                    here = places_of(allowed, rows)[1]
                    rows, vectors = rows[here], vectors[here]
                if len(rows):
                    scores, found = _merged(scores, found, *_block(row_ids, asked, rows, vectors, k))
        return scores, found


def open_indexed(store: Store, release: Release) -> Indexed:
    """A release's own items and index. Raises `NotFound`, `ShardCorrupt`."""
    index_set = IndexSet.open(store, release.index)
    index = open_index(store, index_set)
    items = load_items(store, release.catalog.name, COLUMNS)
    held = pl.DataFrame({"row_id": index.row_ids()}, schema={"row_id": pl.Int64})
    return Indexed(items.join(held, on="row_id", how="semi", maintain_order="left"), index, index_set.family)


def sample_rows(row_ids: Int64, n: int, seed: int) -> Int64:
    """Up to n of these, ascending: those with the lowest hashes."""
    return np.sort(row_ids[np.argsort(hash_rows(row_ids, seed), kind="stable")[:n]])


def _block(asked_ids: Int64, asked: Float32, rows: Int64, vectors: Float32, k: int) -> tuple[Float32, Int64]:
    place, here = places_of(rows, asked_ids)
    scores, positions = exact_topk(asked, vectors, k, exclude=np.where(here, place, -1))
    return scores, np.where(positions >= 0, rows[positions], -1)


def _merged(scores: Float32, found: Int64, more_scores: Float32, more_found: Int64) -> tuple[Float32, Int64]:
    ids = np.concatenate([found, more_found], axis=1)
    both = np.concatenate([scores, more_scores], axis=1)
    query, column = np.nonzero(ids >= 0)
    return best_of(query, ids[query, column], both[query, column], len(ids), found.shape[1])
