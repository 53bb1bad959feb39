from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from tests.core.index.conftest import build, clusters, far_ids, noise, opened, oracle, recall

# Whole numbers keep every inner product exact in float32, so many rows tie and the oracle knows their order.
whole_vectors = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(-1, 2, (60, 3)).astype(np.float32)
)


@settings(max_examples=40)
@given(
    full=whole_vectors,
    n=st.integers(0, 60),
    n_shards=st.integers(1, 7),
    k=st.integers(1, 70),
    rerank_depth=st.integers(1, 4),
)
def test_flat_is_exact_for_any_number_of_shards(
    full: np.ndarray, n: int, n_shards: int, k: int, rerank_depth: int
) -> None:
    ids = far_ids(60)[:n]
    queries = np.random.default_rng(n).integers(-2, 3, (9, 3)).astype(np.float32)
    with TemporaryDirectory() as folder:
        index = opened(Path(folder), ids, full[:n], n_shards=n_shards)
        scores, found = index.search(queries, queries, k, rerank_depth)
    np.testing.assert_array_equal(found, oracle(queries, full[:n], ids, k))
    full_of = dict(zip(ids.tolist(), full[:n], strict=True))
    for query, row, row_scores in zip(queries, found, scores, strict=True):
        expected = [query @ full_of[i] if i >= 0 else -np.inf for i in row.tolist()]
        np.testing.assert_array_equal(row_scores, np.array(expected, np.float32))


