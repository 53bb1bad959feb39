"""Classify, then nearest: exact search among the gallery items of a query's likeliest classes."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Float32, Int32, Int64
from retrieval_core.errors import DimensionMismatch
from retrieval_core.index.topk import best_of
from retrieval_core.metrics.exact_knn import exact_topk


def classified_topk(
    queries: Float32, gallery: Float32, query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """The `k` gallery rows nearest to each query, those of its classes before all others.

    `queries` (q, d) and `gallery` (n, d) float32, unit length; `query_classes` (q, m) are the classes a query is looked
    for in, `gallery_class` (n,) the likeliest one of each item, -1 in either for none. Where fewer than k items are of
    a query's classes, the nearest of the others follow them, whatever their class. Returns (q, k) float32 inner
    products and (q, k) int64 positions as `exact_topk` does, equal scores by the lower position; scores fall among the
    items of the classes, and again among the others.

    Raises what `exact_topk` raises, and `DimensionMismatch` where classes and vectors do not fit.
    """
    if query_classes.ndim != 2 or len(query_classes) != len(queries) or gallery_class.shape != (len(gallery),):
        raise DimensionMismatch(
            f"classes of shape {query_classes.shape} for {len(queries)} queries and {gallery_class.shape} for a "
            f"gallery of {len(gallery)}; expected ({len(queries)}, any) and ({len(gallery)},)"
        )
    nearest_scores, nearest = exact_topk(queries, gallery, k)
    of_class = (gallery_class[nearest] if len(gallery) else nearest)[:, :, None] == query_classes[:, None, :]
    outside = (nearest >= 0) & ~((query_classes >= 0)[:, None, :] & of_class).any(axis=2)
    scores, positions = _topk_inside(queries, gallery, query_classes, gallery_class, k)
    # The k nearest of all hold more than enough of the others: at most as many are inside as were found there.
    free = positions < 0
    rank = np.cumsum(outside, axis=1)
    taken = outside & (rank <= free.sum(axis=1, keepdims=True))
    filled = free & (np.cumsum(free, axis=1) <= outside.sum(axis=1, keepdims=True))
    scores[filled], positions[filled] = nearest_scores[taken], nearest[taken]
    return scores, positions


def _topk_inside(
    queries: Float32, gallery: Float32, query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """The `k` best of each query among the items of its classes, class by class, padded with -inf and -1."""
    asking, found, scored = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for name in np.intersect1d(query_classes[query_classes >= 0], gallery_class):
        rows = np.flatnonzero((query_classes == name).any(axis=1))
        members = np.flatnonzero(gallery_class == name)
        scores, places = exact_topk(queries[rows], gallery[members], min(k, len(members)))
        asking.append(np.repeat(rows, places.shape[1]))
        found.append(members[places].ravel())
        scored.append(scores.ravel())
    return best_of(np.concatenate(asking), np.concatenate(found), np.concatenate(scored), len(queries), k)
