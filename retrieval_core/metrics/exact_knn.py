"""Exact nearest neighbours, which approximate search is measured against."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, DimensionMismatch
from retrieval_core.index.topk import (
    best_of,
    exact_search,
    kept_candidates,
    pair_scores,
    query_blocks,
    search_past_ties,
)


def exact_topk(queries: Float32, gallery: Float32, k: int, *, exclude: Int64 | None = None) -> tuple[Float32, Int64]:
    """Find the `k` gallery rows with the largest inner product with each query.

    `queries` (q, d) and `gallery` (n, d) have unit length. `exclude` (q,) is the position of each query itself in the
    gallery, which is left out, or -1. Returns (q, k) scores, falling, and (q, k) positions in the gallery, ties in
    ascending position, padded with -inf and -1 where there are fewer than k.

    Raises `DimensionMismatch` where shapes do not fit, `BadConfig` for k below 1, a position outside the gallery, or
    NaN and infinite values.
    """
    if k < 1:
        raise BadConfig(f"expected k >= 1, got {k}")
    queries, gallery = _checked(queries, "queries"), _checked(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise DimensionMismatch(
            f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}; embed both alike"
        )
    own = _checked_positions(exclude, len(queries), len(gallery))
    scores = np.full((len(queries), k), -np.inf, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
    depth = min(k + (exclude is not None), len(gallery))
    for block in query_blocks(len(queries) if depth else 0, depth):
        scores[block], positions[block] = _topk_block(queries[block], gallery, own[block], k, depth)
    return scores, positions


def _topk_block(queries: Float32, gallery: Float32, own: Int64, k: int, depth: int) -> tuple[Float32, Int64]:
    rough, found = search_past_ties(lambda some, n: exact_search(some, gallery, n), queries, depth, len(gallery))
    query, column = kept_candidates(rough, found, depth)
    position = found[query, column]
    query, position = query[position != own[query]], position[position != own[query]]
    return best_of(query, position, pair_scores(queries, query, gallery, position), len(queries), k)


def _checked(vectors: Float32, name: str) -> Float32:
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise DimensionMismatch(f"{name} must be (n, dim), got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise BadConfig(f"{name} hold NaN or infinity; embed those pictures again")
    return matrix


def _checked_positions(exclude: Int64 | None, n_queries: int, n_gallery: int) -> Int64:
    if exclude is None:
        return np.full(n_queries, -1, np.int64)
    own = np.asarray(exclude, np.int64)
    if own.shape != (n_queries,):
        raise DimensionMismatch(f"exclude wants one position for each of {n_queries} queries, got shape {own.shape}")
    if n_queries and not -1 <= own.min() <= own.max() < n_gallery:
        raise BadConfig(
            f"exclude names positions {own.min()} to {own.max()} of a gallery of {n_gallery}; -1 excludes nothing"
        )
    return own
