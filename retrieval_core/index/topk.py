"""The k best of scored candidates, with ties broken by the lower id, so that every way to search gives the same hits.

The rounding of a matrix product depends on the position of a vector in its block. A fast search may therefore score
equal vectors differently, and cut off a group of them anywhere. Here the whole group is fetched, scored again one row
at a time, and sorted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float32, Int64

TopK = Callable[[Float32, int], tuple[Float32, Int64]]


TIE = 2e-6  # scores this close count as equal: float32 products of unit vectors differ less by order of summation
MAX_TIED = 1_000  # fetch no more of a group of equal vectors, to bound the work of a query
MAX_BLOCK_QUERIES = 1_024  # smaller blocks slow down an exact search
MAX_BLOCK_PAIRS = 200_000  # candidates of all queries of a block together
MATRIX_QUERIES = 20  # from this number on, a matrix product is faster than one query after another
GATHER_BYTES = 4 * 2**20  # of vectors gathered at a time, to stay in the CPU cache

_FAISS_SWITCH = threading.Lock()


class CandidateSource(NamedTuple):
    """A part of an index to search. It holds at most `n_rows` rows.

    `search(rows, n)` returns the (len(rows), n) highest scores, falling, and the ids for the queries numbered `rows`;
    where there are fewer, ids are -1.
    """

    search: Callable[[Int64, int], tuple[Float32, Int64]]
    n_rows: int


class Candidates(NamedTuple):
    """(q, m) scores and ids, padded with -inf and -1, and for each of the m columns the number of its source."""

    scores: Float32
    ids: Int64
    source: Int64


def query_blocks(n_queries: int, depth: int) -> Iterator[slice]:
    """Yield consecutive slices of the queries, small enough that `depth` candidates of each fit in memory."""
    n = min(MAX_BLOCK_QUERIES, max(1, MAX_BLOCK_PAIRS // max(1, depth)))
    yield from (slice(start, start + n) for start in range(0, n_queries, n))


def exact_search(queries: Float32, gallery: Float32, n: int) -> tuple[Float32, Int64]:
    """Return the (q, n) float32 largest inner products of each query with the gallery, falling, and its int64 rows.

    Rows are -1 where the gallery has fewer than `n`. For MATRIX_QUERIES or more, faiss is told to use matrix products;
    by default it does so only from 128,000 numbers in all queries, and is up to ten times slower below. The setting is
    global to the process, so one search at a time changes it; a concurrent search elsewhere differs by at most TIE.
    """
    import faiss

    if len(queries) < MATRIX_QUERIES:
        return faiss.knn(queries, gallery, n, metric=faiss.METRIC_INNER_PRODUCT)
    with _FAISS_SWITCH:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            return faiss.knn(queries, gallery, n, metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.cvar.distance_compute_blas_threshold = before


def search_past_ties(search: TopK, queries: Float32, depth: int, n_rows: int) -> tuple[Float32, Int64]:
    """Return at least the best `depth` of each query and the rows that tie with the last of them, up to MAX_TIED.

    `search(queries, n)` returns the (q, n) highest scores, falling, and their ids, -1 where there are fewer. Returns
    (q, m) scores and ids, `m` at least min(depth, n_rows), padded with -inf and -1.
    """
    source = CandidateSource(lambda rows, n: search(queries[rows], n), n_rows)
    candidates = search_sources([source], len(queries), depth)
    return candidates.scores, candidates.ids


def search_sources(sources: Sequence[CandidateSource], n_queries: int, depth: int) -> Candidates:
    """Return at least the best `depth` of each query in all sources, and the rows that tie with the last of them.

    One source gives at most MAX_TIED rows, or depth + 1 if that is more. It is searched first for its expected share of
    the best, and again only for the queries of which it may hold more.
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
    """Return (query, column) of the (q, m) candidates among the best `depth` of their query, or tied with the last.

    They are sorted by column, so that the candidates of a source are consecutive.
    """
    column, query = np.nonzero(((ids >= 0) & among_best(scores, depth)).T)
    return query, column


def among_best(scores: Float32, depth: int) -> Bool:
    """Return (q, m) whether each of the (q, m) scores is among the best `depth` of its query, or ties with the last."""
    return scores >= _cut(scores, depth) - TIE


def pair_scores(queries: Float32, query: Int64, vectors: Float32, row: Int64) -> Float32:
    """Return the (p,) float32 inner products of queries[query] with vectors[row].

    Equal rows get equal scores, whatever their position.
    """
    scores = np.empty(len(query), np.float32)
    n = max(1, GATHER_BYTES // (4 * queries.shape[1]))
    order = np.argsort(query, kind="stable")  # a query at a time need not be copied beside each of its rows
    numbers, starts, sizes = np.unique(query[order], return_index=True, return_counts=True)
    for number, start, end in zip(numbers.tolist(), starts.tolist(), (starts + sizes).tolist(), strict=True):
        for first in range(start, end, n):
            pairs = order[first : min(first + n, end)]
            scores[pairs] = np.vecdot(vectors[row[pairs]], queries[number])
    return scores


def best_of(query: Int64, ids: Int64, scores: Float32, n_queries: int, k: int) -> tuple[Float32, Int64]:
    """Return the `k` best of each query from flat (p,) arrays of query, id and score; ties go by the lower id.

    Returns (n_queries, k) scores, falling, and ids, padded with -inf and -1.
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
    """Return how many of the best `depth` to expect in a source with this fraction of all rows.

    The mean and four standard deviations of the binomial distribution.
    """
    mean = depth * fraction
    return min(depth, math.ceil(mean + 4 * math.sqrt(mean * (1 - fraction))))


def _cut(scores: Float32, depth: int) -> Float32:
    """Return the (q, 1) score of the last of each query's best `depth`; -inf where there are no more than that."""
    if scores.shape[1] <= depth:
        return np.full((len(scores), 1), -np.inf, np.float32)
    return np.partition(scores, -depth, axis=1)[:, -depth, None]


def _widened(part: tuple[Float32, Int64], source: CandidateSource, rows: Int64, width: int) -> tuple[Float32, Int64]:
    """Search a source again for the queries `rows`; return its part with `width` columns, padded for the others."""
    extra = ((0, 0), (0, width - part[0].shape[1]))
    scores, ids = np.pad(part[0], extra), np.pad(part[1], extra, constant_values=-1)
    scores[rows], ids[rows] = source.search(rows, width)
    return scores, ids
