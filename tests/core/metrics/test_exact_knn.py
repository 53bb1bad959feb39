from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.errors import BadConfig, DimensionMismatch
from retrieval_core.metrics import exact_knn
from retrieval_core.metrics.exact_knn import exact_topk, exact_topk_of_blocks


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((n, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def oracle(queries: np.ndarray, gallery: np.ndarray, k: int, own: np.ndarray | None) -> np.ndarray:
    """Positions by exact float64 inner product and a stable sort, -1 padded."""
    found = np.full((len(queries), k), -1, np.int64)
    for row, query in enumerate(queries.astype(np.float64)):
        order = np.argsort(-(gallery.astype(np.float64) @ query), kind="stable")
        if own is not None:
            order = order[order != own[row]]
        found[row, : min(k, len(order))] = order[:k]
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 40),
    k=st.integers(1, 50),
    leave_out=st.booleans(),
)
def test_neighbours_are_those_of_a_full_sort(seed: int, n: int, k: int, leave_out: bool) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers: every product is exact, so many rows tie and the order among them is known.
    gallery = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    own = rng.integers(-1, n, 30) if leave_out else None
    scores, positions = exact_topk(queries, gallery, k, exclude=own)
    np.testing.assert_array_equal(positions, oracle(queries, gallery, k, own))
    expected = np.where(
        positions >= 0, np.take_along_axis(queries @ gallery.T, positions.clip(0), 1) if n else 0, -np.inf
    )
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.float32
    assert positions.dtype == np.int64


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 60),
    k=st.integers(1, 20),
    block_rows=st.integers(1, 25),
    min_rows=st.integers(1, 40),
    is_whole=st.booleans(),
)
def test_a_gallery_in_blocks_gives_the_neighbours_of_the_whole(
    seed: int, n: int, k: int, block_rows: int, min_rows: int, is_whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-1, 2, (n, 3)).astype(np.float32) if is_whole else unit(n, 24, seed)
    queries = rng.integers(-2, 3, (30, 3)).astype(np.float32) if is_whole else unit(30, 24, seed + 1)
    own = rng.integers(-1, n, 30)
    pieces = np.array_split(rng.permutation(n), -(-n // block_rows)) if n else []  # as parts of a set: in any order
    with mock.patch.object(exact_knn, "MIN_BLOCK_ROWS", min_rows):
        blocks = ((np.sort(rows), gallery[np.sort(rows)]) for rows in pieces)
        scores, ids = exact_topk_of_blocks(queries, blocks, k, exclude=own)
    expected_scores, expected = exact_topk(queries, gallery, k, exclude=own)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("n_queries", [1, 19, 700])
def test_real_vectors_over_several_blocks(n_queries: int) -> None:
    queries, gallery = unit(n_queries, 32, seed=1), unit(1_500, 32, seed=2)
    scores, positions = exact_topk(queries, gallery, 10)
    np.testing.assert_array_equal(positions, oracle(queries, gallery, 10, None))
    np.testing.assert_allclose(scores, -np.sort(-(queries @ gallery.T), axis=1)[:, :10], atol=1e-6)


def test_a_query_from_the_gallery_is_not_its_own_neighbour() -> None:
    gallery = unit(200, 16, seed=3)
    _, with_self = exact_topk(gallery, gallery, 6)
    _, without = exact_topk(gallery, gallery, 5, exclude=np.arange(200))
    np.testing.assert_array_equal(with_self[:, 0], np.arange(200))
    np.testing.assert_array_equal(without, with_self[:, 1:])


def test_its_copies_still_are_its_neighbours_in_order_of_position() -> None:
    gallery = np.repeat(unit(3, 16, seed=4), 100, axis=0)
    _, positions = exact_topk(gallery, gallery, 3, exclude=np.arange(300))
    assert positions[0].tolist() == [1, 2, 3]
    assert positions[150].tolist() == [100, 101, 102]
    assert positions[201].tolist() == [200, 202, 203]


def test_minus_one_excludes_nothing() -> None:
    gallery = unit(50, 8, seed=5)
    _, positions = exact_topk(gallery[:2], gallery, 1, exclude=np.array([-1, 1]))
    assert positions[0, 0] == 0
    assert positions[1, 0] != 1


def test_an_empty_gallery_has_no_neighbours() -> None:
    scores, positions = exact_topk(unit(2, 8, seed=6), np.empty((0, 8), np.float32), 3)
    assert positions.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()


def test_no_queries_have_no_neighbours() -> None:
    scores, positions = exact_topk(np.empty((0, 8), np.float32), unit(5, 8, seed=6), 3, exclude=np.empty(0, np.int64))
    assert scores.shape == positions.shape == (0, 3)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(BadConfig, match="expected k >= 1, got 0"):
        exact_topk(unit(1, 8, seed=0), unit(5, 8, seed=0), 0)


def test_widths_that_differ_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match="queries have 8 dimensions, the gallery 9"):
        exact_topk(unit(1, 8, seed=0), unit(5, 9, seed=0), 1)


def test_a_single_vector_is_no_matrix() -> None:
    with pytest.raises(DimensionMismatch, match="must be"):
        exact_topk(unit(1, 8, seed=0)[0], unit(5, 8, seed=0), 1)


@pytest.mark.parametrize("which", [0, 1])
def test_values_that_are_not_finite_are_refused(which: int) -> None:
    pair = [unit(3, 8, seed=0), unit(3, 8, seed=1)]
    pair[which][1, 1] = np.nan
    with pytest.raises(BadConfig, match="NaN"):
        exact_topk(pair[0], pair[1], 1)


def test_exclude_wants_one_position_a_query() -> None:
    with pytest.raises(DimensionMismatch, match="one position for each of 2 queries"):
        exact_topk(unit(2, 8, seed=0), unit(5, 8, seed=0), 1, exclude=np.array([0]))


@pytest.mark.parametrize("position", [-2, 5])
def test_exclude_wants_positions_of_the_gallery(position: int) -> None:
    with pytest.raises(BadConfig, match="of a gallery of 5"):
        exact_topk(unit(1, 8, seed=0), unit(5, 8, seed=0), 1, exclude=np.array([position]))
