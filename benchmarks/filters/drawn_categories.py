"""Vectors of a catalogue whose categories lie apart, as those of a trained network do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int64

N_CATEGORIES = 40  # the n-th has 1/n times the rows of the first
N_COLOURS = 12
FACTORS = 24  # dimensions of the manifold of a category's products
VIEWS = 5  # pictures of one product


class DrawnCategories(NamedTuple):
    """Unit vectors (n, dim), and the number of the category and of the colour of each row."""

    vectors: Float32
    category: Int64
    colour: Int64


def draw_categories(n_rows: int, dim: int, seed: int = 0) -> DrawnCategories:
    """Return rows around one centre for each category, with a smaller shift for each colour, and noise."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, N_CATEGORIES + 1)
    category = rng.choice(N_CATEGORIES, n_rows, p=frequency / frequency.sum())
    colour = rng.integers(0, N_COLOURS, n_rows)
    centres, shifts = rng.standard_normal((N_CATEGORIES, dim)), 0.3 * rng.standard_normal((N_COLOURS, dim))
    vectors = centres[category] + shifts[colour] + 0.3 * rng.standard_normal((n_rows, dim))
    for number in range(N_CATEGORIES):
        rows = np.flatnonzero(category == number)
        products = np.repeat(rng.standard_normal((-(-len(rows) // VIEWS), FACTORS)), VIEWS, axis=0)[: len(rows)]
        views = products + 0.35 * rng.standard_normal(products.shape)
        vectors[rows] += 0.6 * views @ rng.standard_normal((FACTORS, dim)) / np.sqrt(FACTORS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return DrawnCategories(vectors.astype(np.float32), category, colour)
