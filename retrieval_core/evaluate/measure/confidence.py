"""Learn how likely a search finds something relevant, and measure on the held-out queries how true that is.

Every query is searched twice: in the whole gallery, and without the items that would be relevant to it, so that the
right answer is that there is no match. It is learned on the validation rows and checked on the report's queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.exact_search import Gallery, indexed_gallery
from retrieval_core.evaluate.measure.setup import Protocol, draw_validation
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.metrics.exact_knn import Blocks, exact_topk_of_blocks, joined_blocks, merge_topk
from retrieval_core.search.confidence import (
    DEPTH,
    N_HITS,
    Confidence,
    RelevanceKind,
    fit_confidence,
    hit_features,
    mean_cosine,
)

MAX_QUERIES = 500
MIN_QUERIES = 30
N_BINS = 10
KINDS: tuple[RelevanceKind, ...] = ("product", "category")


class ConfidenceBin(Value):
    """Searches of similar confidence: how many, their mean confidence, and the share with a relevant hit."""

    n: int
    predicted: float
    observed: float


class ConfidenceFacts(Value):
    """How true the confidence is on held-out queries, half of the searches being without a relevant item.

    `auc` is how often a search with a relevant hit has the higher confidence, `cosine_auc` the same of the first
    cosine alone; `brier` is the mean squared error, and `ece` the expected calibration error over `bins`. `missing`
    says why there are none, "" where there are.
    """

    kind: RelevanceKind = "category"
    n_learned: int = 0
    n_checked: int = 0
    auc: float = 0.0
    cosine_auc: float = 0.0
    brier: float = 0.0
    ece: float = 0.0
    bins: tuple[ConfidenceBin, ...] = ()
    missing: str = ""


class Examples(NamedTuple):
    """(n, 4) features of searches (`hit_features`), and (n,) whether one of their first hits is relevant, 0 or 1."""

    features: Float64
    is_relevant: Float64


class MeasuredConfidence(NamedTuple):
    """The model, None where the catalogue does not tell what is relevant, and the facts of the report."""

    model: Confidence | None
    facts: ConfidenceFacts


def measure_confidence(index: ShardedIndex, items: pl.DataFrame, protocol: Protocol, seed: int) -> MeasuredConfidence:
    """Learn the confidence of searches in the full vectors of an index on validation rows; check it on the queries.

    `items` are in the index, `protocol` says which of them are the queries of the report, and their gallery. Relevant
    is the same product where enough validation queries have another picture of theirs, else the same category.
    """
    validation = draw_validation(items, MAX_QUERIES, len(items), seed)
    for kind in KINDS:
        learned = _examples(index, validation.items, validation.protocol, kind)
        if len(learned.is_relevant) >= 2 * MIN_QUERIES:
            model = fit_confidence(*learned, kind)
            return MeasuredConfidence(model, _check(model, learned, _examples(index, items, protocol, kind)))
    missing = f"Fewer than {MIN_QUERIES} validation queries have a product or a category that others share."
    return MeasuredConfidence(None, ConfidenceFacts(missing=missing))


def _examples(index: ShardedIndex, items: pl.DataFrame, protocol: Protocol, kind: str) -> Examples:
    """Search up to `MAX_QUERIES` queries that something is relevant to, with and without what is relevant."""
    codes, known = getattr(protocol.judgements, kind), getattr(protocol.truth, f"n_same_{kind}")
    if codes is None or known is None or not (known > 0).any():
        return Examples(np.empty((0, 4)), np.empty(0))
    asked = _spread(np.flatnonzero(known > 0), MAX_QUERIES)
    query_codes = codes[protocol.queries][asked]
    gallery_codes, category = codes[protocol.gallery], protocol.judgements.category
    gallery = indexed_gallery(index, items, protocol)
    queries = gallery._replace(query_ids=gallery.query_ids.gather(asked)).queries()
    scores, positions = _search_twice(queries, gallery.blocks(), query_codes, gallery_codes)
    has_hit = positions[:, 0] >= 0
    is_relevant = (np.append(gallery_codes, -1)[positions[:, :N_HITS]] == np.tile(query_codes, 2)[:, None]).any(axis=1)
    is_relevant[len(query_codes) :] = False
    scores, positions = scores[has_hit], positions[has_hit]
    categories = np.full((len(positions), N_HITS), -1, np.int64)
    if category is not None:
        categories = np.append(category[protocol.gallery], -1)[positions[:, :N_HITS]]
    density = _density(gallery, positions[:, 0])
    return Examples(hit_features(scores.astype(np.float64), density, categories), is_relevant[has_hit].astype(float))


def _spread(rows: Int64, n: int) -> Int64:
    """Return up to `n` of these rows, evenly spread over them."""
    return rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)]


def _search_twice(queries: Float32, blocks: Blocks, query_codes: Int64, gallery_codes: Int64) -> tuple[Float32, Int64]:
    """Return (2q, DEPTH) scores and positions: the nearest items of each query, then the nearest of another code.

    Scores fall and are padded with -inf, positions with -1.
    """
    empty = np.full((len(queries), DEPTH), -np.inf, np.float32), np.full((len(queries), DEPTH), -1, np.int64)
    every, other = empty, empty
    for positions, vectors in joined_blocks(blocks):
        scores: Float32 = queries @ vectors.T
        every = merge_topk(every, _largest(scores, positions))
        scores[query_codes[:, None] == gallery_codes[positions]] = -np.inf
        other = merge_topk(other, _largest(scores, positions))
    return np.concatenate([every[0], other[0]]), np.concatenate([every[1], other[1]])


def _largest(scores: Float32, positions: Int64) -> tuple[Float32, Int64]:
    """Return the `DEPTH` largest scores of each row, in any order, and their positions, -1 for a score of -inf."""
    first = max(scores.shape[1] - DEPTH, 0)
    columns = np.argpartition(scores, first, axis=1)[:, first:]
    largest = np.take_along_axis(scores, columns, axis=1)
    return largest, np.where(np.isfinite(largest), positions[columns], -1)


def _density(gallery: Gallery, positions: Int64) -> Float64:
    """Return the mean cosine of each of these items with its nearest `DEPTH` others, (n,)."""
    unique, which = np.unique(positions, return_inverse=True)
    vectors = gallery.load(gallery.gallery_ids.gather(unique))
    scores, _ = exact_topk_of_blocks(vectors, gallery.blocks(), DEPTH, exclude=unique)
    return mean_cosine(scores.astype(np.float64))[which]


def _check(model: Confidence, learned: Examples, checked: Examples) -> ConfidenceFacts:
    n = len(checked.is_relevant)
    facts = ConfidenceFacts(kind=model.kind, n_learned=len(learned.is_relevant), n_checked=n)
    if not n:
        return facts
    predicted, truth = model.probability(checked.features), checked.is_relevant
    number = np.minimum((predicted * N_BINS).astype(np.int64), N_BINS - 1)
    bins = tuple(
        ConfidenceBin(
            n=int((number == each).sum()),
            predicted=float(predicted[number == each].mean()),
            observed=float(truth[number == each].mean()),
        )
        for each in np.unique(number)
    )
    figures = {
        "auc": area_under_curve(predicted, truth),
        "cosine_auc": area_under_curve(checked.features[:, 0], truth),
        "brier": float(((predicted - truth) ** 2).mean()),
        "ece": sum(each.n * abs(each.predicted - each.observed) for each in bins) / n,
        "bins": bins,
    }
    return facts.model_copy(update=figures)


def area_under_curve(scores: Float64, truth: Float64) -> float:
    """Return how often a positive scores above a negative, ties counting half; 0.5 without both."""
    n_positive = int(truth.sum())
    n_pairs = n_positive * (len(truth) - n_positive)
    ranks = pl.Series(scores).rank().to_numpy()
    above = float(ranks[truth > 0].sum()) - n_positive * (n_positive + 1) / 2
    return above / n_pairs if n_pairs else 0.5
