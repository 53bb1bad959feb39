"""The metrics of a search for single queries, and their expectation where the gallery is in random order.

A function returns one value a query, (q,) with NaN where the query leaves the metric undefined, or None where the
catalogue does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from retrieval_core.arrays import Bool, Float32, Float64, Int64
from retrieval_core.metrics import chance
from retrieval_core.metrics.ranking import average_precision, graded_average_precision
from retrieval_core.metrics.relevance import (
    MAX_CUTOFF,
    BestGains,
    Truth,
    is_labelled,
    neighbour_gain,
    neighbour_iou,
    same_code,
)

N_NEIGHBOURS = 5


class Retrieval:
    """What a search found for q queries, and what is right; each judgement of the hits is computed once.

    `positions` (q, 10) are positions in the gallery, nearest first, -1 where fewer were found. Judgements are None
    where the catalogue does not say what they need.
    """

    def __init__(self, positions: Int64, truth: Truth) -> None:
        self.positions, self.truth = positions, truth

    @cached_property
    def product_hits(self) -> Bool | None:
        """(q, 10): whether the hit is of the query's product."""
        queries, gallery = self.truth.queries.product, self.truth.gallery.product
        return None if queries is None or gallery is None else same_code(queries, gallery, self.positions)

    @cached_property
    def category_hits(self) -> Bool | None:
        """(q, 10): whether the hit is of the query's category."""
        queries, gallery = self.truth.queries.category, self.truth.gallery.category
        return None if queries is None or gallery is None else same_code(queries, gallery, self.positions)

    @cached_property
    def gains(self) -> Float32 | None:
        """(q, 10): the graded relevance of the hits by label IoU, 0 to 1."""
        return None if self.truth.best_gains is None else neighbour_gain(self.truth, self.positions)

    @cached_property
    def shares(self) -> Float32 | None:
        """(q, 10): the graded relevance of the hits by the share of the query's labels, 0 to 1."""
        return None if self.truth.best_shares is None else neighbour_gain(self.truth, self.positions, shares=True)


def recall(k: int) -> Callable[[Retrieval], Float64 | None]:
    def compute(retrieval: Retrieval) -> Float64 | None:
        hits, n_relevant = retrieval.product_hits, retrieval.truth.n_same_product
        if hits is None or n_relevant is None:
            return None
        return _where(n_relevant > 0, hits[:, :k].any(axis=1))

    return compute


def recall_chance(k: int) -> Callable[[Truth], Float64 | None]:
    return lambda truth: _of_relevant(truth, truth.n_same_product, lambda n, r: chance.hit_probability(n, r, k))


def category_share(share: Callable[[Int64, Int64], npt.ArrayLike]) -> Callable[[Retrieval], Float64 | None]:
    """A metric of the number of hits of the query's category among the first 5, and of their number in the gallery."""

    def compute(retrieval: Retrieval) -> Float64 | None:
        hits, n_relevant = retrieval.category_hits, retrieval.truth.n_same_category
        if hits is None or n_relevant is None:
            return None
        return _where(n_relevant > 0, share(hits[:, :N_NEIGHBOURS].sum(axis=1), np.maximum(n_relevant, 1)))

    return compute


def category_chance(expected: Callable[[Int64, Int64], npt.ArrayLike]) -> Callable[[Truth], Float64 | None]:
    return lambda truth: _of_relevant(truth, truth.n_same_category, expected)


def _of_relevant(
    truth: Truth, n_relevant: Int64 | None, expected: Callable[[Int64, Int64], npt.ArrayLike]
) -> Float64 | None:
    """Return `expected` of the items and the relevant items that each query can find, NaN without relevant items."""
    if n_relevant is None:
        return None
    return _where(n_relevant > 0, expected(np.maximum(truth.n_items, 1), np.maximum(n_relevant, 1)))


def mean_average_precision(k: int) -> Callable[[Retrieval], Float64 | None]:
    def compute(retrieval: Retrieval) -> Float64 | None:
        hits, n_relevant = retrieval.category_hits, retrieval.truth.n_same_category
        if hits is not None and n_relevant is not None:
            return average_precision(hits[:, :k], n_relevant)
        return attribute_map(k)(retrieval) if retrieval.truth.queries.category is None else None

    return compute


