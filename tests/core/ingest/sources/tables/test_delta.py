"""A table of changes names items, and says which of them are deleted."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.ingest.sources.tables.delta import Named, items_named, marks_deleted
from retrieval_core.ingest.sources.tables.table import TableSource

ROWS = [("4711", "s3://shop/a.jpg", ""), ("4712", "s3://shop/b.jpg", "true"), ("4713", "s3://shop/c.jpg", "0")]
XML = """<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel>{}</channel></rss>"""
WOO = "ID,Type,SKU,Name,Published,Categories,Tags,Images,Parent,gone"


def write_feed(kind: str, folder: Path) -> str:
    """Write three products, one of them deleted, as a feed of a kind; return its address."""
    if kind == "table":
        path, lines = "items.csv", ["item_id,image_uri,gone", *(f"{item},{uri},{gone}" for item, uri, gone in ROWS)]
    elif kind == "merchant":
        path, lines = "feed.tsv", ["id\timage link\tgone", *("\t".join(row) for row in ROWS)]
    elif kind == "shopify":
        path, lines = "products.csv", ["Handle,Image Src,Gone", *(f"{item},{uri},{gone}" for item, uri, gone in ROWS)]
    elif kind == "woocommerce":
        path, lines = "products.csv", [WOO, *(f"{item},simple,,x,1,,,{uri},,{gone}" for item, uri, gone in ROWS)]
    elif kind == "xml":
        items = (
            f"<item><g:id>{item}</g:id><g:image_link>{uri}</g:image_link>" + f"<gone>{gone}</gone>" * bool(gone)
            + "</item>" for item, uri, gone in ROWS
        )  # fmt: skip
        path, lines = "feed.xml", [XML.format("".join(items))]
    elif kind == "jsonl":
        objects = ({"item_id": item, "image_uri": uri, "gone": gone == "true"} for item, uri, gone in ROWS)
        path, lines = "items.jsonl", [json.dumps(each) for each in objects]
    else:
        with sqlite3.connect(folder / "shop.db") as database:
            database.execute("CREATE TABLE items (item_id, image_uri, gone)")
            database.executemany("INSERT INTO items VALUES (?, ?, ?)", ROWS)
        path, lines = "items.sql", ["SELECT * FROM items"]
    (folder / path).write_text("\n".join(lines) + "\n")
    kind = {"xml": "merchant"}.get(kind, kind)
    return f"{kind}:{folder / path}?" + f"database=sqlite:///{folder}/shop.db&" * (kind == "sql")


KINDS = ("table", "merchant", "xml", "shopify", "woocommerce", "jsonl", "sql")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_feed_may_list_only_what_changed(kind: str, tmp_path: Path) -> None:
    source = open_source(f"{write_feed(kind, tmp_path)}mode=delta&deleted=gone")
    assert isinstance(source, TableSource)
    assert source.is_delta
    assert source.rows()["item_id"].to_list() == ["4711", "4713"]
    assert source.named()[:2] == ({"4711", "4712", "4713"}, {"4712"})
    assert any("1 row marked as deleted" in note or "marked as deleted: 4712" in note for note in source.notes)
    assert not any("not used" in note and "gone" in note.casefold() for note in source.notes)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("xml", "jsonl")])
def test_a_column_that_is_absent_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=r"column ?is_gone|is_gone"):
        open_source(f"{write_feed(kind, tmp_path)}mode=delta&deleted=is_gone")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_mode_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="mode is 'changes'; expected delta"):
        open_source(f"{write_feed(kind, tmp_path)}mode=changes")


def test_a_delta_may_change_nothing_and_a_catalogue_may_not(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,image_uri,gone\n")
    source = TableSource(f"{tmp_path}/items.csv?mode=delta")
    assert source.rows().is_empty()
    assert source.named() == Named(frozenset(), frozenset(), False)
    with pytest.raises(SourceMissing, match="has no rows"):
        TableSource(f"{tmp_path}/items.csv?deleted=gone")


def test_rows_marked_as_deleted_need_no_picture_and_are_left_out_of_a_whole_catalogue_too(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "items.csv.gz", "wt") as file:
        file.write("sku,photo,deleted_at\n1,a.jpg,\n2,,2026-03-01 12:00:00\n3,,2026-03-02T08:00:00Z\n")
    source = TableSource(f"{tmp_path}/items.csv.gz?item_id=sku&image_uri=photo&deleted=deleted_at")
    assert source.rows()["item_id"].to_list() == ["1"]
    assert source.named().deleted == {"2", "3"}


def test_an_id_that_is_both_deleted_and_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,image_uri,gone\n1,a.jpg,1\n1,a.jpg,0\n")
    with pytest.raises(CatalogInvalid, match="item '1' has a row that is marked as deleted and one that is not"):
        TableSource(f"{tmp_path}/items.csv?mode=delta&deleted=gone")


@pytest.mark.parametrize("cell", ["1", "true", "YES", " x ", "deleted", "2026-03-01", "2026-03-01T10:00:00+01:00"])
def test_a_cell_marks_a_row_as_deleted(cell: str) -> None:
    assert marks_deleted(cell)


@pytest.mark.parametrize("cell", [None, "", "0", "False", "no", " n "])
def test_a_cell_keeps_a_row(cell: str | None) -> None:
    assert not marks_deleted(cell)


@pytest.mark.parametrize("cell", ["maybe", "2", "active", "20260301"])
def test_a_cell_that_says_neither_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="neither as deleted"):
        marks_deleted(cell)


def test_further_pictures_of_a_product_are_named_with_its_first() -> None:
    items = pl.DataFrame(
        {
            "item_id": ["a", "a/2", "a/3", "a/x", "b", "b/2", "c/2", "d", "d/1", "d/02"],
            "product_id": ["p", "p", "p", "p", None, None, "c", "d", "d", "d"],
        }
    )
    ids = frozenset({"a", "b", "c", "d", "new"})
    named = items_named(Named(ids, frozenset({"a"}), has_further_pictures=True), items)
    assert named.rows() == [("a", True), ("a/2", True), ("a/3", True), ("b", False), ("d", False)]
    alone = items_named(Named(ids, frozenset({"a"}), has_further_pictures=False), items)
    assert alone["item_id"].to_list() == ["a", "b", "d"]
