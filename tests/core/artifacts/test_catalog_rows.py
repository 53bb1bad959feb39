"""Row ids are stable, and the rows of a sealed catalogue are read one by one or as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import catalog_rows
from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    FIELDS_FILE,
    HELD_OUT,
    HIT_COLUMNS,
    NAMED_VALUES,
    FieldSet,
    Items,
    bounded_sample,
    field_table,
    inner_validation,
    item_pieces,
    load_items,
    put_items,
    read_fields,
    row_id,
    with_fields,
    without_held_out,
)
from retrieval_core.artifacts.manifests import Catalog, Part
from retrieval_core.artifacts.parts import put_part, read_table, table_bytes
from retrieval_core.errors import NotFound
from retrieval_core.fields.values import parse_value
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

IDS = ("c", "a", "d", "b")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def seal_catalog(store: Store, item_ids: tuple[str, ...] = IDS) -> Catalog:
    items = items_of(item_ids)
    return Catalog(fingerprint="one", parts=put_items(store, items), counts={"rows": len(items)}).seal(store)


def items_of(item_ids: Sequence[str]) -> pl.DataFrame:
    rows = [{"item_id": name, "row_id": row_id(name), "product_id": "p" if name < "c" else None} for name in item_ids]
    return pl.DataFrame(rows, schema=CATALOG_SCHEMA)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_rows, "PIECE_ROWS", 8)
    monkeypatch.setattr(catalog_rows, "MAX_PIECES", 1 << 20)


@given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_a_row_id_fits_the_index(item_id: str) -> None:
    assert 0 <= row_id(item_id) < 2**63


def test_a_row_id_never_changes() -> None:
    assert row_id("") == 0x2D06800538D394C2 >> 1  # the published XXH3-64 of nothing


def test_rows_come_in_the_order_they_are_named_in(store: Store) -> None:
    items = Items.open(store, seal_catalog(store).ref)
    row_ids = np.array([row_id(name) for name in ("b", "c", "b")])
    assert [row["item_id"] for row in items.rows(row_ids)] == ["b", "c", "b"]
    assert set(items.rows(row_ids)[0]) == {*HIT_COLUMNS, "content_id"}
    assert items.values("product_id", row_ids) == ["p", None, "p"]
    assert items.rows(row_ids[:0]) == []


@pytest.mark.parametrize("item_ids", [IDS, ()])
def test_a_row_that_is_not_in_the_catalogue_is_not_found(store: Store, item_ids: tuple[str, ...]) -> None:
    items = Items.open(store, seal_catalog(store, item_ids).ref)
    with pytest.raises(NotFound, match="lacks some of 1 requested rows"):
        items.rows(np.array([row_id("e")]))


def test_all_rows_are_loaded_with_all_columns_or_the_named_ones(store: Store) -> None:
    seal_catalog(store)
    assert dict(load_items(store, "one").schema) | {"fields": NAMED_VALUES} == CATALOG_SCHEMA
    assert load_items(store, "one", ["item_id"])["item_id"].to_list() == list(IDS)
    with pytest.raises(NotFound, match="no catalogue two"):
        load_items(store, "two")


@given(names=st.sets(st.integers(0, 999), max_size=200), changed=st.sets(st.integers(0, 999), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_change_of_few_items_changes_few_pieces(small_pieces: None, names: set[int], changed: set[int]) -> None:
    before, after = (items_of([f"{n:03}" for n in sorted(numbers)]) for numbers in (names, names ^ changed))
    pieces = list(item_pieces(before))
    assert pl.concat(pieces).equals(before.drop("fields"))
    kept = {table_bytes(piece) for piece in pieces}
    rewritten = [piece for piece in item_pieces(after) if table_bytes(piece) not in kept]
    assert len(rewritten) <= 2 * len(changed), "an item that begins a piece changes this one and the one before"


def test_catalogues_share_the_pieces_that_are_equal(small_pieces: None, store: Store) -> None:
    names = [f"{number:04}" for number in range(1000)]
    first, written = put_items(store, items_of(names)), stored_keys(store)
    second = put_items(store, items_of([*names[:500], "0499a", *names[500:]]))
    assert len(set(second) - set(first)) in (1, 2)
    assert stored_keys(store) - written == {part.key for part in set(second) - set(first)}
    assert len(first) > 60
    everything = Catalog(fingerprint="two", parts=second).seal(store)
    assert load_items(store, "two")["item_id"].to_list() == [*names[:500], "0499a", *names[500:]]
    row = Items.open(store, everything.ref).rows(np.array([row_id("0999"), row_id("0499a")]))
    assert [found["item_id"] for found in row] == ["0999", "0499a"]


def test_a_damaged_piece_is_not_shared_but_written_again(store: Store) -> None:
    (part,) = put_items(store, items_of(IDS))
    Path(store.url, part.key).write_bytes(b"damaged")
    assert put_items(store, items_of(IDS)) == (part,)
    assert len(load_part(store, part)) == len(IDS)


def test_a_large_catalogue_has_a_bounded_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_rows, "PIECE_ROWS", 1)
    n_pieces = len(list(item_pieces(items_of([str(number) for number in range(20_000)]))))
    assert catalog_rows.MAX_PIECES / 4 < n_pieces < 2 * catalog_rows.MAX_PIECES


def stored_keys(store: Store) -> set[str]:
    return {entry.key for entry in store.entries("")}


def load_part(store: Store, part: Part) -> pl.DataFrame:
    return read_table(open_store(store.url), part)


@given(n_items=st.integers(0, 60), max_rows=st.integers(10, 60), seed=st.integers(0, 5))
def test_a_bounded_sample_is_the_same_every_time_and_in_order(n_items: int, max_rows: int, seed: int) -> None:
    items = pl.DataFrame({"item_id": range(n_items)}, schema={"item_id": pl.Int64})
    drawn = bounded_sample(items, max_rows, seed)
    assert drawn.equals(bounded_sample(items, max_rows, seed))
    assert drawn["item_id"].to_list() == sorted(set(drawn["item_id"]))
    assert len(drawn) == min(n_items, max_rows)


LINKED_ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, *"abcdefghij"]),
        st.integers(0, 30).map(str),
        st.sampled_from(["train", "train", "train", "query", None]),
    ),
    min_size=1,
    max_size=60,
)


@given(rows=st.lists(st.tuples(st.integers(0, 5).map(str), st.sampled_from(["train", "query", None])), max_size=12))
def test_no_picture_that_a_held_out_item_shows_may_be_trained_on(rows: list[tuple[str, str | None]]) -> None:
    items = pl.DataFrame(rows, schema={"content_id": pl.String, "split": pl.String}, orient="row")
    held_out = {content_id for content_id, split in rows if split in HELD_OUT}
    assert without_held_out(items).rows() == [row for row in rows if row[0] not in held_out]


def linked_items(rows: Sequence[tuple[str | None, str, str | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={"product_id": pl.String, "content_id": pl.String, "split": pl.String}, orient="row"
    )


@given(rows=LINKED_ROWS, seed=st.integers(0, 3))
def test_no_product_and_no_file_is_on_both_sides_of_the_inner_validation(
    rows: list[tuple[str | None, str, str | None]], seed: int
) -> None:
    items = linked_items(rows)
    inside = inner_validation(items, seed)
    for column in ("product_id", "content_id"):
        validated, others = (set(items[column].filter(pl.Series(mask)).drop_nulls()) for mask in (inside, ~inside))
        assert not validated & others
    assert not items["split"].filter(pl.Series(inside)).is_in(HELD_OUT).any()
    order = np.random.default_rng(seed).permutation(len(items))
    np.testing.assert_array_equal(inner_validation(items[order], seed), inside[order])


def test_the_inner_validation_is_a_tenth_that_stays_when_the_catalogue_grows() -> None:
    rows = [(f"p{number // 2}", f"c{number}", "train") for number in range(4000)]
    smaller, larger = inner_validation(linked_items(rows[:3000]), 0), inner_validation(linked_items(rows), 0)
    assert 0.08 < larger.mean() < 0.12
    np.testing.assert_array_equal(larger[:3000], smaller)
    assert (inner_validation(linked_items(rows), 1) != larger).any()


def test_a_small_catalogue_has_an_inner_validation_and_no_large_group_becomes_one() -> None:
    rows = [(None, f"d{number}", "train") for number in range(4)]
    assert all(inner_validation(linked_items(rows), seed).any() for seed in range(20))
    one_product = [("p", f"c{number}", "train") for number in range(40)]
    masks = [inner_validation(linked_items([*one_product, *rows]), seed) for seed in range(20)]
    assert all(mask.any() and not mask[:40].any() for mask in masks)
    assert not inner_validation(linked_items(one_product), 0).any()


VALUES = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1 EUR", "2", "x", "2026-03-01"]))


@given(fields=st.lists(VALUES, max_size=9).filter(any))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fields_are_read_as_they_were_stored(store: Store, fields: list[dict[str, str]]) -> None:
    pairs = [[{"name": name, "value": text} for name, text in sorted(row.items())] for row in fields]
    names = [str(number) for number in range(len(fields))]
    items = with_fields(items_of(names).with_columns(pl.Series("fields", pairs, NAMED_VALUES)))
    data = table_bytes(field_table(items))
    part = put_part(store, f"fields/{hashlib.sha256(data).hexdigest()}/{FIELDS_FILE}", data, len(items))
    sealed = FieldSet(fingerprint=part.sha256[:32], parts=(part,)).seal(store)
    assert with_fields(items, read_fields(store, sealed)).equals(items)
    catalog = Catalog(fingerprint=part.sha256[32:], parts=put_items(store, items)).seal(store)
    found = Items.open(store, catalog.ref, sealed.ref).fields(items["row_id"].to_numpy())
    assert found == [{name: parse_value(text) for name, text in sorted(row.items())} for row in fields]
