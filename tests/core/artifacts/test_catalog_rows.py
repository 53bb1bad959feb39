"""Row ids are stable, and the rows of a sealed catalogue are read one by one or as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    HELD_OUT,
    HIT_COLUMNS,
    Items,
    bounded_sample,
    load_items,
    row_id,
)
from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.errors import NotFound
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

IDS = ("c", "a", "d", "b")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def seal_catalog(store: Store, item_ids: tuple[str, ...] = IDS) -> Catalog:
    rows = [{"item_id": name, "row_id": row_id(name), "product_id": "p" if name < "c" else None} for name in item_ids]
    items = pl.DataFrame(rows, schema=CATALOG_SCHEMA)
    part = put_part(store, "catalogs/one/items.parquet", table_bytes(items), len(items))
    return Catalog(fingerprint="one", parts=(part,), counts={"rows": len(items)}).seal(store)


@given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_a_row_id_fits_the_index(item_id: str) -> None:
    assert 0 <= row_id(item_id) < 2**63


def test_a_row_id_never_changes() -> None:
    assert row_id("") == 0x2D06800538D394C2 >> 1  # the published XXH3-64 of nothing


def test_rows_come_in_the_order_they_are_named_in(store: Store) -> None:
    items = Items.open(store, seal_catalog(store).ref)
    row_ids = np.array([row_id(name) for name in ("b", "c", "b")])
    assert [row["item_id"] for row in items.rows(row_ids)] == ["b", "c", "b"]
    assert set(items.rows(row_ids)[0]) == set(HIT_COLUMNS)
    assert items.products(row_ids) == ["p", None, "p"]
    assert items.rows(row_ids[:0]) == []


@pytest.mark.parametrize("item_ids", [IDS, ()])
def test_a_row_that_is_not_in_the_catalogue_is_not_found(store: Store, item_ids: tuple[str, ...]) -> None:
    items = Items.open(store, seal_catalog(store, item_ids).ref)
    with pytest.raises(NotFound, match="lacks some of 1 requested rows"):
        items.rows(np.array([row_id("e")]))


def test_all_rows_are_loaded_with_all_columns_or_the_named_ones(store: Store) -> None:
    seal_catalog(store)
    assert dict(load_items(store, "one").schema) == CATALOG_SCHEMA
    assert load_items(store, "one", ["item_id"])["item_id"].to_list() == list(IDS)
    with pytest.raises(NotFound, match="no catalogue two"):
        load_items(store, "two")


@given(
    splits=st.lists(st.sampled_from(["train", "query", None]), max_size=60),
    max_rows=st.integers(10, 60),
    seed=st.integers(0, 5),
)
def test_a_bounded_sample_is_the_same_every_time_and_keeps_held_out_rows_first(
    splits: list[str | None], max_rows: int, seed: int
) -> None:
    items = pl.DataFrame({"item_id": range(len(splits)), "split": splits}, schema_overrides={"split": pl.String})
    drawn = bounded_sample(items, max_rows, seed)
    assert drawn.equals(bounded_sample(items, max_rows, seed))
    assert drawn["item_id"].is_sorted()
    assert drawn["item_id"].n_unique() == len(drawn)
    if len(items) <= max_rows:
        assert drawn.equals(items)
    else:
        n_held_out = sum(split in HELD_OUT for split in splits)
        expected = min(n_held_out, max_rows // 5)
        assert sum(split in HELD_OUT for split in drawn["split"]) == expected
        assert len(drawn) == expected + min(len(items) - n_held_out, max_rows - expected)