def mean_average_precision_chance(k: int) -> Callable[[Truth], Float64 | None]:
    def expected(n: Int64, r: Int64) -> Float64:
        none = np.zeros_like(r)
        return chance.expected_precision_sum(n, r, none, none, k) / np.minimum(r, k)

    def compute(truth: Truth) -> Float64 | None:
        if truth.n_same_category is not None:
            return _of_relevant(truth, truth.n_same_category, expected)
        return attribute_map_chance(k)(truth) if truth.queries.category is None else None

    return compute


def attribute_map(k: int) -> Callable[[Retrieval], Float64 | None]:
    def compute(retrieval: Retrieval) -> Float64 | None:
        gains, truth = retrieval.gains, retrieval.truth.best_gains
        return None if gains is None or truth is None else graded_average_precision(gains[:, :k], truth.best)

    return compute


def attribute_map_chance(k: int) -> Callable[[Truth], Float64 | None]:
    def compute(truth: Truth) -> Float64 | None:
        if truth.best_gains is None:
            return None
        n_possible = (truth.best_gains.best[:, :k] > 0).sum(axis=1)
        return _where(n_possible > 0, _graded_sum(truth, truth.best_gains, k) / np.maximum(n_possible, 1))

    return compute


def _graded_sum(truth: Truth, gains: BestGains, k: int) -> Float64:
    """Return the expected sum of precisions at the hits of largest gain: (q,)."""
    best = gains.best[:, :k]
    threshold = best[:, -1:]
    n_equal = (gains.best == threshold).sum(axis=1) + (best[:, -1] == gains.best[:, -1]) * gains.n_more_tied
    has_edge = threshold[:, 0] > 0
    places = (best == threshold).sum(axis=1) * has_edge
    strict = (best > np.maximum(threshold, 0)).sum(axis=1)
    return chance.expected_precision_sum(truth.n_items, strict, n_equal * has_edge, places, k)


def share_map(retrieval: Retrieval) -> Float64 | None:
    shares, truth = retrieval.shares, retrieval.truth.best_shares
    if shares is None or truth is None:
        return None
    n_possible = (truth.best > 0).sum(axis=1)
    ap = np.nan_to_num(graded_average_precision(shares, truth.best)) * n_possible / MAX_CUTOFF
    return _where(retrieval.truth.n_items > 0, ap)


def share_map_chance(truth: Truth) -> Float64 | None:
    if truth.best_shares is None:
        return None
    return _where(truth.n_items > 0, _graded_sum(truth, truth.best_shares, MAX_CUTOFF) / MAX_CUTOFF)


def r_chance(expected: Callable[[Int64, Int64], npt.ArrayLike]) -> Callable[[Truth], Float64 | None]:
    return lambda truth: _of_relevant(truth, truth.n_relevant, expected)


def label_iou(retrieval: Retrieval) -> Float64 | None:
    queries, gallery = retrieval.truth.queries, retrieval.truth.gallery
    if queries.labels is None or gallery.labels is None or not gallery.n_items:
        return None
    iou = neighbour_iou(queries, gallery, retrieval.positions[:, :N_NEIGHBOURS])
    n_found = np.clip(retrieval.truth.n_items, 1, N_NEIGHBOURS)
    return _where(is_labelled(queries.labels), iou.sum(axis=1) / n_found)


def label_iou_chance(truth: Truth) -> tuple[Float64, Float64] | None:
    """Return the mean and the variance of a query's label IoU with five items that are drawn without replacement."""
    labels, gallery_labels, n_items = truth.queries.labels, truth.gallery.labels, truth.n_items
    if labels is None or gallery_labels is None or not (n_items > 0).all():
        return None
    mean, variance = chance.iou_moments(labels, gallery_labels, truth.own)
    has_labels, n_drawn = is_labelled(labels), np.minimum(n_items, N_NEIGHBOURS)
    of_mean = variance / n_drawn * (n_items - n_drawn) / np.maximum(n_items - 1, 1)
    return _where(has_labels, mean), _where(has_labels, of_mean)


def _where(defined: npt.ArrayLike, values: npt.ArrayLike) -> Float64:
    return np.where(defined, np.asarray(values, np.float64), np.nan)
