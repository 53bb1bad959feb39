"""The published index against exact search, and how long each way to search takes."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.evaluate.measure.index_quality import MAX_TIMED_POINTS, measure_index, time_curve
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.ranking import ann_recall
from retrieval_core.metrics.retrieval import score


def curve(n: int) -> tuple[TunePoint, ...]:
    return tuple(TunePoint(nprobe=i + 1, rerank_depth=2, recall=i / n, query_bytes=1000 * i) for i in range(n))


def test_an_exact_index_answers_what_exact_search_does(catalog_items, open_bench, draw_vectors):
    items = catalog_items(400, product_id=[f"p-{i % 80}" for i in range(400)])
    bench = open_bench(items, draw_vectors(400))
    published, protocol = measure_index(bench), bench.protocol
    scores, positions = exact_topk(bench.vectors[protocol.queries], bench.vectors[protocol.gallery], 10)
    assert published.positions.tolist() == positions.tolist()
    assert np.allclose(published.similarities, scores, atol=1e-6)
    assert published.recall.tolist() == [1.0] * len(protocol.queries)
    assert published.scores.summary == score(positions, protocol.truth).summary
    assert len(published.latency_ms) == len(protocol.queries)


def test_an_index_that_looks_in_few_lists_misses_some(catalog_items, open_bench, draw_vectors):
    vectors = draw_vectors(3_000)
    few = measure_index(open_bench(catalog_items(3_000), vectors, key="IVF32,Flat", nprobe=1))
    assert 0.1 < few.recall.mean() < 1


@pytest.mark.parametrize("rerank_depth", [1, 5])
def test_recall_is_that_of_a_search_for_ten(catalog_items, open_bench, draw_vectors, rerank_depth):
    bench = replace(open_bench(catalog_items(400), draw_vectors(400), candidate_dim=4), rerank_depth=rerank_depth)
    queries = bench.protocol.queries
    exact, _ = exact_topk(bench.vectors[queries], bench.vectors[np.arange(400)], 10)
    assert measure_index(bench).recall.tolist() == ann_recall(exact, bench.find(queries)[0]).tolist()


def test_without_queries_nothing_is_measured_and_nothing_breaks(catalog_items, open_bench, draw_vectors):
    bench = open_bench(catalog_items(30, split=[None] * 30), draw_vectors(30))
    published = measure_index(bench)
    assert (len(published.positions), len(published.recall), len(published.latency_ms)) == (0, 0, 0)
    assert [point.latency_ms for point in time_curve(bench, curve(2), (1, 2))] == [None, None]


def test_every_point_of_a_short_curve_is_timed_and_of_a_long_one_the_published(catalog_items, open_bench, draw_vectors):
    bench = open_bench(catalog_items(400), draw_vectors(400), key="IVF8,Flat", nprobe=2)
    short = time_curve(bench, curve(5), (1, 2))
    assert all(point.latency_ms and point.latency_ms > 0 for point in short)
    long = time_curve(bench, curve(40), (18, 2))
    timed = [point.nprobe for point in long if point.latency_ms is not None]
    assert len(long) == 40
    assert len(timed) <= MAX_TIMED_POINTS
    assert {1, 18, 40} <= set(timed)
    assert time_curve(bench, (), (1, 2)) == ()
