"""Exact search for the queries: in each representation of the chain, and within the classes of a query first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int32, Int64
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.errors import DimensionMismatch
from retrieval_core.evaluate.measure.setup import K, SearchSetup
from retrieval_core.index.topk import best_of
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.retrieval import Scores, score

Step = Literal["", "mask", "crop", "head", "PCA", "ANN", "rerank"]


class Link(NamedTuple):
    """A representation of the chain and its metrics: one row a query, one column a metric.

    `step` is what leads to it from the link before, "" for the first.
    """

    name: str
    step: Step
    per_query: pl.DataFrame


def chain_names(variant: Variant, candidates: Variant | Reduced, available: Collection[str]) -> list[tuple[str, Step]]:
    """Return the available variants that lead to the published one and its candidates, each with the step to it.

    With `masked_boosted` published and `pca64` for the candidates: raw, masked, masked_boosted and pca64.
    """
    steps: list[tuple[str, Step]] = [("raw", "")]
    if variant.view != "raw":
        steps.append((variant.view, "crop" if variant.view == "crop" else "mask"))
    if variant.boosted:
        steps.append((str(variant), "head"))
    if candidates != variant:
        steps.append((str(candidates), "PCA"))
    present = [(name, step) for name, step in steps if name in available]
    return [(name, step if number else "") for number, (name, step) in enumerate(present)]


def exact_scores(setup: SearchSetup, vectors: Float32) -> Scores:
    """Score exact search of the gallery with these vectors of the items, (n, any)."""
    protocol = setup.protocol
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], K)
    return score(positions, protocol.truth)


def classified_topk(
    queries: Float32, gallery: Float32, query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """Return the `k` gallery rows nearest to each query, those of the query's classes before all others.

    `queries` (q, d) and `gallery` (n, d) have unit length; `query_classes` (q, m) are the classes to look in,
    `gallery_class` (n,) the likeliest class of each item, -1 for none. Where fewer than k items belong to a query's
    classes, the nearest of the other items follow. Returns (q, k) inner products and (q, k) positions as `exact_topk`
    does; scores fall within the items of the classes, and again within the others.

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
    # The k nearest of the whole gallery hold enough of the other items to fill every free slot.
    free = positions < 0
    rank = np.cumsum(outside, axis=1)
    taken = outside & (rank <= free.sum(axis=1, keepdims=True))
    filled = free & (np.cumsum(free, axis=1) <= outside.sum(axis=1, keepdims=True))
    scores[filled], positions[filled] = nearest_scores[taken], nearest[taken]
    return scores, positions


def _topk_inside(
    queries: Float32, gallery: Float32, query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """Return the `k` best of each query among the items of its classes, padded with -inf and -1."""
    query_rows, hits, hit_scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for name in np.intersect1d(query_classes[query_classes >= 0], gallery_class):
        rows = np.flatnonzero((query_classes == name).any(axis=1))
        members = np.flatnonzero(gallery_class == name)
        scores, positions = exact_topk(queries[rows], gallery[members], min(k, len(members)))
        query_rows.append(np.repeat(rows, positions.shape[1]))
        hits.append(members[positions].ravel())
        hit_scores.append(scores.ravel())
    return best_of(np.concatenate(query_rows), np.concatenate(hits), np.concatenate(hit_scores), len(queries), k)