@pytest.mark.parametrize("n_queries", [1, 19, 300])
def test_flat_finds_what_numpy_finds(tmp_path: Path, n_queries: int) -> None:
    ids, full, queries = far_ids(2_000), noise(2_000), noise(n_queries, seed=1)
    scores, found = opened(tmp_path, ids, full, n_shards=3).search(queries, queries, 10, 1)
    np.testing.assert_array_equal(found, oracle(queries, full, ids, 10))
    np.testing.assert_allclose(scores, -np.sort(-(queries @ full.T), axis=1)[:, :10], atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert scores.dtype == np.float32
    assert found.dtype == np.int64


@pytest.mark.parametrize("n_shards", [1, 2, 5])
@pytest.mark.parametrize("n_queries", [1, 40])
def test_copies_of_one_vector_come_by_row_id_even_when_they_outnumber_the_candidates(
    tmp_path: Path, n_shards: int, n_queries: int
) -> None:
    ids, full = far_ids(1_000), noise(1_000, dim=24)
    full[100:600] = full[100]  # one placeholder picture shared by 500 items
    queries = np.repeat(full[100:101], n_queries, axis=0)
    _, found = opened(tmp_path, ids, full, n_shards=n_shards).search(queries, queries, 5, 2)
    np.testing.assert_array_equal(found, np.tile(np.sort(ids[100:600])[:5], (n_queries, 1)))


@pytest.mark.parametrize("key", ["IVF16,Flat", "IVF16,SQ8"])
def test_shards_of_one_template_answer_as_one_index(tmp_path: Path, key: str) -> None:
    ids, full, queries = far_ids(3_000), clusters(3_000), clusters(50, seed=5)
    low, low_queries = full[:, :8], queries[:, :8]
    answers = []
    for n_shards in (1, 2, 6):
        folders = build(tmp_path / str(n_shards), ids, low, full, n_shards=n_shards, key=key)
        answers.append(ShardedIndex.open(folders, 32, 8, nprobe=4).search(queries, low_queries, 10, 5))
    for scores, found in answers[1:]:
        np.testing.assert_array_equal(found, answers[0][1])
        np.testing.assert_array_equal(scores, answers[0][0])


@pytest.mark.parametrize("key", ["IVF64,Flat", "IVF64,SQ8"])
def test_inverted_lists_keep_recall_on_clustered_vectors(tmp_path: Path, key: str) -> None:
    ids, full, queries = far_ids(5_000), clusters(5_000), clusters(200, seed=5)
    index = ShardedIndex.open(build(tmp_path, ids, full, full, n_shards=3, key=key), 32, 32, nprobe=16)
    _, found = index.search(queries, queries, 10, 10)
    assert recall(found, oracle(queries, full, ids, 10)) >= 0.95


def test_more_lists_visited_find_more(tmp_path: Path) -> None:
    ids, full, queries = far_ids(3_000), noise(3_000), noise(100, seed=5)
    folders, truth = build(tmp_path, ids, full, full, key="IVF64,Flat"), oracle(queries, full, ids, 10)
    recalls = [
        recall(ShardedIndex.open(folders, 16, 16, nprobe).search(queries, queries, 10, 1)[1], truth)
        for nprobe in (1, 8, 64)
    ]
    assert recalls[0] < recalls[1] < recalls[2] == 1.0


def test_reranking_repairs_what_few_dimensions_lose(tmp_path: Path) -> None:
    ids, full, queries = far_ids(2_000), clusters(2_000), clusters(100, seed=5)
    index = ShardedIndex.open(build(tmp_path, ids, full[:, :12], full, n_shards=2), 32, 12, nprobe=0)
    truth = oracle(queries, full, ids, 10)
    recalls = [recall(index.search(queries, queries[:, :12], 10, depth)[1], truth) for depth in (1, 10, 200)]
    assert recalls[0] + 0.5 < recalls[1] < recalls[2] == 1.0


def test_candidates_come_in_the_order_of_the_few_dimensions_and_reranking_finds_among_them(tmp_path: Path) -> None:
    ids, full, queries = far_ids(2_000), clusters(2_000), clusters(100, seed=5)
    index = ShardedIndex.open(build(tmp_path, ids, full[:, :12], full, n_shards=3), 32, 12, nprobe=0)
    scores, found = index.candidates(queries[:, :12], 30)
    assert np.array_equal(found, oracle(queries[:, :12], full[:, :12], ids, 30))
    assert (np.diff(scores, axis=1) <= 0).all()
    _, hits = index.search(queries, queries[:, :12], 10, 3)
    assert all(set(few) <= set(many) for few, many in zip(hits, found, strict=True))


def test_candidates_of_too_few_rows_are_padded(tmp_path: Path) -> None:
    ids, full = far_ids(3), noise(3)
    index = opened(tmp_path, ids, full, n_shards=2)
    scores, found = index.candidates(full[:1], 5)
    assert found[0, 3:].tolist() == [-1, -1]
    assert sorted(found[0, :3]) == sorted(ids)
    assert np.isneginf(scores[0, 3:]).all()
    assert index.candidates(full[:0], 5)[1].shape == (0, 5)
    with pytest.raises(DimensionMismatch, match="candidate queries have shape"):
        index.candidates(full[:, :3], 5)


def test_more_hits_than_rows_are_padded(tmp_path: Path) -> None:
    ids, full = far_ids(3), noise(3)
    scores, found = opened(tmp_path, ids, full, n_shards=2).search(full, full, 5, 10)
    assert (found[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert np.isfinite(scores[:, :3]).all()


def test_lists_that_hold_too_little_are_padded(tmp_path: Path) -> None:
    ids, full = far_ids(1_000), clusters(1_000)
    index = ShardedIndex.open(build(tmp_path, ids, full, full, key="IVF16,Flat"), 32, 32, nprobe=1)
    scores, found = index.search(full[:5], full[:5], 900, 1)
    assert ((found == -1) == np.isneginf(scores)).all()
    assert (found[:, -1] == -1).all()
    np.testing.assert_array_equal(found[:, 0], ids[:5])


def test_an_index_without_shards_answers_with_padding() -> None:
    index = ShardedIndex.open([], 16, 8, nprobe=0)
    scores, found = index.search(noise(2), noise(2, dim=8), 3, 10)
    assert index.n_rows == 0
    assert found.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()
    assert index.row_ids().tolist() == []


def test_an_index_of_empty_shards_answers_with_padding(tmp_path: Path) -> None:
    index = opened(tmp_path, far_ids(0), noise(0), n_shards=3)
    assert index.search(noise(1), noise(1), 2, 1)[1].tolist() == [[-1, -1]]


def test_one_item_is_found(tmp_path: Path) -> None:
    full = noise(1)
    index = opened(tmp_path, np.array([42]), full, n_shards=4)
    scores, found = index.search(full, full, 1, 1)
    assert found.tolist() == [[42]]
    assert scores[0, 0] == pytest.approx(1.0)


def test_no_queries_have_no_hits(tmp_path: Path) -> None:
    index = opened(tmp_path, far_ids(5), noise(5))
    scores, found = index.search(noise(0), noise(0), 3, 1)
    assert scores.shape == found.shape == (0, 3)


def test_vectors_come_in_the_order_of_their_rows(tmp_path: Path) -> None:
    ids, full = far_ids(500), noise(500)
    index = opened(tmp_path, ids, full, n_shards=3)
    asked = np.array([7, 3, 3, 499])
    np.testing.assert_array_equal(index.vectors_of(ids[asked]), full[asked])
    np.testing.assert_array_equal(index.row_ids(), np.sort(ids))
    assert index.vectors_of(np.empty(0, np.int64)).shape == (0, 16)


def test_an_unknown_row_has_no_vector(tmp_path: Path) -> None:
    ids = far_ids(5)
    with pytest.raises(NotFound, match=r"1 of 2 rows are not in the index, e\.g\. 17"):
        opened(tmp_path, ids, noise(5), n_shards=2).vectors_of(np.array([ids[0], 17]))


@pytest.mark.parametrize(("k", "rerank_depth"), [(0, 10), (-1, 10), (5, 0)])
def test_hits_and_depth_are_at_least_one(tmp_path: Path, k: int, rerank_depth: int) -> None:
    index = opened(tmp_path, far_ids(5), noise(5))
    with pytest.raises(BadConfig, match="at least 1"):
        index.search(noise(1), noise(1), k, rerank_depth)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_queries_that_are_not_finite_are_refused(tmp_path: Path, value: float, which: int) -> None:
    index = opened(tmp_path, far_ids(5), noise(5))
    pair = [noise(3), noise(3)]
    pair[which][2, 0] = value
    with pytest.raises(BadConfig, match="NaN or infinity, the first in row 2"):
        index.search(pair[0], pair[1], 1, 1)


@pytest.mark.parametrize(
    ("queries", "low", "seen"),
    [
        (noise(1, 9), noise(1, 8), r"\(1, 9\), the index holds 16-d"),
        (noise(1), noise(1), r"\(1, 16\), the index holds 8-d"),
        (noise(2), noise(1, 8), "2 queries came with 1"),
        (noise(1)[0], noise(1, 8), r"shape \(16,\)"),
    ],
)
def test_queries_of_another_width_are_refused(tmp_path: Path, queries: np.ndarray, low: np.ndarray, seen: str) -> None:
    full = noise(5)
    index = ShardedIndex.open(build(tmp_path, far_ids(5), full[:, :8], full), 16, 8, nprobe=0)
    with pytest.raises(DimensionMismatch, match=seen):
        index.search(queries, low, 1, 1)


def test_a_negative_nprobe_is_refused() -> None:
    with pytest.raises(BadConfig, match="nprobe"):
        ShardedIndex.open([], 16, 16, nprobe=-1)


@pytest.mark.parametrize("key", ["IVF16,Flat", "IVF16,SQ8"])
def test_shards_of_two_templates_are_refused(tmp_path: Path, key: str) -> None:
    ids, full = far_ids(1_000), noise(1_000)
    folders = [*build(tmp_path / "a", ids, full, full, key=key), *build(tmp_path / "b", ids, -full, full, key=key)]
    with pytest.raises(ShardCorrupt, match="b/0 was made from another template"):
        ShardedIndex.open(folders, 16, 16, nprobe=0)


def test_nprobe_of_a_search_overrides_that_of_the_index(tmp_path: Path) -> None:
    ids, full, queries = far_ids(3_000), noise(3_000), noise(60, seed=5)
    folders = build(tmp_path, ids, full, full, n_shards=3, key="IVF64,SQ8")
    index = ShardedIndex.open(folders, 16, 16, nprobe=2)
    assert (index.nprobe, index.n_lists) == (2, 64)
    for nprobe in (0, 1, 5, 64, 1_000):
        expected = ShardedIndex.open(folders, 16, 16, nprobe or 2).search(queries, queries, 10, 2)
        found = index.search(queries, queries, 10, 2, nprobe=nprobe)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])
    with pytest.raises(BadConfig, match="nprobe"):
        index.search(queries, queries, 10, 2, nprobe=-1)


def test_a_query_reads_centroids_lists_and_reranked_vectors(tmp_path: Path) -> None:
    ids, full = far_ids(1_600), noise(1_600)
    folders = build(tmp_path, ids, full[:, :8], full, n_shards=3, key="IVF16,SQ8")
    index = ShardedIndex.open(folders, 16, 8, nprobe=4)
    centroids, visited, reranked = 16 * 8 * 4, 1_600 * (8 + 8), 16 * 4
    assert index.query_bytes(4, 20) == centroids + visited // 4 + 200 * reranked
    assert index.query_bytes(0, 20) == index.query_bytes(4, 20)
    assert index.query_bytes(99, 1_000, k=3) == centroids + visited + 1_600 * reranked
    flat = opened(tmp_path / "flat", ids, full)
    assert flat.n_lists == flat.nprobe == 0
    assert flat.query_bytes(0, 1) >= 1_600 * 16 * 4


def test_row_ids_that_are_not_sorted_are_refused_when_all_are_read(tmp_path: Path) -> None:
    full = noise(3)
    (folder,) = build(tmp_path, np.arange(3), full, full)
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), 16)
    fields = [pa.field("row_id", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)]
    arrays = [pa.array([0, 2, 1]), pa.FixedSizeListArray.from_arrays(pa.array(full.reshape(-1)), type=vector)]
    size = str((folder / INDEX_FILE).stat().st_size)
    batch = pa.record_batch(arrays, schema=pa.schema(fields, metadata={"index_bytes": size}))
    with pa.OSFile(str(folder / VECTORS_FILE), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ShardCorrupt, match="not ascending"):
        ShardedIndex.open([folder], 16, 16, nprobe=0).row_ids()


def test_many_threads_get_the_hits_of_one(tmp_path: Path) -> None:
    ids, full, queries = far_ids(3_000), clusters(3_000), clusters(40, seed=5)
    folders = build(tmp_path, ids, full[:, :12], full, n_shards=3, key="IVF16,Flat")
    index = ShardedIndex.open(folders, 32, 12, nprobe=4)

    def ask(row: int) -> list[int]:
        return index.search(queries[row : row + 1], queries[row : row + 1, :12], 5, 10)[1][0].tolist()

    alone = [ask(row) for row in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [row % 40 for row in range(200)])) == alone * 5
