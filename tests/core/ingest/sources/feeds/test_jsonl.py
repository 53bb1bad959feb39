"""One JSON object a line is a row of a table, under its keys or under mapped ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import CatalogInvalid
from retrieval_core.ingest.sources.feeds.jsonl import JsonlSource
from retrieval_core.ingest.sources.tables.table import TableSource


def source_of(folder: Path, text: str, query: str = "") -> JsonlSource:
    path = folder / "items.jsonl"
    path.write_text(text)
    return JsonlSource(f"{path}{query}")


def test_lists_and_objects_are_labels_and_attributes(tmp_path: Path) -> None:
    text = (
        '{"item_id":7,"image_uri": "s3://shop/a.jpg", "labels": ["wool", 38.0], "attributes": {"new": true, "x": []}}\n'
        '\n{"image_uri": "s3://shop/b.jpg", "item_id": "é", "price": {"eur": 3},'
        ' "attributes": [{"name": "cut", "value": 1.50}], "attr_size": "M", "labels": "a|b"}'
    )
    source = source_of(tmp_path, text)
    rows = source.rows()
    assert rows.select("item_id", "image_uri", "labels").rows() == [
        ("7", "s3://shop/a.jpg", ["38", "wool"]),
        ("é", "s3://shop/b.jpg", ["a", "b"]),
    ]
    assert rows["attributes"].to_list() == [
        [{"name": "new", "value": "true"}],
        [{"name": "cut", "value": "1.50"}, {"name": "size", "value": "M"}],
    ]
    assert rows["fields"].to_list() == [[], [{"name": "price", "value": '{"eur": 3}'}]]
    assert source.notes == (
        "2 rows of JSON in UTF-8",
        "columns: item_id, image_uri, labels, attributes, price, attr_size",
        """fields: price: 1 as text such as '{"eur": 3}'""",
    )


def test_keys_of_other_names_are_mapped_and_a_list_of_pictures_is_that_many_items(tmp_path: Path) -> None:
    text = (
        '{"sku": "1", "images": ["s3://shop/a.jpg", "s3://shop/b.jpg"], "kind": "coat"}\n'
        '{"sku": "2", "images": "s3://shop/c.jpg", "item_id": "hidden"}\n{"sku": "3", "images": ["s3://shop/d.jpg"]}\n'
    )
    rows = source_of(tmp_path, text, "?item_id=sku&image_uri=images&category=kind").rows()
    assert rows.select("item_id", "image_uri", "product_id", "category").rows() == [
        ("1", "s3://shop/a.jpg", "1", "coat"),
        ("1/2", "s3://shop/b.jpg", "1", "coat"),
        ("2", "s3://shop/c.jpg", "2", None),
        ("3", "s3://shop/d.jpg", "3", None),
    ]


def test_a_file_may_be_packed_and_a_number_keeps_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "items"
    path.write_bytes(gzip.compress(b'{"item_id": 12345678901234567890.0, "image_uri": "s3://shop/a.jpg"}\n'))
    assert JsonlSource(str(path)).rows()["item_id"].to_list() == ["12345678901234567890"]


GOOD = '{"item_id": "1", "image_uri": "s3://shop/a.jpg"}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + GOOD[:20], "line 2: not JSON, or cut off"),
        (GOOD + "\n[1]\n", "line 3: expected a JSON object"),
        (GOOD + '{"item_id": NaN}', "line 2: not JSON: NaN"),
        (GOOD + '{"item_id": "2", "item_id": "3"}', "line 2: an object has one key twice: item_id, item_id"),
        (GOOD + '{"item_id": "2", "Item ID": "3"}', "line 2: the key item_id occurs more than once"),
        (GOOD + '{"item_id": ["2"]}', "line 2: item_id has several values"),
        (GOOD + '{"item_id": "2", "labels": [["a"]]}', "line 2: labels has several values"),
        (GOOD + '{"item_id": "2", "attributes": {"a": [1]}}', r"line 2: attributes\.a has several values"),
        (GOOD + '{"item_id": "2", "attributes": [1]}', "line 2: attributes are a list"),
        (GOOD + '{"item_id": "2", "labels": [' + "[" * 100_000, "line 2: "),
        (GOOD + "{\ud800", "cannot be read|line 2"),
        (GOOD + '{"item_id": "\\ud800"}', "line 2: .*surrogates"),
        (GOOD + '{"item_id": 1e99999999}', "line 2: the number 1e99999999 is too large"),
        (GOOD + '{"item_id": ' + "9" * 5000 + "}", "line 2: "),
        ('{"sku": "1", "image_link": "a.jpg"}', r"lacks column.*\?item_id=sku&image_uri=image_link"),
        (GOOD + GOOD, "occur more than once, e.g. '1'"),
        (GOOD + '{"item_id": "2"}', "1 rows have an empty image_uri"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(CatalogInvalid, match=says):
        JsonlSource(str(path)).rows()


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="|[]"), max_size=6)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3)), min_size=1)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_the_same_rows_in_a_table_are_the_same_catalogue(rows: list[tuple[str, list[str], dict[str, str]]]) -> None:
    cells = [
        {"item_id": f"i{number}", "image_uri": f"s3://shop/{number}.jpg", "category": category, "labels": labels}
        for number, (category, labels, _) in enumerate(rows)
    ]
    texts = pl.Series("attributes", [json.dumps(attributes) for *_, attributes in rows])
    lines = [
        json.dumps({**each, "attributes": row[2]}, ensure_ascii=False) for each, row in zip(cells, rows, strict=True)
    ]
    with TemporaryDirectory() as folder:
        pl.DataFrame(cells).with_columns(texts).write_parquet(f"{folder}/items.parquet")
        expected = TableSource(f"{folder}/items.parquet").rows()
        assert source_of(Path(folder), "\n".join(lines)).rows().equals(expected)
