"""The fields of a table: which columns they are, that nothing of them is lost silently, and what is told about them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from retrieval_core.errors import BadConfig, CatalogInvalid
from retrieval_core.ingest.sources.tables.table import TableSource
from tests.core.ingest.sources.row_fields import fields_of

HEADER = "item_id,image_uri,Title,Sale Price,brand,season,field.kind"
TABLE = f'{HEADER}\n1,a.jpg,Lamp,"1.299,00 €",Acme,SS26,x\n2,b.jpg,Hat,on request,,2026,\n3,c.jpg,,,,,\n'


def source_of(folder: Path, text: str, query: str = "") -> TableSource:
    (folder / "items.csv").write_text(text)
    return TableSource(f"{folder}/items.csv{query}")


def test_columns_of_known_names_and_named_ones_are_fields(tmp_path: Path) -> None:
    source = source_of(tmp_path, TABLE, "?field.season=season&attr_maker=brand")
    assert fields_of(source.rows()) == {
        "1": {"title": "Lamp", "sale_price": "1.299,00 €", "brand": "Acme", "season": "SS26", "kind": "x"},
        "2": {"title": "Hat", "sale_price": "on request", "season": "2026"},
        "3": {},
    }
    assert source.rows()["attributes"].to_list()[0] == [{"name": "maker", "value": "Acme"}]
    assert source.notes[1:] == (
        "columns: field.season from season, attr_maker from brand, item_id, image_uri, title from Title, "
        "sale_price from Sale Price, field.kind",
        "fields: brand: 1 as text; kind: 1 as text such as 'x'; sale_price: 1 in EUR, 1 as text such as 'on request'; "
        "season: 1 as numbers, 1 as text such as 'SS26'; title: 2 as text",
    )


def test_a_column_named_for_a_field_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    text = "item_id,image_uri,price,Price,net\n1,a.jpg,1,2,3\n"
    assert fields_of(source_of(tmp_path, text, "?field.price=net").rows())["1"] == {"price": "3"}
    assert fields_of(source_of(tmp_path, text).rows())["1"] == {"price": "2"}, "of two columns, the later"


def test_a_plain_name_in_a_query_is_no_field(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"brand is no column that is read; expected .*field\.NAME"):
        source_of(tmp_path, TABLE, "?brand=brand")
    with pytest.raises(CatalogInvalid, match="there is no column saison; did you mean season"):
        source_of(tmp_path, TABLE, "?field.season=saison")


def test_long_values_are_cut_or_left_out_with_a_note(tmp_path: Path) -> None:
    link = "https://x.example/" + "a" * 10_000
    source = source_of(tmp_path, f"item_id,image_uri,title,link\n1,a.jpg,{'é' * 10_000},{link}\n2,b.jpg,a\tb,{link}\n")
    assert fields_of(source.rows()) == {"1": {"title": "é" * 1999 + "…"}, "2": {"title": "a b"}}
    assert source.notes[-2:] == (
        "field title: 1 value cut to 2,000 characters",
        "field link: 2 values of more than 2,000 characters left out",
    )


def test_more_fields_than_a_hit_can_show_are_refused(tmp_path: Path) -> None:
    names = [f"field.{number}" for number in range(51)]
    text = f"item_id,image_uri,{','.join(names)}\n1,a.jpg,{','.join('x' for _ in names)}\n"
    with pytest.raises(CatalogInvalid, match="51 fields; expected at most 50"):
        source_of(tmp_path, text)


def test_parquet_has_fields_of_any_type(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"item_id": ["1", "2"], "image_uri": ["a.jpg", "b.jpg"], "price": [19.99, None], "brand": [{"name": "A"}] * 2,
         "fields": [{"title": "Lamp", "stock": 3}, {"title": None, "stock": None}]}
    ).with_columns(pl.lit("2026-03-01").str.to_date().alias("field.since"))  # fmt: skip
    frame.write_parquet(tmp_path / "items.parquet")
    source = TableSource(f"{tmp_path}/items.parquet")
    assert fields_of(source.rows()) == {
        "1": {"price": "19.99", "title": "Lamp", "stock": "3", "since": "2026-03-01"},
        "2": {"since": "2026-03-01"},
    }
    assert "not used: brand, with several values in a cell" in source.notes
