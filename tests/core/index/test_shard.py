"""An open shard visits the chosen lists and scores rows by their full vectors."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval_core.errors import DimensionMismatch, ShardCorrupt
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.shard import open_shard
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE
from tests.core.index.conftest import LIST_KEYS, build, clusters, far_ids, noise


@pytest.mark.parametrize(("dim", "candidate_dim"), [(15, 16), (16, 15)])
def test_a_shard_of_another_width_than_its_manifest_is_refused(tmp_path: Path, dim: int, candidate_dim: int) -> None:
    folders = build(tmp_path, far_ids(5), noise(5), noise(5))
    with pytest.raises(DimensionMismatch, match="holds 16-d vectors"):
        ShardedIndex.open(folders, dim, candidate_dim, nprobe=0)


def test_an_index_of_other_rows_is_refused(tmp_path: Path) -> None:
    ids, full = far_ids(50), noise(50)
    (mine,) = build(tmp_path / "a", ids, full, full)
    (other,) = build(tmp_path / "b", ids + 1_000, full, full)
    (other / INDEX_FILE).replace(mine / INDEX_FILE)
    index = ShardedIndex.open([mine], 16, 16, nprobe=0)
    with pytest.raises(ShardCorrupt, match=f"names row .* which {VECTORS_FILE} beside it lacks"):
        index.search(full[:1], full[:1], 1, 1)


@pytest.mark.parametrize("key", LIST_KEYS)
def test_lists_chosen_once_are_those_that_faiss_would_visit(tmp_path: Path, key: str) -> None:
    ids, full, queries = far_ids(3_000), clusters(3_000, 16), clusters(50, 16, seed=5)
    (folder,) = build(tmp_path, ids, full, full, key=key)
    plain = faiss.read_index(str(folder / INDEX_FILE))
    faiss.extract_index_ivf(plain).nprobe = 3
    _, candidates = plain.search(queries, 10)
    _, found = ShardedIndex.open([folder], 16, 16, nprobe=3).search(queries, queries, 10, 1)
    alike = [len(set(a) & set(b)) for a, b in zip(found.tolist(), candidates.tolist(), strict=True)]
    assert np.mean(alike) > 9.5, "but for ties of coarse codes"


@pytest.mark.parametrize("key", ["IVF16,Flat", "PCA8,IVF16,SQ8"])
def test_every_row_stands_in_the_list_that_its_own_query_visits_first(tmp_path: Path, key: str) -> None:
    ids, full = far_ids(1_000), clusters(1_000, 16)
    shard = open_shard(build(tmp_path, ids, full, full, key=key)[0], 16, 16, nprobe=0)
    nearest = shard.probe(full[np.argsort(ids)], 1).lists[:, 0]
    assert np.mean(shard.list_of_rows() == nearest) > 0.99, "but for ties of two centroids"


def test_lists_are_visited_until_their_shares_add_up(tmp_path: Path) -> None:
    full = clusters(1_000, 16)
    shard = open_shard(build(tmp_path, far_ids(1_000), full, full, key="IVF16,Flat")[0], 16, 16, nprobe=0)
    order = shard.probe(full[:5], 16).lists
    share = np.zeros(16)
    share[order[0, [3, 5, 8]]] = 0.5  # for the first query only the fourth, sixth and ninth nearest count
    lists = shard.probe_for(full[:5], share, 1).lists
    assert lists[0].tolist() == order[0, [3, 5]].tolist()
    assert all(share[row[row >= 0]].all() for row in lists)
    none = shard.probe_for(full[:5], np.zeros(16), 1).lists
    assert (none == -1).all()


def test_rows_are_scored_by_their_full_vectors(tmp_path: Path) -> None:
    ids, full = far_ids(100), noise(100)
    shard = open_shard(build(tmp_path, ids, full[:, :4], full)[0], 16, 4, nprobe=0)
    scores = shard.exact_scores(full[:2], np.array([0, 1, 1]), ids[[7, 7, 99]])
    np.testing.assert_allclose(scores, [full[0] @ full[7], full[1] @ full[7], full[1] @ full[99]], rtol=1e-5)
