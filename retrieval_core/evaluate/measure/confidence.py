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
from retrieval_core.evaluate.measure.exact_search import indexed_gallery, item_names
from retrieval_core.evaluate.measure.setup import SearchSetup, Validation, draw_validation
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
COLUMN_OF: dict[RelevanceKind, str] = {"product": "product_id", "category": "category"}
SEARCHED = ("item_id", "row_id", "content_id", "product_id", "category", "split")


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


def measure_confidence(setup: SearchSetup, seed: int) -> MeasuredConfidence:
    """Learn the confidence of searches in the full vectors of an index on validation rows; check it on the queries.

    Relevant is the same product where enough validation queries have another picture of theirs, else the same category.
    """
    items, judgements = setup.items.select(*SEARCHED), setup.protocol.judgements
    validation = draw_validation(items, MAX_QUERIES, len(items), seed, judgements)
    held_out = Validation(setup.items, setup.protocol)
    for kind in COLUMN_OF:
        learned = _examples(setup, validation, "validation", kind)
        if len(learned.is_relevant) >= 2 * MIN_QUERIES:
            model = fit_confidence(*learned, kind)
            return MeasuredConfidence(model, _check(model, learned, _examples(setup, held_out, "gallery", kind)))
    missing = f"Fewer than {MIN_QUERIES} validation queries have a product or a category that others share."
    return MeasuredConfidence(None, ConfidenceFacts(missing=missing))


def _examples(setup: SearchSetup, searched: Validation, name: str, kind: RelevanceKind) -> Examples:
    """Search up to `MAX_QUERIES` queries that something is relevant to, with and without what is relevant.

    `name` says what the gallery is to which the exact searches of the setup are kept.
    """
    items, protocol = searched
    codes, known = getattr(protocol.judgements, kind), getattr(protocol.truth, f"n_same_{kind}")
    if codes is None or known is None or not (known > 0).any():
        return Examples(np.empty((0, 4)), np.empty(0))
    asked = protocol.queries[_spread(np.flatnonzero(known > 0), MAX_QUERIES)]
    query_codes, gallery_codes, category = codes[asked], codes[protocol.gallery], protocol.judgements.category
    gallery = indexed_gallery(setup.index, setup.family, items, asked, protocol.gallery)
    names = item_names(items, COLUMN_OF[kind])
    coded = gallery._replace(
        query_names=names[asked], gallery_names=names[protocol.gallery], codes=(query_codes, gallery_codes)
    )
    every = setup.kept.nearest(name, gallery, DEPTH)
    other = setup.kept.nearest(f"{name} of another {kind}", coded, DEPTH)
    scores: Float32 = np.concatenate([every[0], other[0]])
    positions: Int64 = np.concatenate([every[1], other[1]])
    has_hit = positions[:, 0] >= 0
    is_relevant = (np.append(gallery_codes, -1)[positions[:, :N_HITS]] == np.tile(query_codes, 2)[:, None]).any(axis=1)
    is_relevant[len(query_codes) :] = False
    scores, positions = scores[has_hit], positions[has_hit]
    categories = np.full((len(positions), N_HITS), -1, np.int64)
    if category is not None:
        categories = np.append(category[protocol.gallery], -1)[positions[:, :N_HITS]]
    hits, which = np.unique(positions[:, 0], return_inverse=True)
    around = indexed_gallery(setup.index, setup.family, items, protocol.gallery[hits], protocol.gallery)
    nearest_hits, _ = setup.kept.nearest(f"{name} by its items", around, DEPTH, own=hits)
    density = mean_cosine(nearest_hits.astype(np.float64))[which]
    return Examples(hit_features(scores.astype(np.float64), density, categories), is_relevant[has_hit].astype(float))


def _spread(rows: Int64, n: int) -> Int64:
    """Return up to `n` of these rows, evenly spread over them."""
    return rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)]


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
