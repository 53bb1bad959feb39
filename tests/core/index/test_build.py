from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.recipes import Recipe, choose_recipe
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE

KEYS = ["Flat", "IVF16,Flat", "IVF16,SQ8", "SQ8", "PCA4,IVF16,Flat", "IVF16,Flat,RFlat"]


def vectors(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((n, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def far_ids(n: int) -> np.ndarray:
    return np.random.default_rng(9).permutation(10 * n)[:n].astype(np.int64) + 2**61


def recipe(key: str, n_rows: int = 1_000, dim: int = 8) -> Recipe:
    return choose_recipe(n_rows, dim, dim, IndexConfig(recipe=key))


def build(folder: Path, key: str = "Flat", n: int = 1_000) -> np.ndarray:
    ids = far_ids(n)
    template = train_template(vectors(1_000), recipe(key), seed=0)
    build_shard(template, ids, vectors(n), vectors(n, dim=12), folder)
    return ids


@pytest.mark.parametrize("key", ["Flat", "SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16,Flat,RFlat"])
def test_the_index_answers_with_row_ids(tmp_path: Path, key: str) -> None:
    ids = build(tmp_path, key)
    _, found = faiss.read_index(str(tmp_path / INDEX_FILE)).search(vectors(1_000)[:50], 1)
    np.testing.assert_array_equal(found[:, 0], ids[:50])


@pytest.mark.parametrize("key", KEYS)
def test_equal_inputs_give_equal_bytes_in_any_order(tmp_path: Path, key: str) -> None:
    ids, low, full = far_ids(1_000), vectors(1_000), vectors(1_000, dim=12)
    shuffled = np.random.default_rng(1).permutation(1_000)
    first, second = (train_template(low, recipe(key), seed=3) for _ in range(2))
    assert first == second
    build_shard(first, ids, low, full, tmp_path / "a")
    build_shard(second, ids[shuffled], low[shuffled], full[shuffled], tmp_path / "b")
    for name in (INDEX_FILE, VECTORS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_seed_decides_the_subset_that_trains() -> None:
    few = recipe("IVF16,Flat").model_copy(update={"train_rows": 700})
    templates = {train_template(vectors(1_000), few, seed) for seed in (0, 0, 1)}
    assert len(templates) == 2


def test_a_template_holds_no_rows() -> None:
    template = train_template(vectors(1_000), recipe("IVF16,Flat"), seed=0)
    index = faiss.deserialize_index(np.frombuffer(template, np.uint8))
    assert index.is_trained
    assert index.ntotal == 0


def test_a_flat_template_needs_no_sample() -> None:
    assert train_template(np.empty((0, 8), np.float32), recipe("Flat"), seed=0)


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    build(tmp_path, "IVF16,Flat", n=0)
    assert faiss.read_index(str(tmp_path / INDEX_FILE)).ntotal == 0


def test_too_few_rows_to_train_are_refused() -> None:
    with pytest.raises(BadConfig, match="needs 624 training rows"):
        train_template(vectors(100), recipe("IVF16,Flat"), seed=0)


def test_training_that_faiss_refuses_is_a_bad_config() -> None:
    with pytest.raises(BadConfig, match=r"'PQ4' cannot train on 100 rows"):
        train_template(vectors(100), recipe("PQ4"), seed=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([3, 1, 3], "1 row ids occur more than once, e.g. 3"),
        ([3, -1, 2], "row id -1 is negative"),
        ([0.5, 1.0, 2.0], "whole numbers"),
        ([[1, 2, 3]], "one dimension"),
    ],
)
def test_bad_ids_are_refused(tmp_path: Path, ids: list, message: str) -> None:
    template = train_template(vectors(3), recipe("Flat"), seed=0)
    with pytest.raises(CatalogInvalid, match=message):
        build_shard(template, np.array(ids), vectors(3), vectors(3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_ids_beyond_63_bits_are_refused(tmp_path: Path) -> None:
    template = train_template(vectors(1), recipe("Flat"), seed=0)
    with pytest.raises(CatalogInvalid, match="negative"):
        build_shard(template, np.array([2**63], np.uint64), vectors(1), vectors(1), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["candidate", "full"])
def test_vectors_that_are_not_finite_are_refused(tmp_path: Path, value: float, which: str) -> None:
    template = train_template(vectors(3), recipe("Flat"), seed=0)
    good, bad = vectors(3), vectors(3)
    bad[1, 4] = value
    with pytest.raises(ShardCorrupt, match=rf"1 of 3 {which} vectors .* row 1"):
        build_shard(template, np.arange(3), *((bad, good) if which == "candidate" else (good, bad)), tmp_path)


@pytest.mark.parametrize(("n_ids", "n_low", "n_full"), [(2, 3, 3), (3, 2, 3), (3, 3, 2)])
def test_lengths_that_differ_are_refused(tmp_path: Path, n_ids: int, n_low: int, n_full: int) -> None:
    template = train_template(vectors(3), recipe("Flat"), seed=0)
    with pytest.raises(DimensionMismatch, match="as many ids as vectors"):
        build_shard(template, np.arange(n_ids), vectors(n_low), vectors(n_full), tmp_path)


def test_candidates_of_another_width_than_the_template_are_refused(tmp_path: Path) -> None:
    template = train_template(vectors(3), recipe("Flat"), seed=0)
    with pytest.raises(DimensionMismatch, match="have 5 dimensions, the template was trained on 8"):
        build_shard(template, np.arange(3), vectors(3, dim=5), vectors(3), tmp_path)


def test_vectors_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match="must be"):
        train_template(np.zeros(8, np.float32), recipe("Flat"), seed=0)


def test_a_template_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardCorrupt, match="template cannot be read"):
        build_shard(b"not a faiss index", np.arange(3), vectors(3), vectors(3), tmp_path)
