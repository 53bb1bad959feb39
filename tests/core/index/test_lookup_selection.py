"""Search inside a selection: exactly where it is small, with a selector and more lists where it is large."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.index.lookup import ShardedIndex
from tests.core.index.conftest import KEYS, build, clusters, far_ids, noise, opened, oracle, recall, unit

Opened = tuple[ShardedIndex, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def open_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """By faiss key, an index of 3,000 clustered rows whose every list is visited, its ids, vectors and some queries."""

    @cache
    def opened_once(key: str) -> Opened:
        ids, full, queries = far_ids(3_000), clusters(3_000, 16), clusters(40, 16, seed=5)
        folders = build(tmp_path_factory.mktemp("kind"), ids, full, full, n_shards=3, key=key)
        return ShardedIndex.open(folders, 16, 16, nprobe=16), ids, full, queries

    return opened_once


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n_chosen", [1, 30, 1_200, 2_700])
def test_only_selected_rows_are_found_and_the_best_of_them(
    open_kind: Callable[[str], Opened], key: str, exact: bool, n_chosen: int
) -> None:
    index, ids, full, queries = open_kind(key)
    chosen = np.random.default_rng(3).permutation(3_000)[:n_chosen]
    only = index.select(ids[chosen])
    only.is_exact = exact or (key == "HNSW16" and n_chosen < 1_000)  # a graph does not reach the last rows
    k = min(10, n_chosen)
    scores, found = index.search(queries, queries, k + 2, 4, only=only)
    found, truth = found[:, :k], oracle(queries, full[chosen], ids[chosen], k)
    assert np.isin(found, ids[chosen]).all()
    assert n_chosen > k or np.isneginf(scores[:, k:]).all()
    assert (np.diff(scores[:, :k], axis=1) <= 0).all()
    if exact or key in ("Flat", "SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16,Flat,RFlat"):
        np.testing.assert_array_equal(found, truth)
    else:
        assert recall(found, truth) > 0.85


@pytest.mark.parametrize("key", KEYS)
def test_selecting_everything_equals_no_filter(open_kind: Callable[[str], Opened], key: str) -> None:
    index, ids, _, queries = open_kind(key)
    everything = index.select(np.random.default_rng(0).permutation([*ids, 5, 17]))
    assert everything.n_rows == index.n_rows
    for found, expected in zip(
        index.search(queries, queries, 10, 2, nprobe=3, only=everything),
        index.search(queries, queries, 10, 2, nprobe=3),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", ["Flat", "IVF16,SQ8"])
@pytest.mark.parametrize("row_ids", [[], [4, 7], [2**62]])
def test_selecting_nothing_finds_nothing(open_kind: Callable[[str], Opened], key: str, row_ids: list[int]) -> None:
    index, *_, queries = open_kind(key)
    only = index.select(np.array(row_ids, np.int64))
    assert (only.n_rows, only.is_exact) == (0, True)
    scores, found = index.search(queries, queries, 3, 2, only=only)
    assert (found == -1).all()
    assert np.isneginf(scores).all()


def test_rows_that_are_not_in_the_index_are_left_out_of_a_selection(open_kind: Callable[[str], Opened]) -> None:
    index, ids, full, queries = open_kind("IVF16,SQ8")
    only = index.select(np.concatenate([ids[:500], ids[:500], [3, 2**61 - 1]]))
    assert only.n_rows == 500
    only.is_exact = False
    np.testing.assert_array_equal(
        index.search(queries, queries, 5, 10, only=only)[1], oracle(queries, full[:500], ids[:500], 5)
    )


def test_few_rows_are_compared_one_by_one_and_many_are_not(tmp_path: Path) -> None:
    ids, full = far_ids(5_000), clusters(5_000)
    index = ShardedIndex.open(build(tmp_path, ids, full, full, n_shards=2, key="IVF64,SQ8"), 32, 32, nprobe=8)
    assert [index.select(ids[:n]).is_exact for n in (1, 50, 4_000)] == [True, True, False]


def test_a_selection_of_another_index_is_refused(open_kind: Callable[[str], Opened]) -> None:
    index, ids, _, queries = open_kind("Flat")
    other = open_kind("IVF16,SQ8")[0].select(ids[:3])
    with pytest.raises(BadConfig, match="made by another index"):
        index.search(queries, queries, 1, 1, only=other)


@pytest.mark.parametrize("n_shards", [1, 2, 6])
@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.02])
def test_a_filter_costs_no_recall(tmp_path: Path, n_shards: int, fraction: float) -> None:
    ids, full, queries = far_ids(8_000), clusters(8_000), clusters(150, seed=5)
    folders = build(tmp_path, ids, full, full, n_shards=n_shards, key="IVF64,SQ8")
    index = ShardedIndex.open(folders, 32, 32, nprobe=16)
    plain = recall(index.search(queries, queries, 10, 4)[1], oracle(queries, full, ids, 10))
    chosen = np.random.default_rng(3).permutation(8_000)[: int(8_000 * fraction)]
    only = index.select(ids[chosen])
    only.is_exact = False
    found = index.search(queries, queries, 10, 4, only=only)[1]
    assert recall(found, oracle(queries, full[chosen], ids[chosen], 10)) >= plain - 0.005


def test_a_filter_on_rows_far_from_the_query_costs_no_recall(tmp_path: Path) -> None:
    ids, full, queries = far_ids(8_000), clusters(8_000), clusters(150, seed=5)
    folders = build(tmp_path, ids, full, full, n_shards=2, key="IVF64,SQ8")
    index = ShardedIndex.open(folders, 32, 32, nprobe=16)
    chosen = np.flatnonzero(full @ clusters(1, seed=8)[0] > 0.3)
    away = queries[np.argsort(queries @ clusters(1, seed=8)[0])[:50]]
    only = index.select(ids[chosen])
    only.is_exact = False
    found = index.search(away, away, 10, 4, only=only)[1]
    assert recall(found, oracle(away, full[chosen], ids[chosen], 10)) >= 0.95


def test_a_filter_on_other_categories_than_the_query_costs_no_recall(tmp_path: Path) -> None:
    """Candidates in 12 of 32 dimensions and 10 of 64 lists are enough near a query, and far too few away from it."""
    ids, full, queries = far_ids(8_000), clusters(8_000), clusters(300, seed=5)
    low, low_queries = unit(full[:, :12]), unit(queries[:, :12])
    folders = build(tmp_path, ids, low, full, n_shards=2, key="IVF64,Flat")
    index = ShardedIndex.open(folders, 32, 12, nprobe=10)
    assert recall(index.search(queries, low_queries, 10, 20)[1], oracle(queries, full, ids, 10)) > 0.97
    side, query_side = full[:, 0] > 0, queries[:, 0] > 0  # no query of one side has its nearest on the other
    for of_side, asked in ((side, ~query_side), (~side, query_side), (side | (full[:, 1] > 0), ~query_side)):
        only = index.select(ids[of_side])
        only.is_exact = False
        found = index.search(queries[asked], low_queries[asked], 10, 20, only=only)[1]
        assert recall(found, oracle(queries[asked], full[of_side], ids[of_side], 10)) > 0.99
        alone = index.search(queries[asked][:1], low_queries[asked][:1], 10, 20, only=only)[1]
        np.testing.assert_array_equal(alone, found[:1])


@pytest.mark.parametrize("key", ["Flat", "IVF64,Flat", "IVF64,SQ8"])
def test_a_filter_of_any_size_keeps_its_promise_for_near_and_far_queries(tmp_path: Path, key: str) -> None:
    ids, full, queries = far_ids(8_000), clusters(8_000), clusters(200, seed=5)
    low, low_queries = unit(full[:, :12]), unit(queries[:, :12])
    folders = build(tmp_path, ids, low, full, n_shards=2, key=key)
    index = ShardedIndex.open(folders, 32, 12, nprobe=10 if "IVF" in key else 0)
    direction = clusters(1, seed=8)[0]
    order, by_query = np.argsort(full @ direction), np.argsort(queries @ direction)
    for n_rows in (4_000, 2_000, 800, 80, 11):
        chosen = order[-n_rows:]  # near the last queries and far from the first
        only = index.select(ids[chosen])
        for asked in (by_query[:100], by_query[100:]):
            found = index.search(queries[asked], low_queries[asked], 10, 25, only=only)[1]
            assert recall(found, oracle(queries[asked], full[chosen], ids[chosen], 10)) > 0.99


def test_equal_vectors_in_a_selection_come_by_row_id(tmp_path: Path) -> None:
    ids, full = far_ids(2_000), noise(2_000)
    full[500:1_500] = full[500]
    index = opened(tmp_path, ids, full, n_shards=3, key="IVF16,SQ8")
    chosen = np.arange(0, 2_000, 2)
    only, expected = index.select(ids[chosen]), np.sort(ids[500:1_500:2])[:7]
    for only.is_exact in (True, False):
        _, found = index.search(full[500:501], full[500:501], 7, 2, nprobe=16, only=only)
        np.testing.assert_array_equal(found[0], expected)
