"""The code of a row depends on that row alone."""

from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval_core.config.stages import IndexConfig
from retrieval_core.index.build import build_shard, open_template, train_template
from retrieval_core.index.codes import add_rows, apply_transforms, encodes_rows_alone, inverted_lists
from retrieval_core.index.recipes import choose_recipe
from retrieval_core.index.update import update_shard
from tests.core.index.conftest import assert_same_bytes, noise, unit


def empty_index(key: str) -> faiss.Index:
    return open_template(train_template(noise(1_000), choose_recipe(1_000, 16, 16, IndexConfig(recipe=key)), seed=0))


@pytest.mark.parametrize("key", ["IVF64,Flat", "PCA16,IVF64,Flat"])
def test_rows_between_two_lists_are_assigned_alike_alone_and_in_a_crowd(tmp_path: Path, key: str) -> None:
    sample = noise(3_000, 32, seed=1)
    template = train_template(sample, choose_recipe(3_000, 32, 32, IndexConfig(recipe=key)), seed=0)
    index = faiss.deserialize_index(np.frombuffer(template, np.uint8))
    ivf = faiss.extract_index_ivf(index)
    centroids = np.asarray(faiss.downcast_index(ivf.quantizer).reconstruct_n(0, 64))
    if isinstance(index, faiss.IndexPreTransform):
        centroids = index.chain.at(0).reverse_transform(centroids)
    pairs = np.random.default_rng(2).integers(0, 64, (1_500, 2))
    rows = unit(centroids[pairs[:, 0]] + centroids[pairs[:, 1]])
    ids = np.arange(1_500, dtype=np.int64)
    build_shard(template, ids, rows, rows, tmp_path / "built")
    build_shard(template, ids[:0], rows[:0], rows[:0], tmp_path / "0")
    cuts = [0, 1, 4, 30, 700, 1_499, 1_500]
    for night, (start, end) in enumerate(pairwise(cuts)):
        new = slice(start, end)
        folders = tmp_path / str(night), tmp_path / str(night + 1)
        update_shard(template, folders[0], ids[:0], ids[new], rows[new], rows[new], folders[1])
    assert_same_bytes(tmp_path / str(len(cuts) - 1), tmp_path / "built")


@pytest.mark.parametrize(
    ("key", "has_lists", "is_alone"),
    [
        ("Flat", False, False),
        ("HNSW8", False, False),
        ("IVF16,Flat", True, True),
        ("PCA8,IVF16,SQ8", True, True),
        ("IVF16,PQ4x4", True, True),
        ("IVF16,PQ1x4", True, False),
        ("IVF16,PQ4x4fs", True, False),
        ("IVF16,Flat,RFlat", False, False),
    ],
)
def test_only_some_kinds_encode_each_row_alone(key: str, has_lists: bool, is_alone: bool) -> None:
    index = empty_index(key)
    assert (inverted_lists(index) is not None) == has_lists
    assert encodes_rows_alone(index) == is_alone


@pytest.mark.parametrize("key", ["PCA8,IVF16,Flat", "OPQ4_8,IVF16,PQ4x4", "L2norm,IVF16,Flat"])
def test_transforms_agree_with_faiss_and_treat_equal_rows_alike(key: str) -> None:
    rows = noise(800)
    index = faiss.index_factory(16, key, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    crowd = apply_transforms(index, rows)
    np.testing.assert_allclose(crowd, index.chain.at(0).apply(rows), atol=1e-5)
    for row in (0, 17, 799):
        np.testing.assert_array_equal(apply_transforms(index, rows[row : row + 1])[0], crowd[row])


@pytest.mark.parametrize("key", ["Flat", "IVF16,SQ8"])
def test_added_rows_are_found_under_their_ids(key: str) -> None:
    rows, ids, index = noise(1_000), np.arange(1_000, dtype=np.int64) + 2**61, empty_index(key)
    add_rows(index, ids, rows)
    assert index.ntotal == 1_000
    np.testing.assert_array_equal(index.search(rows[:50], 1)[1][:, 0], ids[:50])
