"""The index as a searcher meets it: what it finds of the true nearest, what that is worth, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.evaluate.measure.protocol import positions_in_gallery
from retrieval_core.evaluate.measure.search_setup import Bench, K, single_query_ms
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.ranking import ann_recall
from retrieval_core.metrics.retrieval import Scores, score

N_TIMED = 100
N_TIMED_A_POINT = 30
MAX_TIMED_POINTS = 12


class CurvePoint(TunePoint):
    """A way to search that was tried, and the median of single queries; None where it was not timed."""

    latency_ms: float | None = None


class Published(NamedTuple):
    """Hits of the queries: (q, 10) positions in the gallery with their cosines, and what they are worth.

    `latency_ms` are of up to 100 single queries, `recall` (q,) is each query's against exact search.
    """

    positions: Int64
    scores: Float32
    worth: Scores
    latency_ms: Float64
    recall: Float64


def measure_published(bench: Bench) -> Published:
    """Hits in the gallery, single-query latency, recall against exact search over all rows."""
    protocol, row_ids = bench.protocol, bench.items["row_id"].to_numpy()
    queries = bench.vectors[protocol.queries]
    exact, _ = exact_topk(queries, bench.vectors, K)
    found, _ = bench.find(protocol.queries)
    # Queries are in the index too: ask for enough that ten hits of the gallery are left.
    k = min(len(row_ids), K + 2 * K * len(row_ids) // max(len(protocol.gallery), 1))
    _, hits = bench.find(protocol.queries, max(k, 1))
    positions = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    query, slot = np.nonzero(positions >= 0)
    scores = np.full(positions.shape, -np.inf, np.float32)
    scores[query, slot] = np.vecdot(queries[query], bench.vectors[protocol.gallery[positions[query, slot]]])
    latency_ms = single_query_ms(bench.find, protocol.queries[:N_TIMED])
    return Published(positions, scores, score(positions, protocol.truth), latency_ms, ann_recall(exact, found))


def time_curve(bench: Bench, curve: Sequence[TunePoint], published: tuple[int, int]) -> tuple[CurvePoint, ...]:
    """The ways to search that were tried, up to twelve of them timed: the published one and others along the curve.

    `published` is its (nprobe, rerank_depth).
    """
    n_others = min(len(curve), MAX_TIMED_POINTS - 1)
    timed = {round(i * (len(curve) - 1) / max(n_others - 1, 1)) for i in range(n_others)}
    timed |= {place for place, point in enumerate(curve) if (point.nprobe, point.rerank_depth) == published}
    medians = _median_ms(bench, {place: curve[place] for place in sorted(timed)})
    return tuple(CurvePoint(**point.model_dump(), latency_ms=medians.get(place)) for place, point in enumerate(curve))


def _median_ms(bench: Bench, points: Mapping[int, TunePoint]) -> dict[int, float]:
    """Of single queries; each is asked in every way before the next, so that a busy moment slows all ways alike."""
    rows = bench.protocol.queries[:N_TIMED_A_POINT]
    finds = {
        place: partial(bench.find, nprobe=point.nprobe, rerank_depth=point.rerank_depth)
        for place, point in points.items()
    }
    taken: dict[int, list[float]] = {place: [] for place in points}
    for i in range(len(rows)):
        for place, find in finds.items():
            taken[place] += single_query_ms(find, rows[i : i + 1]).tolist()
    return {place: float(np.median(times)) for place, times in taken.items() if times}
