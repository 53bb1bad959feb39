"""The k best of scored candidates, the same whatever finds them: ties are broken by the lower id.

Matrix products round differently with a vector's place in its block, so a fast search may part equal vectors, or cut
through a group of them wherever it likes. Here the group is fetched whole, scored again one row at a time, and ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
TopK = Callable[[Float32, int], tuple[Float32, Int64]]

TIE = 2e-6  # float32 products of unit vectors agree to this whatever their order of summation
MAX_TIED = 1_000  # a group of equal vectors is fetched no further than this, to bound a query's work
MAX_BLOCK_QUERIES = 1_024  # fewer slow an exact search down
MAX_BLOCK_PAIRS = 200_000  # candidates of all queries of a block together
GATHER_BYTES = 4 * 2**20  # of vectors gathered at a time; more would fall out of the cache


def query_blocks(n_queries: int, depth: int) -> Iterator[slice]:
    """Consecutive slices over the queries, small enough that `depth` candidates of each fit in memory."""
    n = min(MAX_BLOCK_QUERIES, max(1, MAX_BLOCK_PAIRS // max(1, depth)))
    yield from (slice(start, start + n) for start in range(0, n_queries, n))


def search_past_ties(search: TopK, queries: Float32, depth: int, n_rows: int) -> tuple[Float32, Int64]:
    """The best `depth` of each query, and the other rows that tie with the last of them, up to MAX_TIED in all.

    `search(queries, n)` returns the (q, n) best scores, falling, and their ids, -1 where there are fewer. Returns
    (q, m) scores and ids, `m` at least min(depth, n_rows), padded with -inf and -1.
    """
    width = min(depth + 1, n_rows)
    limit = min(n_rows, max(width, MAX_TIED))
    scores, ids = _searched(search, queries, width)
    tied = np.arange(len(queries))
    while width > depth:
        cut, last = scores[tied, depth - 1], scores[tied, width - 1]
        tied = tied[np.isfinite(cut) & (last >= cut - TIE)]
        if len(tied) == 0 or width >= limit:
            break
        more = min(2 * width, limit)
        extra = ((0, 0), (0, more - width))
        scores = np.pad(scores, extra, constant_values=-np.inf)
        ids = np.pad(ids, extra, constant_values=-1)
        scores[tied], ids[tied] = _searched(search, queries[tied], more)
        width = more
    return scores, ids


def kept_candidates(scores: Float32, ids: Int64, depth: int) -> tuple[Int64, Int64]:
    """Which (query, column) of (q, m) candidates are among the best `depth` of their query, or tie with the last."""
    cut = np.full((len(scores), 1), -np.inf, np.float32)
    if scores.shape[1] > depth:
        cut[:, 0] = np.partition(scores, -depth, axis=1)[:, -depth]
    query, column = np.nonzero((ids >= 0) & (scores >= cut - TIE))
    return query, column


def pair_scores(queries: Float32, query: Int64, vectors: Float32, row: Int64) -> Float32:
    """(p,) float32 inner products of queries[query] with vectors[row]; equal rows score equally wherever they stand."""
    scores = np.empty(len(query), np.float32)
    n = max(1, GATHER_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(query), n):
        pairs = slice(start, start + n)
        scores[pairs] = np.vecdot(vectors[row[pairs]], queries[query[pairs]])
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


def _searched(search: TopK, queries: Float32, width: int) -> tuple[Float32, Int64]:
    scores, ids = search(queries, width)
    return np.where(ids >= 0, scores, np.float32(-np.inf)), ids
