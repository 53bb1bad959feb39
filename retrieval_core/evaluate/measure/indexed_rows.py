"""The items of a release and their exact neighbours among the rows of its index, to compare two releases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.evaluate.measure.setup import hash_rows
from retrieval_core.index.lookup import ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.metrics.exact_knn import Blocks, exact_topk_of_blocks
from retrieval_core.store.base import Store

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
        blocks = self.index.blocks() if among is None else _only(self.index.blocks(), np.sort(among))
        return exact_topk_of_blocks(self.index.vectors_of(row_ids), blocks, k, exclude=row_ids)


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


def _only(blocks: Blocks, ascending: Int64) -> Iterator[tuple[Int64, Float32]]:
    """Yield the rows of each block that are in `ascending`."""
    for rows, vectors in blocks:
        is_allowed = positions_of(ascending, rows)[1]
        yield rows[is_allowed], vectors[is_allowed]
