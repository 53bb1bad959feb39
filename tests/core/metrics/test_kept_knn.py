"""Neighbours that are kept from run to run are those of a full search, whatever came, went or changed in between."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.parts import unit_length
from retrieval_core.metrics import kept_knn
from retrieval_core.metrics.exact_knn import exact_topk, exact_topk_of_blocks
from retrieval_core.metrics.kept_knn import NOTHING_KEPT, KeptSearch, nearest_since

N_NAMES = 60


class Counted:
    """An exact search among the vectors of names, which counts the pairs that it compares."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> None:
        self.queries, self.gallery, self.n_pairs = vectors[queries], vectors[gallery], 0
        self.depths: list[tuple[int, int]] = []

    def __call__(self, rows: np.ndarray, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.n_pairs += len(rows) * len(places)
        self.depths.append((len(rows), k))
        return exact_topk_of_blocks(self.queries[rows], [(places, self.gallery[places])], k)


def draw_vectors(is_whole: bool, seed: int, n: int = N_NAMES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if is_whole:  # every product is exact, so many rows tie
        return rng.integers(-1, 2, (n, 3)).astype(np.float32)
    return unit_length(rng.standard_normal((n, 24)).astype(np.float32))


@given(
    runs=st.lists(
        st.tuples(
            st.lists(st.integers(0, N_NAMES - 1), unique=True), st.lists(st.integers(0, N_NAMES - 1), unique=True)
        ),
        min_size=1,
        max_size=6,
    ),
    k=st.integers(1, 6),
    reserve=st.integers(0, 8),
    few=st.integers(1, 4),
    is_whole=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_history_gives_the_neighbours_of_a_full_search(
    runs: list[tuple[list[int], list[int]]], k: int, reserve: int, few: int, is_whole: bool, seed: int
) -> None:
    vectors, kept = draw_vectors(is_whole, seed), NOTHING_KEPT
    with mock.patch.multiple(kept_knn, RESERVE=reserve, FEW=few):
        for drawn_queries, drawn_gallery in runs:
            queries, gallery = np.array(drawn_queries, np.int64), np.array(drawn_gallery, np.int64)
            scores, rows, kept = nearest_since(kept, queries, gallery, k, Counted(vectors, queries, gallery))
            expected_scores, expected = exact_topk(vectors[queries], vectors[gallery], k)
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(scores, expected_scores)
            check_complete(kept, vectors, gallery)


def check_complete(kept: KeptSearch, vectors: np.ndarray, gallery: np.ndarray) -> None:
    """A kept list holds exactly the rows above its floor."""
    for query, found, scores, floor in zip(*kept[1:], strict=True):
        exact = np.vecdot(vectors[gallery], vectors[query])
        assert set(found[found >= 0]) == set(gallery[exact > floor])
        assert (np.diff(scores[found >= 0]) <= 0).all()


@pytest.fixture
def searched() -> tuple[np.ndarray, KeptSearch]:
    vectors, queries, gallery = draw_vectors(False, 0, 1_100), np.arange(100), np.arange(100, 1_000)
    return vectors, nearest_since(NOTHING_KEPT, queries, gallery, 10, Counted(vectors, queries, gallery))[2]


def test_only_new_rows_are_compared_while_few_left(searched: tuple[np.ndarray, KeptSearch]) -> None:
    vectors, kept = searched
    gallery = np.r_[110:1_020]
    search = Counted(vectors, np.arange(100), gallery)
    nearest_since(kept, np.arange(100), gallery, 10, search)
    assert search.n_pairs == 100 * 20


def test_only_a_list_that_many_new_rows_enter_is_searched_deeply(searched: tuple[np.ndarray, KeptSearch]) -> None:
    vectors, kept = searched
    vectors[1_000:1_006] = vectors[7]
    gallery = np.r_[100:1_006]
    search = Counted(vectors, np.arange(100), gallery)
    scores, _, _ = nearest_since(kept, np.arange(100), gallery, 10, search)
    (first, (n_deep, depth)) = search.depths
    assert (first, depth) == ((100, kept_knn.FEW), 10 + kept_knn.RESERVE)
    assert 1 <= n_deep < 5
    assert (scores[7, :6] > 0.999).all()


def test_a_new_query_and_a_list_that_ran_short_are_searched_in_the_whole_gallery(
    searched: tuple[np.ndarray, KeptSearch],
) -> None:
    vectors, kept = searched
    queries, gallery = np.r_[0:100, 1_050], np.setdiff1d(np.arange(100, 1_000), kept.found[7])
    search = Counted(vectors, queries, gallery)
    rows = nearest_since(kept, queries, gallery, 10, search)[1]
    np.testing.assert_array_equal(rows, exact_topk(vectors[queries], vectors[gallery], 10)[1])
    assert search.n_pairs == 2 * len(gallery)


def test_the_same_search_compares_nothing(searched: tuple[np.ndarray, KeptSearch]) -> None:
    vectors, kept = searched
    search = Counted(vectors, kept.queries, kept.gallery)
    nearest_since(kept, kept.queries, kept.gallery, 10, search)
    assert search.n_pairs == 0
