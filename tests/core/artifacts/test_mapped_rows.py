"""Rows in a mapped file are the rows that were given, and are found by their keys as a dictionary finds them."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts import mapped_rows
from retrieval_core.artifacts.mapped_rows import (
    KeyIndex,
    batches_at,
    first_with_key,
    in_batches,
    map_arrow,
    mapped,
    rows_at,
    rows_or_null,
    sorted_by,
)
from retrieval_core.artifacts.parts import put_table, read_unsealed, table_bytes
from retrieval_core.errors import StoreNotWritable
from retrieval_core.store.base import Store

SCHEMA = {
    "id": pl.String,
    "n": pl.Int64,
    "names": pl.List(pl.String),
    "pairs": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
    "moment": pl.Struct({"text": pl.String, "at": pl.Datetime("us")}),
}
TEXTS = st.sampled_from([None, "", "a", "ä", "a text that is longer than twelve bytes", "another of such length"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "n": st.sampled_from([None, 0, 1]),
            "names": st.none() | st.lists(TEXTS, max_size=2),
            "pairs": st.none() | st.lists(st.fixed_dictionaries({"name": TEXTS, "value": TEXTS}), max_size=2),
            "moment": st.none() | st.fixed_dictionaries({"text": TEXTS, "at": st.none() | st.datetimes()}),
        }
    ),
    max_size=12,
)
KEYS = st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.sampled_from([None, "c"])), max_size=12)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_rows, "BATCH_ROWS", 3)


@given(rows=ROWS)
def test_mapped_rows_are_the_given_ones(rows: list[dict[str, object]]) -> None:
    table = pl.DataFrame(rows, schema=SCHEMA)
    again = mapped(in_batches(table))
    assert again.equals(table)
    assert again.schema == table.schema
    assert mapped(in_batches(again.reverse())).equals(table.reverse())


@given(rows=ROWS, data=st.data())
def test_rows_are_taken_from_a_mapped_table_in_any_order(rows: list[dict[str, object]], data: st.DataObject) -> None:
    table = pl.DataFrame(rows, schema=SCHEMA)
    positions = data.draw(st.lists(st.integers(-1, len(rows) - 1), max_size=9))
    taken = rows_or_null(mapped(in_batches(table)), np.array(positions, np.int64))
    absent = dict.fromkeys(SCHEMA)
    assert taken.rows(named=True) == [table.row(at, named=True) if at >= 0 else absent for at in positions]
    present = np.array([at for at in positions if at >= 0], np.int64)
    assert pl.concat(batches_at(mapped(in_batches(table)), present)).equals(table[present])
    assert rows_at(table, present).equals(table[present])


@given(stored=KEYS, wanted=KEYS)
def test_the_first_row_with_a_key_is_found(
    stored: list[tuple[str | None, str | None]], wanted: list[tuple[str | None, str | None]]
) -> None:
    keys, asked = (
        pl.DataFrame(rows, schema={"x": pl.String, "y": pl.String}, orient="row") for rows in (stored, wanted)
    )
    assert KeyIndex(keys).first(asked).tolist() == [stored.index(key) if key in stored else -1 for key in wanted]
    assert first_with_key(keys).tolist() == [stored.index(key) for key in stored]


def test_keys_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_rows, "_hashes", lambda keys: np.zeros(len(keys), np.uint64))
    keys = pl.DataFrame({"key": [*"abcab"]})
    assert first_with_key(keys).tolist() == [0, 1, 2, 0, 1]
    assert KeyIndex(keys).first(pl.DataFrame({"key": ["c", "x"]})).tolist() == [2, -1]


@given(names=st.lists(TEXTS.filter(bool), unique=True))
def test_sorts_rows(names: list[str]) -> None:
    table = pl.DataFrame({"name": names}, schema={"name": pl.String})
    assert sorted_by(table, "name")["name"].to_list() == sorted(names)
    ascending = table.sort("name")
    assert sorted_by(ascending, "name") is ascending


def test_a_mapped_table_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = mapped(in_batches(pl.DataFrame({"n": range(10)})))
    assert list(tmp_path.iterdir()) == []
    assert table["n"].to_list() == [*range(10)]


def test_without_a_batch_there_is_no_schema() -> None:
    with pytest.raises(ValueError, match="no batch"):
        mapped([])


def test_one_arrow_table_stays_in_memory() -> None:
    table = pa.table({"n": [1, 2]})
    assert map_arrow([table]) is table


@given(rows=ROWS)
def test_a_table_is_stored_as_the_same_bytes_in_one_batch_and_in_many(rows: list[dict[str, object]]) -> None:
    table = pl.DataFrame(rows * 3, schema=SCHEMA)
    in_many = table_bytes(mapped(in_batches(table)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_rows, "BATCH_ROWS", 1000)
        assert table_bytes(table) == in_many


def test_a_large_table_is_read_as_it_was_stored(local_store: Store) -> None:
    table = pl.DataFrame({"id": [f"item {n}" for n in range(10)], "names": [["a"] * (n % 3) for n in range(10)]})
    put_table(local_store, "ingest/items.parquet", table)
    assert read_unsealed(local_store, "ingest/items.parquet").equals(table)
    assert read_unsealed(local_store, "ingest/items.parquet", columns=["names"]).equals(table.select("names"))


def test_a_full_disk_is_told_with_the_file_that_has_no_room() -> None:
    batch = pl.DataFrame({"text": [f"{n:0100d}" for n in range(100)]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        with pytest.raises(StoreNotWritable, match=r"cannot write .*vitrine-rows-"):
            mapped([batch, batch])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
