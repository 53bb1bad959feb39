"""Writing and reading the parts of artifacts."""

import io
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import ClassSet, MaskSet, VectorSet
from retrieval_core.artifacts.parts import (
    classes_bytes,
    is_named_after,
    load_classes,
    load_vectors,
    masks_bytes,
    put_part,
    put_part_files,
    put_parts,
    read_ids,
    read_masks,
    read_table,
    read_unsealed,
    read_vectors,
    stored_parts,
    table_bytes,
    vectors_by_part,
    vectors_bytes,
)
from retrieval_core.errors import DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store


@given(n=st.integers(1, 30), dim=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_vectors_come_back_bit_for_bit(n: int, dim: int, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    names = [f"{i:04d}" for i in range(n)]
    path = tmp_path_factory.mktemp("part") / "part.parquet"
    path.write_bytes(vectors_bytes(names, vectors))
    found_names, found = read_vectors(path)
    assert found_names == names == read_ids(path)
    assert np.array_equal(found, vectors)
    assert path.read_bytes() == vectors_bytes(names, vectors), "equal input, equal bytes"


def test_vectors_without_their_ids_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match="2 ids"):
        vectors_bytes(["a", "b"], np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really", None])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "part.parquet"
    whole = vectors_bytes(["a", "b"], np.ones((2, 4), np.float32))
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(ShardCorrupt, match=r"part\.parquet"):
        read_vectors(path)
    with pytest.raises(ShardCorrupt, match=r"part\.parquet"):
        read_ids(path)


def test_a_flipped_bit_is_caught_by_the_checksum(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    part = put_part(store, "t/table.parquet", table_bytes(pl.DataFrame({"a": [1, 2, 3]})), 3)
    assert read_table(store, part)["a"].to_list() == [1, 2, 3]
    file = tmp_path / "t" / "table.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ShardCorrupt):
        read_table(open_store(str(tmp_path)), part)


def test_vectors_are_loaded_in_the_order_asked_also_twice(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    parts = (
        put_part(store, "v/a.parquet", vectors_bytes(["p", "q"], rows[:2]), 2),
        put_part(store, "v/b.parquet", vectors_bytes(["r", "s"], rows[2:]), 2),
    )
    vector_set = VectorSet(fingerprint="f", family="v", variant="raw", dim=2, parts=parts)
    assert np.array_equal(load_vectors(store, vector_set, ["s", "p", "s"]), rows[[3, 0, 3]])
    with pytest.raises(ShardCorrupt, match="lacks 1"):
        load_vectors(store, vector_set, ["p", "nobody"])


@given(parts=st.lists(st.lists(st.integers(0, 12), unique=True, max_size=6), max_size=5), data=st.data())
@settings(max_examples=40)
def test_each_position_comes_once_from_the_first_part_that_has_it(parts: list[list[int]], data: st.DataObject) -> None:
    stored = {number for part in parts for number in part}
    wanted = data.draw(st.lists(st.sampled_from(sorted(stored)), max_size=20)) if stored else []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        sealed = tuple(
            put_part(store, f"v/{at}.parquet", vectors_bytes([f"c{n}" for n in part], _rows(at, part)), len(part))
            for at, part in enumerate(parts)
        )
        vector_set = VectorSet(fingerprint="f", family="v", variant="raw", dim=2, parts=sealed)
        blocks = list(vectors_by_part(store, vector_set, [f"c{n}" for n in wanted]))
    seen = [position for positions, _ in blocks for position in positions.tolist()]
    assert sorted(seen) == list(range(len(wanted)))
    for positions, vectors in blocks:
        assert positions.tolist() == sorted(positions.tolist())
        numbers = [wanted[position] for position in positions]
        first = [next(at for at, part in enumerate(parts) if number in part) for number in numbers]
        assert vectors.tolist() == [[at, number] for at, number in zip(first, numbers, strict=True)]


def _rows(at: int, part: list[int]) -> np.ndarray:
    return np.array([[at, number] for number in part], np.float32).reshape(-1, 2)


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=30)
def test_masks_come_back_pixel_for_pixel(
    height: int, width: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    part = put_part(store, "m/a.parquet", masks_bytes(["x", "y"], [mask, ~mask], ["", "too small"]), 2)
    found = read_masks(store, MaskSet(fingerprint="f", family="m", parts=(part,)), ["x", "y", "z"])
    assert np.array_equal(found["x"].array(), mask)
    assert np.array_equal(found["y"].array(), ~mask)
    assert (found["x"].reason, found["y"].reason) == ("", "too small")
    assert set(found) == {"x", "y"}


def test_classes_are_loaded_in_the_order_asked_and_none_where_there_are_none(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    classes, shares = np.arange(15, dtype=np.int32).reshape(3, 5), np.full((3, 5), 0.2, np.float32)
    parts = (
        put_part(store, "c/a.parquet", classes_bytes(["p", "q"], classes[:2], shares[:2]), 2),
        put_part(store, "c/b.parquet", classes_bytes(["q", "r"], classes[1:], shares[1:]), 2),
    )
    class_set = ClassSet(fingerprint="f", family="c", parts=parts)
    found = load_classes(store, class_set, ["r", "p", "nobody", "q", "p"])
    assert found.dtype == np.int32
    assert found.tolist() == [classes[2].tolist(), classes[0].tolist(), [-1] * 5, classes[1].tolist(), [0, 1, 2, 3, 4]]
    assert load_classes(store, class_set, []).shape == (0, 5)
    assert (load_classes(store, class_set.model_copy(update={"parts": ()}), ["p"]) == -1).all()


def test_classes_that_do_not_match_their_ids_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match=r"expected twice \(2, 5\)"):
        classes_bytes(["a", "b"], np.zeros((2, 4), np.int32), np.zeros((2, 5), np.float32))


# Tables whose checksum no manifest holds


def ledger_like(n_rows: int = 40) -> pl.DataFrame:
    ids = [f"item-{number}" for number in range(n_rows)]
    labels = [["red"] * (number % 3) for number in range(n_rows)]
    return pl.DataFrame({"item_id": ids, "shard": [number % 4 for number in range(n_rows)], "labels": labels})


def test_an_unsealed_table_comes_back_whole_or_as_the_rows_asked_for(local_store: Store) -> None:
    for table in (ledger_like(), ledger_like(0)):
        local_store.put("ingest/items.parquet", table_bytes(table))
        assert read_unsealed(local_store, "ingest/items.parquet").equals(table)
        some = read_unsealed(local_store, "ingest/items.parquet", pl.col("shard") == 3)
        assert some.equals(table.filter(pl.col("shard") == 3))
    with pytest.raises(NotFound):
        read_unsealed(local_store, "ingest/none.parquet")


def test_every_flipped_bit_of_an_unsealed_table_is_found(local_store: Store) -> None:
    """polars ends the process for some of them, and takes others for data."""
    data = table_bytes(ledger_like())
    local_store.put("ingest/items.parquet", data)
    path = local_store.local_path("ingest/items.parquet")
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ShardCorrupt, match="vitrine repair"):
            read_unsealed(local_store, "ingest/items.parquet")


@pytest.mark.parametrize("n_bytes", [0, 1, 4, 100, -1, -64, -200])
def test_an_unsealed_table_cut_off_is_found(local_store: Store, n_bytes: int) -> None:
    local_store.put("ingest/items.parquet", table_bytes(ledger_like())[:n_bytes])
    with pytest.raises(ShardCorrupt, match="vitrine repair"):
        read_unsealed(local_store, "ingest/items.parquet")


def test_another_program_s_table_is_none_of_ours(local_store: Store) -> None:
    sink = io.BytesIO()
    ledger_like().write_parquet(sink)
    local_store.put("ingest/items.parquet", sink.getvalue())
    with pytest.raises(ShardCorrupt, match="vitrine repair"):
        read_unsealed(local_store, "ingest/items.parquet")


FILES = {"a.bin": b"first", "b.bin": b"second"}


def test_files_that_differ_lie_in_different_folders_and_equal_ones_in_one(local_store: Store) -> None:
    """Two machines whose floats differ fit the same model at once: the parts of either stay whole."""
    first = put_parts(local_store, "heads/h", FILES)
    other = put_parts(local_store, "heads/h", FILES | {"b.bin": b"second, to the last bit but one"})
    assert {part.key for part in first}.isdisjoint(part.key for part in other)
    assert put_parts(local_store, "heads/h", dict(reversed(FILES.items()))) == first
    assert [local_store.get(part.key) for part in first] == [b"first", b"second"]
    assert [local_store.get(part.key) for part in other] == [b"first", b"second, to the last bit but one"]
    for parts in (first, other):
        assert is_named_after(parts, parts[0].key.rpartition("/")[0])


def test_local_files_are_stored_as_their_bytes_are(local_store: Store) -> None:
    def save(folder: Path) -> None:
        for name, data in FILES.items():
            (folder / name).write_bytes(data)

    assert put_part_files(local_store, "heads/h", save) == put_parts(local_store, "heads/h", FILES)


def test_parts_are_found_without_a_manifest_once_all_are_there_and_whole(local_store: Store) -> None:
    parts = put_parts(local_store, "indexes/shards/s", FILES)
    assert stored_parts(local_store, "indexes/shards/s", FILES) == parts
    assert stored_parts(local_store, "indexes/shards/s", [*FILES, "c.bin"]) is None
    local_store.put(parts[0].key, b"f1rst")
    assert stored_parts(local_store, "indexes/shards/s", FILES) is None
    put_parts(local_store, "indexes/shards/s", FILES)
    assert stored_parts(local_store, "indexes/shards/s", FILES) == parts
    local_store.delete(parts[1].key)
    assert stored_parts(local_store, "indexes/shards/s", FILES) is None, "its writer was killed"
    assert stored_parts(local_store, "indexes/shards/none", FILES) is None
