"""What a ranking of neighbours is worth, on plain arrays: average precision, and recall against exact search."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Bool, Float32, Float64, Int64
from retrieval_core.errors import DimensionMismatch

SAME_SCORE = 2e-6  # float32 sums of the same products in another order differ by less


def average_precision(hits: Bool, n_relevant: Int64) -> Float64:
    """Return AP@k of (q, k) hits over min(n_relevant, k): (q,), NaN where nothing is relevant."""
    k = hits.shape[1]
    precision = hits.cumsum(axis=1) / np.arange(1, k + 1)
    possible = np.minimum(n_relevant, k)
    mean = (precision * hits).sum(axis=1) / np.maximum(possible, 1)
    return np.where(possible > 0, mean, np.nan)


def graded_average_precision(gains: Float32, best_gains: Float32) -> Float64:
    """Return AP@k where the k items of largest gain are the relevant ones: (q,), NaN where no item has a gain.

    `gains` (q, k) are those of the hits; `best_gains` (q, >= k) are the largest of the gallery, in falling order. Of
    the items tied for the last relevant places, the first hits count: the largest AP over all ways to break the tie.
    """
    best = best_gains[:, : gains.shape[1]]
    threshold = best[:, -1:]
    n_tied_places = (best == threshold).sum(axis=1, keepdims=True)
    is_tied = gains == threshold
    hits = (gains > threshold) | (is_tied & (is_tied.cumsum(axis=1) <= n_tied_places))
    return average_precision(hits & (gains > 0), (best > 0).sum(axis=1))


def ann_recall(exact_scores: Float32, found_scores: Float32) -> Float64:
    """Return the share of each query's k exact nearest neighbours that an approximate search found: (q,), 0 to 1.

    Both arguments are (q, k) exact scores of the items that were found, -inf where there was none. Scores are compared
    instead of ids, because items with identical vectors are interchangeable. A query without neighbours gets 1. Raises
    `DimensionMismatch`.
    """
    if exact_scores.ndim != 2 or exact_scores.shape != found_scores.shape:
        raise DimensionMismatch(f"exact scores of shape {exact_scores.shape}, found scores of {found_scores.shape}")
    n_exact = np.isfinite(exact_scores).sum(axis=1)
    worst = np.where(np.isfinite(exact_scores), exact_scores, np.inf).min(axis=1, initial=np.inf)
    n_found = (found_scores >= worst[:, None] - SAME_SCORE).sum(axis=1)
    return np.where(n_exact > 0, np.minimum(n_found, n_exact) / np.maximum(n_exact, 1), 1.0)
