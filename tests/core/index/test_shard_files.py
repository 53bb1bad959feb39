"""The files of a shard are mapped without a copy, replaced in one step, and refused when they are damaged."""

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.errors import ShardCorrupt
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, indexed_row_ids, positions_of, shard_row_ids
from tests.core.index.conftest import KEYS, build, far_ids, noise


def test_vectors_are_sorted_by_row_id_in_one_uncompressed_batch(tmp_path: Path) -> None:
    ids, full = far_ids(1_000), noise(1_000)
    (folder,) = build(tmp_path, ids, full, full)
    order = np.argsort(ids)
    reader = pa.ipc.open_file(pa.memory_map(str(folder / VECTORS_FILE)))
    assert reader.num_record_batches == 1
    allocated = pa.total_allocated_bytes()
    batch = reader.get_batch(0)
    np.testing.assert_array_equal(batch.column("row_id").to_numpy(zero_copy_only=True), ids[order])
    stored = batch.column("vector").flatten().to_numpy(zero_copy_only=True).reshape(-1, 16)
    np.testing.assert_array_equal(stored, full[order])
    assert pa.total_allocated_bytes() == allocated, "a mapped shard is read without a copy"


def test_building_again_leaves_no_other_files(tmp_path: Path) -> None:
    for n in (10, 20):
        (folder,) = build(tmp_path, far_ids(n), noise(n), noise(n))
    assert {path.name for path in folder.iterdir()} == {INDEX_FILE, VECTORS_FILE}


def test_an_open_map_survives_its_file_being_replaced(tmp_path: Path) -> None:
    ids, full = far_ids(1_000), noise(1_000)
    (folder,) = build(tmp_path, ids, full, full, key="IVF16,Flat")
    mapped = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP)
    mapped.nprobe = 16
    build(tmp_path, ids[:700], full[:700], full[:700], key="IVF16,Flat")
    assert mapped.search(full[:1], 1)[1][0, 0] == ids[0]


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def cut_to_a_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:80])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x00" * path.stat().st_size)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("key", ["Flat", "IVF16,SQ8"])
@pytest.mark.parametrize("name", [INDEX_FILE, VECTORS_FILE])
@pytest.mark.parametrize("damage", [remove, truncate, cut_to_a_header, empty, lengthen, overwrite, make_a_folder])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, key: str, name: str, damage: Callable[[Path], None]) -> None:
    folders = build(tmp_path, far_ids(1_000), noise(1_000), noise(1_000), n_shards=2, key=key)
    damage(folders[1] / name)
    with pytest.raises(ShardCorrupt, match=f"1/{name}"):
        ShardedIndex.open(folders, 16, 16, nprobe=0)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardCorrupt, match=VECTORS_FILE):
        ShardedIndex.open([tmp_path / "nowhere"], 16, 16, nprobe=0)


def write_vectors(path: Path, columns: dict[str, pa.Array], n_index_bytes: int) -> None:
    batch = pa.record_batch(columns)
    schema = batch.schema.with_metadata({"index_bytes": str(n_index_bytes)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


@pytest.mark.parametrize(
    "columns",
    [
        {"other": pa.array([1, 2])},
        {"row_id": pa.array([1, 2]), "vector": pa.array([1.0, 2.0])},
        {"row_id": pa.array([1, 2]), "vector": pa.array([[1.0], [2.0]], pa.list_(pa.float64(), 1))},
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, columns: dict[str, pa.Array]) -> None:
    (folder,) = build(tmp_path, far_ids(2), noise(2), noise(2))
    write_vectors(folder / VECTORS_FILE, columns, (folder / INDEX_FILE).stat().st_size)
    with pytest.raises(ShardCorrupt, match=VECTORS_FILE):
        ShardedIndex.open([folder], 16, 16, nprobe=0)


@pytest.mark.parametrize("key", KEYS)
def test_both_files_hold_the_rows_of_the_shard(tmp_path: Path, key: str) -> None:
    ids, full = far_ids(1_000), noise(1_000)
    (folder,) = build(tmp_path, ids, full, full, key=key)
    assert shard_row_ids(folder).tolist() == sorted(ids)
    if key != "IVF16,PQ16x4fs":  # its lists are blocks of codes without a row order
        assert indexed_row_ids(folder).tolist() == sorted(ids)


@given(st.sets(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_positions_are_those_of_the_rows_that_are_there(present: set[int], sought: list[int]) -> None:
    ascending, row_ids = np.array(sorted(present), np.int64), np.array(sought, np.int64)
    position, is_present = positions_of(ascending, row_ids)
    assert is_present.tolist() == [row in present for row in sought]
    np.testing.assert_array_equal(ascending[position[is_present]], row_ids[is_present])
