"""Vectors like those of a catalogue, queries to tune an index with, and what a search found of the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.config import IndexConfig
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import Recipe
from retrieval_core.index.tune import TuneQueries, tune_queries

VIEWS = 5  # pictures of one product
FACTORS = 24  # that products differ in
BLOCK_ROWS = 50_000  # drawn at a time


def draw(n_rows: int, dim: int, seed: int = 0) -> Float32:
    """(n_rows, dim) float32, unit length: products on a manifold of 24 factors, five views of each, noise; shuffled."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((FACTORS, dim), np.float32)
    place = rng.permutation(n_rows)
    drawn = np.empty((n_rows, dim), np.float32)
    for start in range(0, n_rows, BLOCK_ROWS):
        rows = place[start : start + BLOCK_ROWS]
        products = rng.standard_normal((-(-len(rows) // VIEWS), FACTORS), np.float32)
        views = np.repeat(products, VIEWS, axis=0)[: len(rows)]
        views += np.float32(0.35) * rng.standard_normal(views.shape, np.float32)
        block = views @ mixing + np.float32(0.5) * rng.standard_normal((len(rows), dim), np.float32)
        drawn[rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return drawn


def draw_row_ids(n_rows: int) -> Int64:
    """(n_rows,) different hashes."""
    ids: Int64 = np.random.default_rng(1).integers(2**62, size=n_rows + n_rows // 100 + 100)
    return np.unique(ids)[np.random.default_rng(2).permutation(n_rows)]


def train_places(n_rows: int, recipe: Recipe, seed: int) -> Int64:
    """Which of `n_rows` rows a template of this recipe is trained on, at random."""
    return np.sort(np.random.default_rng(seed).choice(n_rows, recipe.train_rows, replace=False))


def drawn_queries(
    index: ShardedIndex, row_ids: Int64, config: IndexConfig, reduced: Callable[[Float32], Float32] = lambda full: full
) -> TuneQueries:
    """Random rows of the index as queries to tune it with, as a nightly run draws them."""
    n_queries = min(config.tune_queries, len(row_ids))
    own = np.sort(np.random.default_rng(config.seed).choice(row_ids, n_queries, replace=False))
    return tune_queries(index, own, reduced(index.vectors_of(own)))


def recall(found: Int64, truth: Int64) -> float:
    """Share of the (q, k) true neighbours among the (q, k) found."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
