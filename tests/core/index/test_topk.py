"""The best candidates of several sources are found, with all that tie."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.index.topk import (
    MATRIX_QUERIES,
    MAX_TIED,
    CandidateSource,
    among_best,
    best_of,
    exact_search,
    kept_candidates,
    pair_scores,
    search_sources,
)


def source(scores: np.ndarray, ids: np.ndarray, asked: list[tuple[int, int]]) -> CandidateSource:
    """Searches (q, n) `scores` of rows `ids` exactly; records in `asked` each number of queries and rows."""

    def search(rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((len(rows), n))
        order = np.argsort(-scores[rows], axis=1)[:, :n]
        found = np.take_along_axis(scores[rows], order, axis=1)
        return found, np.where(np.isfinite(found), ids[order], -1)

    return CandidateSource(search, len(ids))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40), st.integers(1, 9))
def test_the_best_of_all_sources_are_found_with_all_that_tie(
    seed: int, n_sources: int, depth: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (5, 90)).astype(np.float32)
    scores[rng.random((5, 90)) < 0.2] = -np.inf  # rows that the source does not reach for this query
    held = np.append(np.arange(n_sources), rng.integers(0, n_sources, 90 - n_sources) ** 2 // n_sources)
    sources = [source(scores[:, held == n], np.flatnonzero(held == n), []) for n in range(n_sources)]
    found = search_sources(sources, 5, depth)
    assert all(held[row] == n for ids in found.ids for row, n in zip(ids, found.source, strict=True) if row >= 0)
    query, column = kept_candidates(found.scores, found.ids, depth)
    for number in range(5):
        reached = np.sort(scores[number][np.isfinite(scores[number])])[::-1]
        cut = reached[min(depth, len(reached)) - 1] if len(reached) else np.inf
        expected = np.flatnonzero(np.isfinite(scores[number]) & (scores[number] >= cut))
        assert sorted(found.ids[number, column[query == number]].tolist()) == expected.tolist()


def test_a_source_is_searched_for_its_share_and_again_only_when_it_may_hold_more() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((4, 4_000)).astype(np.float32)
    scores[2, :1_000] += 1  # one query finds all it wants in the first source
    asked: list[list[tuple[int, int]]] = [[], [], [], []]
    sources = [
        source(scores[:, 1_000 * n : 1_000 * (n + 1)], np.arange(1_000 * n, 1_000 * (n + 1)), asked[n])
        for n in range(4)
    ]
    found = search_sources(sources, 4, 200)
    assert asked[1:] == [[(4, 76)]] * 3
    assert asked[0] == [(4, 76), (1, 152), (1, 304)]
    best = best_of(*flat(found, 200), 4, 200)[1]
    np.testing.assert_array_equal(best, np.argsort(-scores, axis=1, kind="stable")[:, :200])


def flat(found, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    query, column = kept_candidates(found.scores, found.ids, depth)
    return query, found.ids[query, column], found.scores[query, column]


def test_a_group_of_equal_rows_is_fetched_up_to_its_limit() -> None:
    asked: list[tuple[int, int]] = []
    search_sources([source(np.ones((1, 5_000), np.float32), np.arange(5_000), asked)], 1, 10)
    assert asked[0] == (1, 11)
    assert asked[-1] == (1, MAX_TIED)


def test_the_best_scores_of_a_query_are_marked_with_all_that_tie() -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.9], [0.4, 0.3, 0.2, 0.1]], np.float32)
    assert among_best(scores, 2).tolist() == [[False, True, True, True], [True, True, False, False]]
    assert among_best(scores, 4).all()


def test_one_query_scores_as_many_do() -> None:
    rng = np.random.default_rng(0)
    queries, vectors = (rng.standard_normal((n, 37)).astype(np.float32) for n in (8, 500))
    row = rng.integers(0, 500, 300)
    for number in range(8):
        alone = pair_scores(queries[number : number + 1], np.zeros(300, np.int64), vectors, row)
        np.testing.assert_array_equal(alone, pair_scores(queries, np.full(300, number), vectors, row))


@pytest.mark.parametrize("n_pairs", [0, 1, 500])
def test_pairs_in_any_order_are_scored_as_alone(n_pairs: int) -> None:
    rng = np.random.default_rng(5)
    queries, vectors = (rng.standard_normal((n, 24)).astype(np.float32) for n in (30, 70))
    query, row = rng.integers(0, 30, n_pairs), rng.integers(0, 70, n_pairs)
    scores = pair_scores(queries, query, vectors, row)
    assert scores.tolist() == [np.vecdot(vectors[r], queries[q]) for q, r in zip(query, row, strict=True)]
    assert scores.dtype == np.float32


@pytest.mark.parametrize("n_queries", [MATRIX_QUERIES - 1, MATRIX_QUERIES, 70])
def test_an_exact_search_finds_the_nearest_of_any_number_of_queries_and_restores_faiss(
    n_queries: int, in_threads: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    import faiss

    rng = np.random.default_rng(n_queries)
    queries, gallery = (rng.normal(size=(n, 24)).astype(np.float32) for n in (n_queries, 300))
    before = faiss.cvar.distance_compute_blas_threshold
    truth = np.argsort(-(queries.astype(float) @ gallery.T.astype(float)), axis=1)[:, :7]
    for scores, rows in in_threads(4, lambda _: exact_search(queries, gallery, 7)):
        np.testing.assert_array_equal(rows, truth)
        np.testing.assert_allclose(scores, np.take_along_axis(queries @ gallery.T, rows, axis=1), rtol=1e-5)
    assert faiss.cvar.distance_compute_blas_threshold == before
    assert (exact_search(queries, gallery[:3], 7)[1][:, 3:] == -1).all()
