"""Exact nearest neighbours that are kept from run to run, so that a run compares only what none has compared before.

A kept list holds every row of the gallery whose score is above the list's floor. From one run to the next, rows that
left the gallery are dropped from it, rows that came are compared, and the higher of both floors counts. Where too few
rows are left above the floor, the query is compared with the whole gallery again. So the neighbours are those of a full
search, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.index.shard_files import positions_of
from retrieval_core.index.topk import best_of

RESERVE = 22  # neighbours kept beyond those asked for: when 1% of the gallery changes a night, few lists run short

FEW = 4  # rows that came since and are looked for first in each list

# (rows of queries, rows of the gallery, k) to (q, k) scores and rows of the gallery, as `exact_topk` returns them.
Search = Callable[[Int64, Int64, int], tuple[Float32, Int64]]


class KeptSearch(NamedTuple):
    """What was searched and found: n rows of a `gallery` and q `queries`, both ascending, by names that are 0 or more.

    A name stands for one vector. `found` (q, m) are the names of every row of the gallery with a score above the
    query's of `floors` (q,), and `scores` (q, m) their falling scores, padded with -1 and -inf.
    """

    gallery: Int64
    queries: Int64
    found: Int64
    scores: Float32
    floors: Float32


NOTHING_KEPT = KeptSearch(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0), np.int64), np.empty((0, 0), np.float32),
    np.empty(0, np.float32),
)  # fmt: skip


class _Lists(NamedTuple):
    """(q, m) scores, falling, and rows of the gallery, padded with -inf and -1; complete above (q,) `floors`."""

    scores: Float32
    rows: Int64
    floors: Float32

    def widened(self, m: int) -> _Lists:
        """Return the same lists padded to m columns, as a copy."""
        pad = ((0, 0), (0, m - self.rows.shape[1]))
        scores = np.pad(self.scores, pad, constant_values=-np.inf)
        return _Lists(scores, np.pad(self.rows, pad, constant_values=-1), self.floors.copy())


def nearest_since(
    earlier: KeptSearch, queries: Int64, gallery: Int64, k: int, search: Search
) -> tuple[Float32, Int64, KeptSearch]:
    """Return what `search` returns for all queries and the whole gallery, and what to keep of it.

    `queries` (q,) and `gallery` (n,) are unique names. Those that `earlier` knows are compared only with others.
    """
    everything, order = np.arange(len(gallery)), np.argsort(gallery)
    ascending = gallery[order]
    position, is_known = positions_of(earlier.queries, queries)
    known = np.flatnonzero(is_known)
    lists = _brought_forward(earlier, position[known], ascending, order)
    new = np.sort(order[~positions_of(earlier.gallery, ascending)[1]])
    if len(known) and len(new):
        lists = _with_new(lists, search, known, new, len(gallery), k + RESERVE)
    lists = _cut(lists, k + RESERVE)
    is_whole = (lists.rows[:, k - 1] >= 0) | np.isneginf(lists.floors)
    scores, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    scores[known], rows[known] = lists.scores[:, :k], lists.rows[:, :k]
    rest = np.sort(np.concatenate([np.flatnonzero(~is_known), known[~is_whole]]))
    again = _searched(search, rest, everything, k + RESERVE)
    scores[rest], rows[rest] = again.scores[:, :k], again.rows[:, :k]
    again = _cut(again, k + RESERVE)
    names: Int64 = np.concatenate([queries[rest], queries[known[is_whole]]])
    by_name = np.argsort(names)
    kept_rows = np.concatenate([again.rows, lists.rows[is_whole]])[by_name]
    kept = KeptSearch(
        gallery=ascending,
        queries=names[by_name],
        found=np.where(kept_rows >= 0, np.append(gallery, -1)[kept_rows], -1),
        scores=np.concatenate([again.scores, lists.scores[is_whole]])[by_name],
        floors=np.concatenate([again.floors, lists.floors[is_whole]])[by_name],
    )
    return scores, rows, kept


def _with_new(lists: _Lists, search: Search, queries: Int64, new: Int64, n_gallery: int, depth: int) -> _Lists:
    """Return the lists of queries with the `new` ones of the `n_gallery` rows; some rows may be below the floors.

    While few rows are new, hardly a list gains more than a few, and only such lists are searched to their full depth.
    """
    few = FEW if depth * len(new) < n_gallery else depth
    found = _searched(search, queries, new, few)
    if few < depth:
        short = np.flatnonzero(found.floors > lists.floors)
        deep = _searched(search, queries[short], new, depth)
        found = found.widened(depth)
        found.scores[short], found.rows[short], found.floors[short] = deep
    return _merged(lists, found)


def _searched(search: Search, queries: Int64, gallery: Int64, depth: int) -> _Lists:
    """Return lists of up to `depth` rows, complete above the last of them."""
    if not len(queries):
        return _Lists(np.empty((0, depth), np.float32), np.empty((0, depth), np.int64), np.empty(0, np.float32))
    scores, rows = search(queries, gallery, depth)
    return _Lists(scores, rows, scores[:, -1] if len(gallery) > depth else np.full(len(queries), -np.inf, np.float32))


def _brought_forward(earlier: KeptSearch, queries: Int64, ascending: Int64, order: Int64) -> _Lists:
    """Return the lists of some queries without what left the gallery, whose names `ascending` are at rows `order`."""
    position, is_there = positions_of(ascending, earlier.found[queries])
    found = np.where(is_there, np.append(order, -1)[position], -1)
    return _Lists(np.where(is_there, earlier.scores[queries], np.float32(-np.inf)), found, earlier.floors[queries])


def _merged(lists: _Lists, more: _Lists) -> _Lists:
    scores: Float32 = np.concatenate([lists.scores, more.scores], axis=1)
    rows: Int64 = np.concatenate([lists.rows, more.rows], axis=1)
    return _Lists(scores, rows, np.maximum(lists.floors, more.floors))


def _cut(lists: _Lists, depth: int) -> _Lists:
    """Sort lists and keep at most `depth` rows of each, all of them above a floor that is raised as far as needed."""
    query, column = np.nonzero((lists.rows >= 0) & (lists.scores > lists.floors[:, None]))
    scores, rows = best_of(query, lists.rows[query, column], lists.scores[query, column], len(lists.rows), depth + 1)
    floors = np.maximum(lists.floors, scores[:, depth])
    is_above = scores[:, :depth] > floors[:, None]
    return _Lists(
        np.where(is_above, scores[:, :depth], -np.inf).astype(np.float32),
        np.where(is_above, rows[:, :depth], -1),
        floors,
    )
