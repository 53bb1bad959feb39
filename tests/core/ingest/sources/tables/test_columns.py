"""A shop's table goes in under its own column names, with all pictures of a row."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.errors import BadConfig, CatalogInvalid
from retrieval_core.ingest.sources.tables.columns import Columns, one_row_a_picture, split_columns
from retrieval_core.ingest.sources.tables.table import TableSource

SHOP = "sku,front,back,type,price,mask_uri\n1,a.jpg,b.jpg,coat,3,m.png\n2,,c.jpg,hat,4,\n3,d.jpg,,hat,5,\n"


def from_csv(folder: Path, query: str = "", text: str = SHOP) -> TableSource:
    path = folder / "items.csv"
    path.write_text(text)
    return TableSource(f"{path}{query}")


def test_columns_of_other_names_are_read_and_the_rest_is_named(tmp_path: Path) -> None:
    source = from_csv(
        tmp_path, "?item_id=sku&image_uri=back&category=type&attr_colour=price", SHOP.replace("d.jpg,,", ",d.jpg,")
    )
    rows = source.rows()
    assert rows["item_id"].to_list() == ["1", "2", "3"]
    assert rows["category"].to_list() == ["coat", "hat", "hat"]
    assert rows["attributes"].to_list()[0] == [{"name": "colour", "value": "3"}]
    assert source.notes[1:] == (
        "columns: item_id from sku, category from type, attr_colour from price, image_uri from back, mask_uri",
        "not used: front",
        "fields: price: 3 as numbers",
    )


def test_each_picture_of_a_row_is_an_item_of_one_product(tmp_path: Path) -> None:
    rows = from_csv(tmp_path, "?item_id=sku&image_uri=front&image_uri=back").rows()
    assert rows.select("item_id", "product_id").rows() == [("1", "1"), ("1/2", "1"), ("2/2", "2"), ("3", "3")]
    assert [Path(uri).name for uri in rows["image_uri"]] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [uri is not None for uri in rows["mask_uri"]] == [True, False, False, False], (
        "a mask is of the first picture"
    )


def test_a_column_may_be_used_twice_and_hide_one_of_that_name(tmp_path: Path) -> None:
    text = "item_id,sku,image_uri\nrow 1,p1,a.jpg\nrow 2,p2,b.jpg\n"
    source = from_csv(tmp_path, "?item_id=sku&product_id=sku", text)
    assert source.rows().select("item_id", "product_id").rows() == [("p1", "p1"), ("p2", "p2")]
    assert source.notes[-1] == "not used: item_id"


def test_whole_numbers_of_parquet_are_ids_of_each_picture(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"sku": [1.0, 2.0], "front": ["a.jpg", "b.jpg"], "back": ["c.jpg", None]}).write_parquet(path)
    rows = TableSource(f"{path}?item_id=sku&image_uri=front&image_uri=back").rows()
    assert rows["item_id"].to_list() == ["1", "1/2", "2"]


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("", CatalogInvalid, r"lacks column item_id and image_uri.*\?item_id=sku&image_uri=image_link"),
        ("?item_id=sku", CatalogInvalid, r"lacks column image_uri.*\?item_id=sku&image_uri=image_link"),
        ("?item_id=SKU&image_uri=image_link", CatalogInvalid, "no column SKU; did you mean sku"),
        ("?id=sku", BadConfig, "id is no column that is read"),
        ("?item_id=", BadConfig, "item_id names no column"),
        ("?item_id=sku&item_id=image_link", BadConfig, "item_id names no column, or several"),
        ("?item_id=sku&product_id=nowhere", CatalogInvalid, "no column nowhere; expected one of sku, image_link"),
    ],
)
def test_what_is_missing_or_misspelled_is_named(query: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        from_csv(tmp_path, query, "sku,image_link\n1,a.jpg\n").rows()


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("g:id,g:image_link,g:title", "merchant"),
        ("Handle,Title,Image Src", "shopify"),
        ("ID,Type,SKU,Images", "woocommerce"),
    ],
)
def test_a_feed_is_known_by_its_columns(header: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=f"looks like a feed that {kind}:{tmp_path}/items.csv reads$"):
        from_csv(tmp_path, "", f"{header}\n1,a.jpg,x{',y' * (header.count(',') - 2)}\n")


def test_a_row_without_any_picture_is_an_error_as_in_any_table(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="1 rows have an empty image_uri"):
        from_csv(tmp_path, "?item_id=sku&image_uri=front&image_uri=back", f"{SHOP}4,,,hat,5,\n").rows()


def test_a_question_mark_may_be_part_of_the_file_s_name(tmp_path: Path) -> None:
    path = tmp_path / "what?.csv"
    path.write_text("item_id,image_uri\n1,a.jpg\n")
    assert TableSource(str(path)).rows()["item_id"].to_list() == ["1"]
    path.write_text(SHOP)
    assert len(TableSource(f"{path}?item_id=sku&image_uri=front&image_uri=back").rows()) == 4


@pytest.mark.parametrize("name", ["items.csv.gz", "ITEMS.TSV.GZ"])
def test_text_may_be_packed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"item_id\timage_uri\n1\ta.jpg\n") + gzip.compress(b"2\tb.jpg\n"))
    assert TableSource(str(path)).rows()["item_id"].to_list() == ["1", "2"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CatalogInvalid, match="cannot be read"):
        TableSource(str(path))


ADDRESS = st.none() | st.sampled_from(["", "a.jpg", "b.jpg"])


@given(st.lists(st.lists(ADDRESS, min_size=3, max_size=3), min_size=1, max_size=8))
def test_every_picture_of_every_row_is_there_once(cells: list[list[str | None]]) -> None:
    first, *others = (pl.Series(list(column), dtype=pl.String) for column in zip(*cells, strict=True))
    rows = pl.DataFrame({"item_id": [f"i{row}" for row in range(len(cells))], "image_uri": first})
    found = one_row_a_picture(rows, others)
    expected = {
        (f"i{row}" + f"/{position}" * (position > 1), address)
        for row, addresses in enumerate(cells)
        for position, address in enumerate(addresses, 1)
        if address or (position == 1 and not any(addresses))
    }
    assert set(found.select("item_id", "image_uri").rows()) == expected
    assert len(found) == len(expected)
    assert all(
        item_id.split("/")[0] == product_id for item_id, product_id in found.select("item_id", "product_id").rows()
    )


@pytest.mark.parametrize(
    ("address", "file", "columns"),
    [
        ("https://host/a.csv?item_id=sku&key=7", "https://host/a.csv?key=7", {"item_id": "sku"}),
        (
            "https://host/a.csv?category=12&key=7#item_id=sku",
            "https://host/a.csv?category=12&key=7",
            {"item_id": "sku"},
        ),
        ("https://host/a.csv?category=12#", "https://host/a.csv?category=12", {}),
        ("https://host/a.csv#category=kind&attr_a=b", "https://host/a.csv", {"category": "kind", "attr_a": "b"}),
        ("HTTPS://host/a?&&item_id=sku", "HTTPS://host/a", {"item_id": "sku"}),
        ("s3://shop/a#1.csv?item_id=sku", "s3://shop/a#1.csv", {"item_id": "sku"}),
    ],
)
def test_a_web_address_keeps_its_own_parameters(address: str, file: str, columns: dict[str, str]) -> None:
    assert split_columns(address, "table:") == (file, Columns(columns, (), {}))


def test_after_a_hash_every_name_is_read_here() -> None:
    with pytest.raises(BadConfig, match="key is no column that is read") as refused:
        split_columns("https://host/a.csv?token=secret#key=7", "table:https://host/a.csv")
    assert "secret" not in str(refused.value)
