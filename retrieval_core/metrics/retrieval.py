"""Top-k retrieval metrics, one value a query, from the positions of each query's nearest gallery items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.arrays import Bool, Float32, Float64, Int64
from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.distortions import DISTORTIONS
from retrieval_core.metrics.relevance import (
    MAX_CUTOFF,
    Judgements,
    Truth,
    find_truth,
    neighbour_gain,
    neighbour_iou,
    same_code,
)

# One metric for each kind of truth. Holm's correction pays for every metric tested, and recall@2 after recall@1 asks
# the same question again: with all metrics tested, a real loss of two points would often pass.
HEADLINES = ("recall@1", "map@5", "attribute_map@10", "label_iou@5")
UNLABELLED = ("golden/hit@1", "synthetic/recall@1")  # as much of the queries whose answer needs no labels

RECALL_CUTOFFS = (1, 2, 3, 5, 10)
MAP_CUTOFFS = (1, 3, 5, 10)
N_NEIGHBOURS = 5
SAME_SCORE = 2e-6  # float32 sums of the same products in another order differ by less

_SAME_PRODUCT = "queries whose product has no gallery item are left out"
_SAME_CATEGORY = "queries whose category has no gallery item are left out"
METRIC_DEFINITIONS: dict[str, str] = {
    **{
        f"recall@{k}": f"Share of queries with an item of the same product among the first {k}; {_SAME_PRODUCT}."
        for k in RECALL_CUTOFFS
    },
    "precision@5": f"Items of the query's category among the first 5, over 5; {_SAME_CATEGORY}.",
    "recall_of_category@5": "Items of the query's category among the first 5, over all of that category in the "
    f"gallery; {_SAME_CATEGORY}.",
    "accuracy@5": f"Share of queries with at least one item of their category among the first 5; {_SAME_CATEGORY}.",
    **{
        f"map@{k}": f"Mean average precision of the first {k}, over min(relevant, {k}). Relevant: the same category; "
        f"in a catalogue without categories, the {k} gallery items of largest gain, as in attribute_map@10."
        for k in MAP_CUTOFFS
    },
    "attribute_map@10": "Mean average precision of the first 10 against the 10 gallery items of largest gain, over "
    "min(10, items with a gain). Gain: 1 if category and all attributes are equal, times the label IoU. Of items tied "
    "for the last places those found first count; queries that no item has a gain for are left out.",
    "label_iou@5": "Shared labels over labels of either, averaged over the 5 nearest items; queries without labels are "
    "left out.",
    "label_iou@5_std": "Standard deviation over queries of their label_iou@5.",
    "label_iou@5_random": "label_iou@5 of 5 gallery items drawn at random for each query.",
    "label_iou@5_random_std": "Standard deviation over queries of their label_iou@5_random.",
    "ann_recall@10": "Share of the 10 exact nearest items that the index also returns, averaged over queries.",
    "golden/hit@1": "Share of the golden queries whose first hit is expected.",
    "golden/recall@10": "Expected pictures among the first 10 hits (or the query's own k), over as many as could be "
    "there, averaged over golden queries.",
    "golden/mrr": "1 / the rank of the first expected hit, 0 where none is among the first 10 (or the query's own k), "
    "averaged over golden queries.",
    "synthetic/recall@1": "Share of an item's synthetic queries, its picture changed on purpose, whose first hit is "
    "the item, or another with the very same picture; averaged over items.",
    **{
        f"synthetic/{distortion.name}/recall@1": f"synthetic/recall@1 of those with {distortion.meaning}."
        for distortion in DISTORTIONS
    },
    "mask_iou": "Pixels shared by the predicted and the true mask over pixels of either, averaged over pictures.",
    "f1_example": "F1 of each picture's predicted labels, averaged over pictures, at the threshold where it is best.",
    "accuracy_example": "Labels both predicted and true over labels of either, averaged over pictures.",
    "precision_example": "Share of a picture's predicted labels that are true, averaged over pictures.",
    "recall_example": "Share of a picture's true labels that are predicted, averaged over pictures.",
}


class Scores(NamedTuple):
    """What a search achieved.

    per_query: one row a query in their order, one Float64 column a metric, null where the query leaves it undefined; a
    metric that no query defines has no column. summary: means over the queries that define each, and `label_iou@5_std`.
    """

    per_query: pl.DataFrame
    summary: dict[str, float]


def retrieval_metrics(positions: Int64, queries: Judgements, gallery: Judgements) -> Scores:
    """Score one search: `score(positions, find_truth(queries, gallery))`. To score several, find the truth once."""
    return score(positions, find_truth(queries, gallery))


def score(positions: Int64, truth: Truth) -> Scores:
    """Score (q, k >= 10) int64 positions into the gallery, nearest first, -1 where fewer were found.

    `METRIC_DEFINITIONS` says what each metric means. Raises `DimensionMismatch` when positions and truth do not fit.
    """
    _check(positions, truth)
    found = positions[:, :MAX_CUTOFF]
    columns = {**_product_metrics(found, truth), **_category_metrics(found, truth), **_graded_metrics(found, truth)}
    defined = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    summary = {name: float(np.nanmean(values)) for name, values in defined.items()}
    if "label_iou@5" in defined:
        summary["label_iou@5_std"] = float(np.nanstd(defined["label_iou@5"]))
    per_query = pl.DataFrame(height=len(found)).with_columns(pl.Series(*column) for column in defined.items())
    return Scores(per_query.fill_nan(None), summary)


def _check(positions: Int64, truth: Truth) -> None:
    n_queries, n_gallery = truth.queries.n_items, truth.gallery.n_items
    if positions.ndim != 2 or positions.shape[0] != n_queries or positions.shape[1] < MAX_CUTOFF:
        raise DimensionMismatch(f"positions of shape {positions.shape}, expected ({n_queries}, {MAX_CUTOFF} or more)")
    if positions.size and not -1 <= positions.min() <= positions.max() < n_gallery:
        raise DimensionMismatch(
            f"positions {positions.min()} to {positions.max()}, "
            f"expected -1 to {n_gallery - 1} in a gallery of {n_gallery} items"
        )


def _product_metrics(found: Int64, truth: Truth) -> dict[str, Float64]:
    n_relevant = truth.n_same_product
    if truth.queries.product is None or truth.gallery.product is None or n_relevant is None:
        return {}
    hits = same_code(truth.queries.product, truth.gallery.product, found)
    return {f"recall@{k}": _where(n_relevant > 0, hits[:, :k].any(axis=1)) for k in RECALL_CUTOFFS}


def _category_metrics(found: Int64, truth: Truth) -> dict[str, Float64]:
    n_relevant = truth.n_same_category
    if truth.queries.category is None or truth.gallery.category is None or n_relevant is None:
        return {}
    hits = same_code(truth.queries.category, truth.gallery.category, found)
    n_hits = hits[:, :N_NEIGHBOURS].sum(axis=1)
    return {
        "precision@5": _where(n_relevant > 0, n_hits / N_NEIGHBOURS),
        "recall_of_category@5": _where(n_relevant > 0, n_hits / np.maximum(n_relevant, 1)),
        "accuracy@5": _where(n_relevant > 0, n_hits > 0),
        **{f"map@{k}": average_precision(hits[:, :k], n_relevant) for k in MAP_CUTOFFS},
    }


def _graded_metrics(found: Int64, truth: Truth) -> dict[str, Float64]:
    columns: dict[str, Float64] = {}
    if truth.best_gains is not None:
        gains = neighbour_gain(truth, found)
        columns["attribute_map@10"] = graded_average_precision(gains, truth.best_gains)
        if truth.queries.category is None:
            columns |= {f"map@{k}": graded_average_precision(gains[:, :k], truth.best_gains) for k in MAP_CUTOFFS}
    if truth.queries.labels is not None and truth.gallery.n_items:
        iou = neighbour_iou(truth.queries, truth.gallery, found[:, :N_NEIGHBOURS])
        mean = iou.sum(axis=1) / min(N_NEIGHBOURS, truth.gallery.n_items)
        columns["label_iou@5"] = _where(truth.queries.labels.any(axis=1), mean)
    return columns


def average_precision(hits: Bool, n_relevant: Int64) -> Float64:
    """AP@k of (q, k) bool hits, over min(n_relevant, k): (q,) float64, NaN where nothing is relevant."""
    k = hits.shape[1]
    precision = hits.cumsum(axis=1) / np.arange(1, k + 1)
    possible = np.minimum(n_relevant, k)
    return _where(possible > 0, (precision * hits).sum(axis=1) / np.maximum(possible, 1))


def graded_average_precision(gains: Float32, best_gains: Float32) -> Float64:
    """AP@k of (q, k) gains of what was found, the k items of largest gain being the truth: (q,) float64, NaN if none.

    `best_gains` (q, >= k) are the largest gains there are, falling. Of the items tied at the truth's edge, as many
    count as there are places left, those found first: the largest AP that any way of breaking the tie would give.
    """
    best = best_gains[:, : gains.shape[1]]
    edge = best[:, -1:]
    n_places_at_edge = (best == edge).sum(axis=1, keepdims=True)
    at_edge = gains == edge
    hits = (gains > edge) | (at_edge & (at_edge.cumsum(axis=1) <= n_places_at_edge))
    return average_precision(hits & (gains > 0), (best > 0).sum(axis=1))


def _where(defined: npt.ArrayLike, values: npt.ArrayLike) -> Float64:
    return np.where(defined, np.asarray(values, np.float64), np.nan)


def random_scores(truth: Truth, seed: int) -> Scores:
    """What retrieval at random achieves: for each query up to 10 gallery items are drawn without replacement."""
    n_found = min(MAX_CUTOFF, truth.gallery.n_items)
    positions = np.full((truth.queries.n_items, MAX_CUTOFF), -1, np.int64)
    positions[:, :n_found] = _draw_distinct(np.random.default_rng(seed), truth, n_found)
    return score(positions, truth)


def random_baseline(truth: Truth, seed: int) -> dict[str, float]:
    """`{metric}_random` for every metric of `random_scores`, and `label_iou@5_random_std`."""
    summary = random_scores(truth, seed).summary
    deviation = {"label_iou@5_random_std": summary.pop("label_iou@5_std")} if "label_iou@5_std" in summary else {}
    return {f"{name}_random": value for name, value in summary.items()} | deviation


def _draw_distinct(rng: np.random.Generator, truth: Truth, n_drawn: int) -> Int64:
    """(q, n_drawn) gallery positions, distinct within a row and uniform, without shuffling a gallery for each query."""
    drawn = np.empty((truth.queries.n_items, 0), np.int64)
    for i in range(n_drawn):
        # The r-th of the items not drawn yet lies behind every drawn item that is at or before it.
        pick = rng.integers(0, truth.gallery.n_items - i, len(drawn))
        for earlier in np.sort(drawn, axis=1).T:
            pick += pick >= earlier
        drawn = np.column_stack([drawn, pick])
    return drawn


def ann_recall(exact_scores: Float32, found_scores: Float32) -> Float64:
    """Share of each query's k exact nearest neighbours that an approximate search found: two (q, k) to (q,) float64.

    Both hold the exact scores of what was found, -inf where nothing was. Scores are compared, not ids: of pictures that
    are the same any will do. A query without neighbours misses nothing: 1. Raises `DimensionMismatch`.
    """
    if exact_scores.ndim != 2 or exact_scores.shape != found_scores.shape:
        raise DimensionMismatch(f"exact scores of shape {exact_scores.shape}, found scores of {found_scores.shape}")
    n_wanted = np.isfinite(exact_scores).sum(axis=1)
    worst = np.where(np.isfinite(exact_scores), exact_scores, np.inf).min(axis=1, initial=np.inf)
    n_found = (found_scores >= worst[:, None] - SAME_SCORE).sum(axis=1)
    return np.where(n_wanted > 0, np.minimum(n_found, n_wanted) / np.maximum(n_wanted, 1), 1.0)
