"""Exact nearest neighbours, which approximate search is measured against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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

Blocks = Iterable[tuple[Int64, Float32]]  # (n,) ascending ids and their (n, d) vectors; no id is in two blocks

MIN_BLOCK_ROWS = 16_384  # smaller blocks are compared together


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


def exact_topk_of_blocks(
    queries: Float32, blocks: Blocks, k: int, *, exclude: Int64 | None = None
) -> tuple[Float32, Int64]:
    """Return what `exact_topk` returns for a gallery that is read block by block, with ids in the place of positions.

    `exclude` (q,) are the ids to leave out, -1 for none. Two blocks are in memory at a time, whatever the size of the
    gallery. Ties go by the lower id. Raises as `exact_topk` does.
    """
    nearest = exact_topk(queries, queries[:0], k)
    for ids, vectors in joined_blocks(blocks):
        own = None if exclude is None else _positions(ids, exclude)
        scores, positions = exact_topk(queries, vectors, k, exclude=own)
        found = np.where(positions >= 0, np.append(ids, -1)[positions], -1)
        nearest = merge_topk(nearest, (scores, found))
    return nearest


def merge_topk(hits: tuple[Float32, Int64], more: tuple[Float32, Int64]) -> tuple[Float32, Int64]:
    """Return the k best of two lists of hits, each (q, k) scores and ids padded with -inf and -1."""
    scores: Float32 = np.concatenate([hits[0], more[0]], axis=1)
    ids: Int64 = np.concatenate([hits[1], more[1]], axis=1)
    query, column = np.nonzero(ids >= 0)
    return best_of(query, ids[query, column], scores[query, column], len(ids), hits[1].shape[1])


def joined_blocks(blocks: Blocks) -> Iterator[tuple[Int64, Float32]]:
    """Yield blocks of `MIN_BLOCK_ROWS` rows or more, the last one apart."""
    joined: list[tuple[Int64, Float32]] = []
    for block in blocks:
        joined += [block] * bool(len(block[0]))
        if sum(len(ids) for ids, _ in joined) >= MIN_BLOCK_ROWS:
            yield _join(joined)
            joined = []
    if joined:
        yield _join(joined)


def _join(blocks: list[tuple[Int64, Float32]]) -> tuple[Int64, Float32]:
    if len(blocks) == 1:
        return blocks[0]
    ids = np.concatenate([ids for ids, _ in blocks])
    order = np.argsort(ids)
    places = np.split(np.argsort(order), np.cumsum([len(ids) for ids, _ in blocks])[:-1])
    vectors = np.empty((len(ids), blocks[0][1].shape[1]), np.float32)
    for place, (_, of_block) in zip(places, blocks, strict=True):
        vectors[place] = of_block
    return ids[order], vectors


def _positions(ascending: Int64, ids: Int64) -> Int64:
    """Return the position of each id in `ascending`, -1 where it is not there."""
    position = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[position] == ids, position, -1)


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
