"""The items of a release and their exact neighbours among the rows of its index; two releases to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.artifacts.mapped_rows import batches_at, mapped, sorted_by
from retrieval_core.evaluate.measure.exact_search import indexed_gallery
from retrieval_core.evaluate.measure.kept_searches import KeptSearches
from retrieval_core.evaluate.measure.setup import hash_rows
from retrieval_core.index.lookup import ShardedIndex, open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.metrics.exact_knn import Blocks, exact_topk_of_blocks
from retrieval_core.store.base import Store

MAX_NEAREST = 10
COLUMNS = ["item_id", "row_id", "content_id", "category"]


@dataclass(frozen=True, eq=False)
class IndexedItems:
    """Items (`COLUMNS` at least, unique row ids), all of which are in `index`.

    `family` names the space of the vectors: vectors of two families cannot be compared.
    """

    items: pl.DataFrame
    index: ShardedIndex
    family: str

    @cached_property
    def by_row_id(self) -> pl.DataFrame:
        """The items in the order of their row ids, by which ties of neighbours go."""
        return sorted_by(self.items.select(COLUMNS), "row_id")

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
    """A release and the one before it, if any, and the exact neighbours of rows in both.

    The rows `unchanged`, ascending, have one vector in both. `kept` are the searches of the current release, which
    start from those of the previous one.
    """

    def __init__(self, previous: IndexedItems | None, current: IndexedItems, kept: KeptSearches | None = None) -> None:
        self.previous, self.current = previous, current
        self.unchanged = _equal_rows(previous, current) if previous else np.empty(0, np.int64)
        self._now = kept or KeptSearches()
        self._before = KeptSearches(self._now.earlier)

    def now(self, row_ids: Int64, k: int) -> tuple[Float32, Int64]:
        """Return what `IndexedItems.nearest` does in the current release, for unique rows and k up to `MAX_NEAREST`."""
        return _nearest(self._now, self.current, row_ids, k)

    def before(self, row_ids: Int64, k: int) -> tuple[Float32, Int64]:
        """Return the same of the release before; of the current one where there is none."""
        return _nearest(self._before, self.previous or self.current, row_ids, k)


def _nearest(searches: KeptSearches, release: IndexedItems, row_ids: Int64, k: int) -> tuple[Float32, Int64]:
    items = release.by_row_id
    rows = positions_of(items["row_id"].to_numpy(), row_ids)[0]
    gallery = indexed_gallery(release.index, release.family, items, rows, np.arange(len(items)))
    scores, positions = searches.nearest("every row", gallery, MAX_NEAREST, own=rows)
    return scores[:, :k], np.append(items["row_id"].to_numpy(), -1)[positions[:, :k]]


def _equal_rows(previous: IndexedItems, current: IndexedItems) -> Int64:
    """Return the rows that have the same vector in both releases, ascending."""
    if previous.family != current.family:
        return np.empty(0, np.int64)
    key = ["row_id", "content_id"]
    shared = previous.items.select(key).join(current.items.select(key), on=key, how="semi")
    return shared["row_id"].sort().to_numpy()


def open_indexed(store: Store, release: Release) -> IndexedItems:
    """Open the items and the index of a release. Raises `NotFound`, `ShardCorrupt`."""
    index_set = IndexSet.open(store, release.index)
    index = open_index(store, index_set)
    items = load_items(store, release.catalog.name, COLUMNS)
    is_indexed = np.isin(items["row_id"].to_numpy(), index.row_ids())
    indexed = items if is_indexed.all() else mapped(batches_at(items, np.flatnonzero(is_indexed)))
    return IndexedItems(indexed, index, index_set.family)


def sample_rows(row_ids: Int64, n: int, seed: int) -> Int64:
    """Return up to n of these row ids, ascending: those with the lowest hashes."""
    return np.sort(row_ids[np.argsort(hash_rows(row_ids, seed), kind="stable")[:n]])


def _only(blocks: Blocks, ascending: Int64) -> Iterator[tuple[Int64, Float32]]:
    """Yield the rows of each block that are in `ascending`."""
    for rows, vectors in blocks:
        is_allowed = positions_of(ascending, rows)[1]
        yield rows[is_allowed], vectors[is_allowed]
