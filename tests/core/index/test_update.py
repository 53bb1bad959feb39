"""An updated shard has the same bytes as a shard built from its rows."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.recipes import choose_recipe
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, indexed_row_ids, shard_row_ids
from retrieval_core.index.update import can_update, imbalance, update_shard
from tests.core.index.conftest import assert_same_bytes

LISTS = ["IVF16,Flat", "IVF16,SQ8", "PCA4,IVF16,SQ8", "IVF16,PQ4x4"]
KEYS = ["Flat", "SQ8", *LISTS]
FIXED = ["HNSW8", "NSG8", "IVF16,PQ4x4fs", "IVF16,Flat,RFlat", "PCA4,Flat"]
POOL = 120


def unit(drawn: np.ndarray) -> np.ndarray:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def noise(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def make_template(key: str, seed: int = 0) -> bytes:
    return train_template(noise(700, seed=9), choose_recipe(700, 8, 12, IndexConfig(recipe=key)), seed)


TEMPLATES = {key: make_template(key) for key in KEYS}
IDS = np.random.default_rng(9).permutation(10 * POOL)[:POOL].astype(np.int64) + 2**61
# Ten pictures that many rows share, and what stands between two lists: both tempt faiss to assign by a row's place.
SHARED = np.concatenate([noise(10, seed=4)] * 12)
LOW = {False: SHARED, True: noise(POOL, seed=5)}  # after a row's picture changed, or before
FULL = {False: noise(POOL, 12, seed=6), True: noise(POOL, 12, seed=7)}


def rows_of(state: dict[int, bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, candidates and full vectors of the pool's rows in `state`, which says whether their picture changed."""
    low = np.array([LOW[changed][row] for row, changed in state.items()], np.float32).reshape(-1, 8)
    full = np.array([FULL[changed][row] for row, changed in state.items()], np.float32).reshape(-1, 12)
    return IDS[list(state)], low, full


states = st.dictionaries(st.integers(0, POOL - 1), st.booleans(), max_size=POOL)


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=15)
@given(nights=st.lists(states, min_size=2, max_size=4))
def test_an_updated_shard_has_the_bytes_of_a_built_one(key: str, nights: list[dict[int, bool]]) -> None:
    template = TEMPLATES[key]
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_shard(template, *rows_of(nights[0]), folder / "0")
        for night, (before, now) in enumerate(pairwise(nights)):
            removed = IDS[[row for row in before if now.get(row) != before[row]]]
            added = {row: changed for row, changed in now.items() if before.get(row) != changed}
            update_shard(template, folder / str(night), removed, *rows_of(added), folder / str(night + 1))
            build_shard(template, *rows_of(now), folder / "built")
            assert_same_bytes(folder / str(night + 1), folder / "built")


@pytest.mark.parametrize("key", KEYS)
def test_a_shard_may_become_empty_and_full_again(tmp_path: Path, key: str) -> None:
    template, rows = TEMPLATES[key], rows_of(dict.fromkeys(range(POOL), False))
    nothing = rows_of({})
    build_shard(template, *rows, tmp_path / "full")
    build_shard(template, *nothing, tmp_path / "empty")
    update_shard(template, tmp_path / "full", rows[0], *nothing, tmp_path / "emptied")
    assert_same_bytes(tmp_path / "emptied", tmp_path / "empty")
    update_shard(template, tmp_path / "emptied", nothing[0], *rows, tmp_path / "filled")
    assert_same_bytes(tmp_path / "filled", tmp_path / "full")
    assert indexed_row_ids(tmp_path / "filled").tolist() == shard_row_ids(tmp_path / "filled").tolist()


def test_a_shard_may_be_updated_in_its_own_folder(tmp_path: Path) -> None:
    template = TEMPLATES["IVF16,SQ8"]
    build_shard(template, *rows_of(dict.fromkeys(range(50), False)), tmp_path / "a")
    update_shard(template, tmp_path / "a", IDS[:10], *rows_of({60: True}), tmp_path / "a")
    build_shard(template, *rows_of({**dict.fromkeys(range(10, 50), False), 60: True}), tmp_path / "b")
    assert_same_bytes(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {INDEX_FILE, VECTORS_FILE}


def test_flat_and_inverted_file_kinds_can_be_updated() -> None:
    assert all(can_update(template) for template in TEMPLATES.values())


@pytest.mark.parametrize("key", FIXED)
def test_other_kinds_cannot_be_updated(tmp_path: Path, key: str) -> None:
    template = make_template(key)
    assert not can_update(template)
    with pytest.raises(BadConfig, match="cannot be updated"):
        update_shard(template, tmp_path / "a", IDS[:1], *rows_of({}), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def updated(folder: Path, removed: np.ndarray, rows: tuple, key: str = "IVF16,SQ8") -> None:
    """Update a shard of the pool's first fifty rows; a refused update must leave nothing behind."""
    build_shard(TEMPLATES[key], *rows_of(dict.fromkeys(range(50), False)), folder / "a")
    try:
        update_shard(TEMPLATES[key], folder / "a", removed, *rows, folder / "b")
    finally:
        assert not (folder / "b").exists()


def test_rows_to_remove_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=f"1 rows to remove are not in the shard, e.g. {IDS[70]}"):
        updated(tmp_path, IDS[[3, 70]], rows_of({}))


def test_rows_to_add_must_not_be_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=f"1 rows to add are in the shard, e.g. {IDS[7]}"):
        updated(tmp_path, IDS[[3]], rows_of({3: True, 7: True, 80: True}))


