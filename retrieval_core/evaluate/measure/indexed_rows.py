"""The items of a release and their exact neighbours among the rows of its index; two releases to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.evaluate.measure.setup import Remembered, hash_rows
from retrieval_core.index.lookup import ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.metrics.exact_knn import Blocks, exact_topk_of_blocks, merge_topk
from retrieval_core.store.base import Store

MAX_NEAREST = 10
COMPARED_ROWS = 4_096  # vectors compared at a time
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


class ReleasePair:
    """A release and the one before it, if any, whose exact neighbours are found together.

    The rows `unchanged`, ascending, have one vector in both and are compared once for both; each row is asked once. So
    a pair is cheap to ask again, and where little changed, hardly dearer than one release.
    """

    def __init__(self, previous: IndexedItems | None, current: IndexedItems) -> None:
        self.previous, self.current = previous, current
        self.unchanged = _equal_rows(previous, current) if previous else np.empty(0, np.int64)
        self._among_kept = Remembered(lambda rows: current.nearest(rows, MAX_NEAREST, self.unchanged), MAX_NEAREST)
        self._now = Remembered(lambda rows: self._nearest(current, rows), MAX_NEAREST)
        self._before = Remembered(lambda rows: self._nearest(previous or current, rows), MAX_NEAREST)

    def now(self, row_ids: Int64, k: int) -> tuple[Float32, Int64]:
        """Return what `IndexedItems.nearest` does in the current release, for unique rows and k up to `MAX_NEAREST`."""
        return self._now.first(row_ids, k)

    def before(self, row_ids: Int64, k: int) -> tuple[Float32, Int64]:
        """Return the same of the release before; of the current one where there is none."""
        return self._before.first(row_ids, k)

    def _nearest(self, release: IndexedItems, row_ids: Int64) -> tuple[Float32, Int64]:
        is_kept = np.isin(row_ids, self.unchanged)
        if not is_kept.any():
            return release.nearest(row_ids, MAX_NEAREST)
        kept, others = row_ids[is_kept], np.setdiff1d(release.index.row_ids(), self.unchanged)
        nearest = merge_topk(self._among_kept.first(kept, MAX_NEAREST), release.nearest(kept, MAX_NEAREST, others))
        rest = release.nearest(row_ids[~is_kept], MAX_NEAREST)
        order = np.argsort(np.concatenate([np.flatnonzero(is_kept), np.flatnonzero(~is_kept)]))
        return np.concatenate([nearest[0], rest[0]])[order], np.concatenate([nearest[1], rest[1]])[order]


def _equal_rows(previous: IndexedItems, current: IndexedItems) -> Int64:
    """Return the rows that have the same vector in both releases, ascending."""
    if previous.index.dim != current.index.dim:
        return np.empty(0, np.int64)
    shared = np.intersect1d(previous.index.row_ids(), current.index.row_ids())
    parts = np.array_split(shared, len(shared) // COMPARED_ROWS + 1)
    equal = [(previous.index.vectors_of(rows) == current.index.vectors_of(rows)).all(axis=1) for rows in parts]
    return shared[np.concatenate(equal)]


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
