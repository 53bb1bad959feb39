"""The k best of scored candidates, the same whatever finds them: ties are broken by the lower id.

Matrix products round differently with a vector's place in its block, so a fast search may part equal vectors, or cut
through a group of them wherever it likes. Here the group is fetched whole, scored again one row at a time, and ordered.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int64

TopK = Callable[[Float32, int], tuple[Float32, Int64]]


class Source(NamedTuple):
    """A place to search: `search(rows, n)` returns the (len(rows), n) best scores, falling, and ids of these queries.

    Where there are fewer, ids are -1. It holds at most `n_rows` rows.
    """

    search: Callable[[Int64, int], tuple[Float32, Int64]]
    n_rows: int


class Candidates(NamedTuple):
    """(q, m) scores and ids, padded with -inf and -1, and (m,) the number of the source of each column."""

    scores: Float32
    ids: Int64
    source: Int64


TIE = 2e-6  # float32 products of unit vectors agree to this whatever their order of summation
MAX_TIED = 1_000  # a group of equal vectors is fetched no further than this, to bound a query's work
MAX_BLOCK_QUERIES = 1_024  # fewer slow an exact search down
MAX_BLOCK_PAIRS = 200_000  # candidates of all queries of a block together
MATRIX_QUERIES = 20  # from here on a matrix product finds the nearest sooner than one query after another
GATHER_BYTES = 4 * 2**20  # of vectors gathered at a time; more would fall out of the cache


_ROUTE = threading.Lock()


def query_blocks(n_queries: int, depth: int) -> Iterator[slice]:
    """Consecutive slices over the queries, small enough that `depth` candidates of each fit in memory."""
    n = min(MAX_BLOCK_QUERIES, max(1, MAX_BLOCK_PAIRS // max(1, depth)))
    yield from (slice(start, start + n) for start in range(0, n_queries, n))


def exact_search(queries: Float32, gallery: Float32, n: int) -> tuple[Float32, Int64]:
    """(q, n) float32 largest inner products of each query with the gallery's rows, falling, and int64 rows, -1 padded.

    Of MATRIX_QUERIES or more, faiss takes matrix products here; by itself it waits for 128,000 numbers in all queries,
    and is up to ten times slower until then. That switch is the process's: only one search at a time turns it, and a
    search elsewhere that meets it turned differs by no more than TIE.
    """
    import faiss

    if len(queries) < MATRIX_QUERIES:
        return faiss.knn(queries, gallery, n, metric=faiss.METRIC_INNER_PRODUCT)
    with _ROUTE:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            return faiss.knn(queries, gallery, n, metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.cvar.distance_compute_blas_threshold = before


def search_past_ties(search: TopK, queries: Float32, depth: int, n_rows: int) -> tuple[Float32, Int64]:
    """The best `depth` of each query, and the other rows that tie with the last of them, up to MAX_TIED in all.

    `search(queries, n)` returns the (q, n) best scores, falling, and their ids, -1 where there are fewer. Returns
    (q, m) scores and ids, `m` at least min(depth, n_rows), padded with -inf and -1.
    """
    found = search_sources([Source(lambda rows, n: search(queries[rows], n), n_rows)], len(queries), depth)
    return found.scores, found.ids


def search_sources(sources: Sequence[Source], n_queries: int, depth: int) -> Candidates:
    """Among more, the best `depth` of each query in all sources, and the rows that tie with the last of them.

    Of one source no more than MAX_TIED are fetched, or depth + 1. A source is asked for its share of the best first,
    and again only by the queries for which it may hold more of them.
    """
    n_rows = [source.n_rows for source in sources]
    limits = np.array([min(n, max(depth + 1, MAX_TIED)) for n in n_rows])
    widths = np.array([min(n, _share(depth, n / sum(n_rows)) + 1) for n in n_rows])
    rows = np.arange(n_queries)
    parts = [source.search(rows, width) for source, width in zip(sources, widths.tolist(), strict=True)]
    while True:
        scores, ids = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        scores[ids < 0] = -np.inf
        last = scores[:, np.cumsum(widths) - 1]
        unsure = np.isfinite(last) & (last >= _cut(scores, depth) - TIE) & (widths < limits)
        if not unsure.any():
            return Candidates(scores, ids, np.repeat(np.arange(len(sources)), widths))
        for number in np.flatnonzero(unsure.any(axis=0)).tolist():
            width = int(min(2 * widths[number], limits[number]))
            parts[number] = _widened(parts[number], sources[number], np.flatnonzero(unsure[:, number]), width)
            widths[number] = width


def kept_candidates(scores: Float32, ids: Int64, depth: int) -> tuple[Int64, Int64]:
    """Which (query, column) of (q, m) candidates are among the best `depth` of their query, or tie with the last.

    Ordered by column, so that those of a source follow each other.
    """
    column, query = np.nonzero(((ids >= 0) & (scores >= _cut(scores, depth) - TIE)).T)
    return query, column


def pair_scores(queries: Float32, query: Int64, vectors: Float32, row: Int64) -> Float32:
    """(p,) float32 inner products of queries[query] with vectors[row]; equal rows score equally wherever they stand."""
    scores = np.empty(len(query), np.float32)
    n = max(1, GATHER_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(query), n):
        pairs = slice(start, start + n)
        asked = queries[query[pairs]] if len(queries) > 1 else queries
        scores[pairs] = np.vecdot(vectors[row[pairs]], asked)
    return scores


def best_of(query: Int64, ids: Int64, scores: Float32, n_queries: int, k: int) -> tuple[Float32, Int64]:
    """The `k` best of each query from flat (query, id, score) rows, ties by the lower id.

    Returns (n_queries, k) scores and ids, padded with -inf and -1.
    """
    order = np.lexsort((ids, -scores, query))
    query, ids, scores = query[order], ids[order], scores[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    top = rank < k
    best_scores = np.full((n_queries, k), -np.inf, np.float32)
    best_ids = np.full((n_queries, k), -1, np.int64)
    best_scores[query[top], rank[top]] = scores[top]
    best_ids[query[top], rank[top]] = ids[top]
    return best_scores, best_ids


def _share(depth: int, fraction: float) -> int:
    """Of the best `depth`, those that a source of this fraction of all rows holds: the mean and four deviations."""
    mean = depth * fraction
    return min(depth, math.ceil(mean + 4 * math.sqrt(mean * (1 - fraction))))


def _cut(scores: Float32, depth: int) -> Float32:
    """(q, 1) the score of the last of each query's best `depth`; -inf where no more were found."""
    if scores.shape[1] <= depth:
        return np.full((len(scores), 1), -np.inf, np.float32)
    return np.partition(scores, -depth, axis=1)[:, -depth, None]


def _widened(part: tuple[Float32, Int64], source: Source, rows: Int64, width: int) -> tuple[Float32, Int64]:
    """The part of a source with `width` columns, filled for the queries `rows` and padded for the others."""
    extra = ((0, 0), (0, width - part[0].shape[1]))
    scores, ids = np.pad(part[0], extra), np.pad(part[1], extra, constant_values=-1)
    scores[rows], ids[rows] = source.search(rows, width)
    return scores, ids
