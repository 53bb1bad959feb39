"""Vectors like those of a catalogue, the queries that tune an index of them, and recall."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.config.stages import IndexConfig
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import Recipe
from retrieval_core.index.tune import TuneQueries, tune_queries

VIEWS = 5  # pictures of one product
FACTORS = 24  # dimensions of the manifold of products
BLOCK_ROWS = 50_000  # drawn at a time


def draw(n_rows: int, dim: int, seed: int = 0) -> Float32:
    """Return (n_rows, dim) float32 of unit length: five noisy views of each product of a manifold, in random order."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((FACTORS, dim), np.float32)
    positions = rng.permutation(n_rows)
    vectors = np.empty((n_rows, dim), np.float32)
    for start in range(0, n_rows, BLOCK_ROWS):
        rows = positions[start : start + BLOCK_ROWS]
        products = rng.standard_normal((-(-len(rows) // VIEWS), FACTORS), np.float32)
        views = np.repeat(products, VIEWS, axis=0)[: len(rows)]
        views += np.float32(0.35) * rng.standard_normal(views.shape, np.float32)
        block = views @ mixing + np.float32(0.5) * rng.standard_normal((len(rows), dim), np.float32)
        vectors[rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def draw_row_ids(n_rows: int) -> Int64:
    """Return (n_rows,) different row ids in random order, like hashes."""
    ids: Int64 = np.random.default_rng(1).integers(2**62, size=n_rows + n_rows // 100 + 100)
    return np.unique(ids)[np.random.default_rng(2).permutation(n_rows)]


def train_positions(n_rows: int, recipe: Recipe, seed: int) -> Int64:
    """Return the sorted positions of the rows, drawn at random, that a template of this recipe is trained on."""
    return np.sort(np.random.default_rng(seed).choice(n_rows, recipe.train_rows, replace=False))


def draw_tune_queries(
    index: ShardedIndex, row_ids: Int64, config: IndexConfig, reduced: Callable[[Float32], Float32] = lambda full: full
) -> TuneQueries:
    """Draw rows of the index as the queries to tune it with, as a nightly run does."""
    n_queries = min(config.tune_queries, len(row_ids))
    query_ids = np.sort(np.random.default_rng(config.seed).choice(row_ids, n_queries, replace=False))
    return tune_queries(index, query_ids, reduced(index.vectors_of(query_ids)))


def recall(hits: Int64, truth: Int64) -> float:
    """Return the share of the (q, k) true neighbours that are among the (q, k) hits."""
    return float((hits[:, :, None] == truth[:, None, :]).any(axis=1).mean())
