import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, FieldSet, field_table, row_id
from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.export.rows import ReleaseRows, Rows, table_schema
from tests.core.conftest import Shop

N_ITEMS = 36


def with_fields(shop: Shop, release: Release, fields: dict[str, dict[str, str]]) -> Release:
    pairs = [[{"name": name, "value": value} for name, value in values.items()] for values in fields.values()]
    table = field_table(pl.DataFrame({"row_id": [*map(row_id, fields)], "fields": pairs}))
    parts = put_parts(shop.store, "fields/prices", {FIELDS_FILE: table_bytes(table)})
    sealed = FieldSet(fingerprint=f"prices-{len(str(fields))}", parts=parts).seal(shop.store)
    return release.model_copy(update={"fields": sealed.ref})


def rows_of(shop: Shop, release: Release) -> Rows:
    (rows,) = ReleaseRows(shop.store, release).batches()
    return rows


def test_a_row_has_what_a_hit_says_the_attributes_and_the_vector(
    new_shop: Callable[[Path], Shop], tmp_path: Path
) -> None:
    shop = new_shop(tmp_path)
    release = with_fields(shop, shop.publish(), {"item-1-0": {"title": "A dress", "price": "19,90 €", "link": "/1"}})
    rows = rows_of(shop, release)
    place = rows.row_ids.tolist().index(row_id("item-1-0"))
    item = rows.items[place].model_dump()
    hit = shop.open().item("item-1-0").model_dump()
    assert {name: item[name] for name in hit if name != "fields"} == {k: v for k, v in hit.items() if k != "fields"}
    price = {"amount": 19.9, "currency": "EUR", "text": "19,90 €"}
    assert item["fields"] == {"link": "/1", "price": price, "title": "A dress"}
    assert item["attributes"] == {"colour": "blue", "year": "2001"}
    assert (rows.vectors[place] == shop.vectors["item-1-0"]).all()
    assert np.allclose(np.linalg.norm(rows.vectors, axis=1), 1)


def test_a_hash_changes_with_a_price_and_with_nothing_else(new_shop: Callable[[Path], Shop], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    release = shop.publish()
    price = {"item-1-0": {"price": "19,90 €"}, "item-2-0": {"price": "5 €"}}
    before = rows_of(shop, with_fields(shop, release, price))
    same = rows_of(shop, with_fields(shop, release, price))
    after = rows_of(shop, with_fields(shop, release, price | {"item-1-0": {"price": "9,90 €"}}))
    assert (before.hashes == same.hashes).all()
    assert before.row_ids[before.hashes != after.hashes].tolist() == [row_id("item-1-0")]
    assert len(set(before.hashes.tolist())) == N_ITEMS
    assert (before.hashes >= 0).all()


def test_items_that_a_search_cannot_find_are_left_out(new_shop: Callable[[Path], Shop], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    release = shop.publish()
    fewer = shop.publish("r2", products=range(1))
    rows = rows_of(shop, release.model_copy(update={"index": fewer.index}))
    assert sorted(item.item_id for item in rows.items) == ["item-0-0", "item-0-1", "item-0-2"]


def test_a_table_has_names_and_values_as_json(new_shop: Callable[[Path], Shop], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    rows = rows_of(shop, with_fields(shop, shop.publish(), {"item-1-0": {"title": "Größe 1"}}))
    table = rows.table()
    assert table.schema == table_schema(rows.vectors.shape[1])
    row = table.filter(pl.Series(rows.row_ids == row_id("item-1-0")).to_arrow()).to_pylist()[0]
    assert (row["item_id"], row["labels"]) == ("item-1-0", ["blue", "new"])
    assert (json.loads(row["fields"]), row["fields"]) == ({"title": "Größe 1"}, '{"title": "Größe 1"}')
    assert json.loads(row["attributes"]) == {"colour": "blue", "year": "2001"}


def test_rows_are_cut_and_chosen_together(new_shop: Callable[[Path], Shop], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    rows = rows_of(shop, shop.publish())
    sizes = [len(part) for part in rows.slices(10)]
    assert sizes == [10, 10, 10, 6]
    chosen = rows.only(np.arange(N_ITEMS) % 12 == 0)
    assert [item.item_id for item in chosen.items] == [rows.items[place].item_id for place in (0, 12, 24)]
    assert [row_id(item.item_id) for item in chosen.items] == chosen.row_ids.tolist()
    assert [document["content_hash"] for document in chosen.documents()] == chosen.hashes.tolist()
