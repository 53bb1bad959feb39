"""R-precision and MAP@R, which need the rank of every relevant item and not only the first hits."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.metrics.relevance import Truth, row_blocks


def full_ranking(queries: Float32, gallery: Float32, truth: Truth) -> dict[str, Float64]:
    """Return `r_precision` and `map_at_r` of each query, (q,), NaN without relevant items; {} without codes.

    The gallery is ranked by the inner products of (q, d) and (n, d) vectors; of equal ones the first row comes first.
    """
    query_codes, gallery_codes = _codes(truth)
    n_relevant = truth.n_relevant
    if query_codes is None or gallery_codes is None or n_relevant is None or not gallery.shape[0]:
        return {}
    precision, mean = np.full(len(queries), np.nan), np.full(len(queries), np.nan)
    ranks = np.arange(1, n_relevant.max(initial=0) + 1)
    for block in row_blocks(len(queries), len(gallery)):
        rows = np.arange(len(queries))[block][n_relevant[block] > 0]
        scores = queries[rows] @ gallery.T
        scores[truth.own[rows, None] == np.arange(len(gallery))] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : len(ranks)]
        r = n_relevant[rows, None]
        hits = (gallery_codes[order] == query_codes[rows, None]) & (ranks <= r)
        precision[rows] = hits.sum(axis=1) / r[:, 0]
        mean[rows] = (hits * hits.cumsum(axis=1) / ranks).sum(axis=1) / r[:, 0]
    return {"r_precision": precision, "map_at_r": mean}


def _codes(truth: Truth) -> tuple[Int64 | None, Int64 | None]:
    """Return what must be equal in query and item, in the order of `Truth.n_relevant`."""
    if truth.n_same_product is None:
        return truth.queries.category, truth.gallery.category
    return truth.queries.product, truth.gallery.product