@pytest.mark.parametrize("removed", [[3, 3], [-1], [0.5]])
def test_bad_ids_are_refused(tmp_path: Path, removed: list) -> None:
    with pytest.raises(CatalogInvalid):
        updated(tmp_path, np.array(removed), rows_of({}))


@pytest.mark.parametrize("which", [1, 2])
def test_added_vectors_that_are_not_finite_are_refused(tmp_path: Path, which: int) -> None:
    rows = rows_of({60: False, 61: False})
    rows[which][1, 3] = np.nan
    with pytest.raises(ShardCorrupt, match=r"1 of 2 .* vectors .* row 1"):
        updated(tmp_path, IDS[:0], rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((IDS[60:61], noise(1, 5), noise(1, 12)), "have 5 dimensions, the template was trained on 8"),
        ((IDS[60:61], noise(1, 8), noise(1, 9)), "have 9 dimensions, the shard has 12"),
        ((IDS[60:62], noise(1, 8), noise(1, 12)), "as many ids as vectors"),
    ],
)
def test_added_vectors_of_another_shape_are_refused(tmp_path: Path, rows: tuple, message: str) -> None:
    with pytest.raises(DimensionMismatch, match=message):
        updated(tmp_path, IDS[:0], rows)


@pytest.mark.parametrize("other", ["Flat", "IVF16,Flat", "retrained"])
def test_a_predecessor_of_another_template_is_refused(tmp_path: Path, other: str) -> None:
    template = make_template("IVF16,SQ8", seed=1) if other == "retrained" else TEMPLATES[other]
    build_shard(template, *rows_of(dict.fromkeys(range(50), False)), tmp_path / "a")
    with pytest.raises(ShardCorrupt, match="another template"):
        update_shard(TEMPLATES["IVF16,SQ8"], tmp_path / "a", IDS[:1], *rows_of({}), tmp_path / "b")


@pytest.mark.parametrize("key", ["Flat", "IVF16,SQ8"])
@pytest.mark.parametrize("name", [INDEX_FILE, VECTORS_FILE])
def test_a_truncated_predecessor_is_refused(tmp_path: Path, key: str, name: str) -> None:
    build_shard(TEMPLATES[key], *rows_of(dict.fromkeys(range(50), False)), tmp_path / "a")
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ShardCorrupt, match=name):
        update_shard(TEMPLATES[key], tmp_path / "a", IDS[:1], *rows_of({}), tmp_path / "b")


@pytest.mark.parametrize("key", ["Flat", "IVF16,SQ8"])
@pytest.mark.parametrize("rows", [range(10, 60), range(49)])
def test_a_predecessor_whose_index_holds_other_rows_is_refused(tmp_path: Path, key: str, rows: range) -> None:
    build_shard(TEMPLATES[key], *rows_of(dict.fromkeys(range(50), False)), tmp_path / "a")
    build_shard(TEMPLATES[key], *rows_of(dict.fromkeys(rows, False)), tmp_path / "other")
    (tmp_path / "other" / INDEX_FILE).replace(tmp_path / "a" / INDEX_FILE)
    declare_index_bytes(tmp_path / "a")
    with pytest.raises(ShardCorrupt, match=INDEX_FILE):
        update_shard(TEMPLATES[key], tmp_path / "a", IDS[:5], *rows_of({}), tmp_path / "b")


def declare_index_bytes(folder: Path) -> None:
    batch = pa.ipc.open_file(folder / VECTORS_FILE).get_batch(0)
    schema = batch.schema.with_metadata({"index_bytes": str((folder / INDEX_FILE).stat().st_size)})
    with pa.OSFile(str(folder / "new"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    (folder / "new").replace(folder / VECTORS_FILE)


def test_imbalance_sums_the_lists_of_all_shards(tmp_path: Path) -> None:
    template = TEMPLATES["IVF16,SQ8"]
    crowd = np.tile(noise(1), (64, 1))
    build_shard(template, IDS[:64], crowd, crowd, tmp_path / "one list")
    build_shard(template, IDS[:0], crowd[:0], crowd[:0], tmp_path / "empty")
    build_shard(template, IDS[:100], noise(100), noise(100), tmp_path / "spread")
    index = faiss.deserialize_index(np.frombuffer(template, np.uint8))
    sizes = np.bincount(index.quantizer.search(noise(100), 1)[1][:, 0], minlength=16)
    expected = {
        ("one list",): 16.0,
        ("one list", "empty"): 16.0,
        ("spread",): 16 * (sizes**2).sum() / 100**2,
        ("empty",): 1.0,
        (): 1.0,
    }
    assert {names: imbalance([tmp_path / name for name in names]) for names in expected} == pytest.approx(expected)


def test_a_flat_index_is_balanced(tmp_path: Path) -> None:
    build_shard(TEMPLATES["Flat"], *rows_of(dict.fromkeys(range(50), False)), tmp_path)
    assert imbalance([tmp_path]) == 1.0


def test_shards_of_different_templates_have_no_imbalance(tmp_path: Path) -> None:
    for key in ("Flat", "IVF16,Flat"):
        build_shard(TEMPLATES[key], *rows_of(dict.fromkeys(range(50), False)), tmp_path / key)
    with pytest.raises(ShardCorrupt, match="inverted lists"):
        imbalance([tmp_path / "Flat", tmp_path / "IVF16,Flat"])
