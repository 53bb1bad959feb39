"""The published index: what it finds of the exact neighbours, how good its hits are, and how long a query takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int64
from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.evaluate.measure.setup import K, SearchSetup, gallery_depth, positions_in_gallery, single_query_ms
from retrieval_core.metrics.ranking import ann_recall
from retrieval_core.metrics.retrieval import Scores, score

N_TIMED_QUERIES = 100
N_QUERIES_PER_POINT = 30
MAX_TIMED_POINTS = 12


class CurvePoint(TunePoint):
    """A tried setting of the search, with the median latency of single queries; None where it was not timed."""

    latency_ms: float | None = None


class IndexQuality(NamedTuple):
    """The hits of q queries in the published index.

    `positions` (q, 10) in the gallery, -1 where there is none, and `similarities` (q, 10), their cosines; `scores` are
    the metrics of these hits. `latency_ms` has up to 100 single queries. `recall` (q,) compares with exact search,
    which finds `nearest` (q, 10) in the gallery.
    """

    positions: Int64
    similarities: Float32
    scores: Scores
    latency_ms: Float64
    recall: Float64
    nearest: Int64


def measure_index(setup: SearchSetup) -> IndexQuality:
    """Search for every query in the gallery; time single queries; compare with exact search over all rows."""
    protocol, row_ids = setup.protocol, setup.items["row_id"].to_numpy()
    queries = setup.vectors[protocol.queries]
    inside, nearest = setup.exact("gallery", protocol.queries, protocol.gallery)
    outside, _ = setup.exact("others", protocol.queries, np.delete(np.arange(len(row_ids)), protocol.gallery))
    exact = np.sort(np.concatenate([inside, outside], axis=1), axis=1)[:, : -K - 1 : -1]
    k = gallery_depth(len(row_ids), len(protocol.gallery), K)
    found, hits = setup.hits(protocol.queries, max(k, K))
    if k > K * setup.rerank_depth:  # so many hits have more candidates than a search for ten
        found, _ = setup.find(protocol.queries)
    positions = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    query, slot = np.nonzero(positions >= 0)
    similarities = np.full(positions.shape, -np.inf, np.float32)
    similarities[query, slot] = np.vecdot(queries[query], setup.vectors[protocol.gallery[positions[query, slot]]])
    latency_ms = single_query_ms(setup.find, protocol.queries[:N_TIMED_QUERIES])
    scores, recall = score(positions, protocol.truth), ann_recall(exact, found[:, :K])
    return IndexQuality(positions, similarities, scores, latency_ms, recall, nearest)


def time_curve(setup: SearchSetup, curve: Sequence[TunePoint], published: tuple[int, int]) -> tuple[CurvePoint, ...]:
    """Time up to twelve points of the curve: the published one, (nprobe, rerank_depth), and others spread along it."""
    n_others = min(len(curve), MAX_TIMED_POINTS - 1)
    timed = {round(i * (len(curve) - 1) / max(n_others - 1, 1)) for i in range(n_others)}
    timed |= {position for position, point in enumerate(curve) if (point.nprobe, point.rerank_depth) == published}
    medians = _median_ms(setup, {position: curve[position] for position in sorted(timed)})
    return tuple(CurvePoint(**point.model_dump(), latency_ms=medians.get(i)) for i, point in enumerate(curve))


def _median_ms(setup: SearchSetup, points: Mapping[int, TunePoint]) -> dict[int, float]:
    """Return the median milliseconds of single queries by point.

    Each query runs at every point before the next one, so that a busy moment slows all points alike.
    """
    rows = setup.protocol.queries[:N_QUERIES_PER_POINT]
    finds = {
        position: partial(setup.find, nprobe=point.nprobe, rerank_depth=point.rerank_depth)
        for position, point in points.items()
    }
    elapsed_ms: dict[int, list[float]] = {position: [] for position in points}
    for i in range(len(rows)):
        for position, find in finds.items():
            elapsed_ms[position] += single_query_ms(find, rows[i : i + 1]).tolist()
    return {position: float(np.median(times)) for position, times in elapsed_ms.items() if times}
