"""A manifest in CSV or Parquet becomes a catalogue, or an error that says which cell is wrong."""

from __future__ import annotations

import math
import uuid
from datetime import date
from decimal import Decimal
from pathlib import Path

import boto3
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws
from PIL import Image

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.tables.table import TableSource


def from_csv(folder: Path, text: str) -> TableSource:
    path = folder / "items.csv"
    path.write_text(text, encoding="utf-8")
    return TableSource(str(path))


def from_parquet(folder: Path, columns: dict[str, object]) -> TableSource:
    path = folder / "items.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return TableSource(str(path))


def attributes(source: TableSource) -> list[dict[str, str]]:
    return [{a["name"]: a["value"] for a in row} for row in source.rows()["attributes"].to_list()]


class TestCsv:
    def test_every_column_finds_its_place(self, tmp_path: Path) -> None:
        source = from_csv(
            tmp_path,
            "item_id,image_uri,product_id,category,labels,attributes,split,mask_uri,price\n"
            'b,b.jpg,p1,coat,long|wool,"{""colour"": ""red""}",query,b.png,3\n'
            'a,a.jpg,,,"[""hat"", ""felt""]",,,,\n',
        )
        rows = source.rows()
        assert dict(rows.schema) == SOURCE_SCHEMA
        assert rows.rows() == [
            ("a", f"{tmp_path}/a.jpg", None, None, None, None, ["felt", "hat"], [], []),
            (
                "b", f"{tmp_path}/b.jpg", "p1", "coat", "query", f"{tmp_path}/b.png", ["long", "wool"],
                [{"name": "colour", "value": "red"}], [{"name": "price", "value": "3"}],
            ),
        ]  # fmt: skip

    def test_an_id_of_digits_stays_text(self, tmp_path: Path) -> None:
        assert from_csv(tmp_path, "item_id,image_uri\n0012,a.jpg\n").rows()["item_id"].to_list() == ["0012"]

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path: Path) -> None:
        assert from_csv(tmp_path, "\ufeffitem_id,image_uri\na,a.jpg\n").rows()["item_id"].to_list() == ["a"]

    def test_prefixed_columns_are_attributes(self, tmp_path: Path) -> None:
        source = from_csv(
            tmp_path,
            "item_id,image_uri,attr_colour,attributes.season,attributes\n"
            'a,a.jpg,red,,"{""colour"": ""blue"", ""x"": 1}"\n',
        )
        assert attributes(source) == [{"colour": "red", "x": "1"}]

    def test_a_prefixed_column_that_is_blank_takes_an_attribute_away_and_an_empty_one_does_not(
        self, tmp_path: Path
    ) -> None:
        cell = '"{""colour"": ""blue""}"'
        text = f"item_id,image_uri,attributes,attr_colour\na,a.jpg,{cell},\nb,b.jpg,{cell},  \nc,c.jpg,,red\n"
        assert attributes(from_csv(tmp_path, text)) == [{"colour": "blue"}, {}, {"colour": "red"}]

    def test_attributes_are_ordered_by_name_and_of_one_name_the_last_column_counts(self, tmp_path: Path) -> None:
        text = "item_id,image_uri,attr_z,attr_size,attributes.size,attr_\na,a.jpg,1, 2 ,3,4\nb,b.jpg,1,2,,4\n"
        rows = from_csv(tmp_path, text).rows()["attributes"].to_list()
        assert rows == [
            [{"name": "size", "value": "3"}, {"name": "z", "value": "1"}],
            [{"name": "size", "value": "2"}, {"name": "z", "value": "1"}],
        ]

    @pytest.mark.parametrize(
        ("uri", "resolved"),
        [
            ("a.jpg", "{folder}/a.jpg"),
            ("coats/a b.jpg", "{folder}/coats/a b.jpg"),
            ("/pictures/a.jpg", "/pictures/a.jpg"),
            ("s3://shop/a.jpg", "s3://shop/a.jpg"),
        ],
    )
    def test_relative_uris_start_at_the_table(self, tmp_path: Path, uri: str, resolved: str) -> None:
        rows = from_csv(tmp_path, f"item_id,image_uri\na,{uri}\n").rows()
        assert rows["image_uri"].to_list() == [resolved.format(folder=tmp_path)]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,image_uri\na,a.jpg\n", "lacks column item_id; it has id, image_uri"),
            ("sku,url\na,a.jpg\n", "lacks column item_id and image_uri"),
            ("item_id,image_uri\na,a.jpg\na,b.jpg\n", "occur more than once, e.g. 'a'"),
            ("item_id,image_uri\n,a.jpg\n", "empty item_id"),
            ("item_id,image_uri\na,\n", "empty image_uri"),
            (
                "item_id,image_uri\na,ftp://shop/a.jpg\n",
                "'a' has image_uri 'ftp://shop/a.jpg'; expected a path, s3",
            ),
            ("item_id,image_uri,split\na,a.jpg,dev\n", "split 'dev'"),
            ('item_id,image_uri,labels\na,a.jpg,"[1]"\n', r"item 'a', labels '\[1\]': expected a JSON list of strings"),
            ("item_id,image_uri,attributes\na,a.jpg,red\n", "item 'a', attributes 'red': not JSON"),
            ("item_id,image_uri\na,a.jpg,what,is,this\n", "cannot be read"),
        ],
    )
    def test_malformed_rows_are_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(CatalogInvalid, match=message):
            from_csv(tmp_path, text).rows()

    @pytest.mark.parametrize("text", ["", "\n", "item_id,image_uri\n"])
    def test_an_empty_table_is_a_missing_source(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(SourceMissing):
            from_csv(tmp_path, text)

    def test_a_table_that_is_no_text_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "items.csv").write_bytes(b"item_id,image_uri\n\xff\xfe\x00,\xe9.jpg\n")
        with pytest.raises(CatalogInvalid):
            TableSource(str(tmp_path / "items.csv")).rows()


class TestParquet:
    def test_lists_and_structs_are_taken_as_they_are(self, tmp_path: Path) -> None:
        source = from_parquet(
            tmp_path,
            {
                "item_id": [2, 1],
                "image_uri": ["b.jpg", "a.jpg"],
                "labels": [["wool", "long", "wool"], None],
                "attributes": [{"colour": "red", "size": 3}, {"colour": None, "size": 4}],
            },
        )
        rows = source.rows()
        assert rows["item_id"].to_list() == ["1", "2"]
        assert rows["labels"].to_list() == [[], ["long", "wool"]]
        assert attributes(source) == [{"size": "4"}, {"colour": "red", "size": "3"}]

    def test_attributes_may_be_in_the_catalogues_own_form(self, tmp_path: Path) -> None:
        column = pl.Series([[{"name": "colour", "value": "red"}], None], dtype=SOURCE_SCHEMA["attributes"])
        source = from_parquet(tmp_path, {"item_id": ["a", "b"], "image_uri": ["a.jpg", "b.jpg"], "attributes": column})
        assert attributes(source) == [{"colour": "red"}, {}]

    def test_prefixed_columns_may_be_numbers_and_truths(self, tmp_path: Path) -> None:
        columns = {"item_id": ["a"], "image_uri": ["a.jpg"], "attr_size": [38], "attr_sale": [False], "attr_x": [None]}
        assert attributes(from_parquet(tmp_path, columns)) == [{"sale": "false", "size": "38"}]

    @pytest.mark.parametrize(
        ("column", "text"),
        [
            (pl.Series([1.0, math.nan]), ["1", None]),
            (pl.Series([math.nan, math.nan]), [None, None]),
            (pl.Series([None, None]), [None, None]),
            (pl.Series([Decimal("3.00"), None]), ["3", None]),
            (pl.Series([date(2026, 1, 2), None]), ["2026-01-02", None]),
            (pl.Series([True, None]), ["true", None]),
            (pl.Series(["coat", None], dtype=pl.Enum(["coat"])), ["coat", None]),
            (pl.Series([b"coat", None]), ["coat", None]),
            (pl.Series([uuid.UUID(int=2**127).bytes, None]), ["80000000-0000-0000-0000-000000000000", None]),
        ],
    )
    def test_single_values_of_any_type_are_text(
        self, tmp_path: Path, column: pl.Series, text: list[str | None]
    ) -> None:
        columns = {"item_id": [1.0, 2.0], "image_uri": ["a.jpg", "b.jpg"], "category": column}
        rows = from_parquet(tmp_path, columns).rows()
        assert rows["item_id"].to_list() == ["1", "2"]
        assert rows["category"].to_list() == text

    @pytest.mark.parametrize(
        ("column", "labels"),
        [
            (pl.Series([[], None], dtype=pl.List(pl.Null)), []),
            (pl.Series([[2, 1], None]), ["1", "2"]),
            (pl.Series([[2.0, math.nan], None]), ["2"]),
            (pl.Series([["b", "a"], None], dtype=pl.Array(pl.String, 2)), ["a", "b"]),
            (pl.Series([["b", "a"], None], dtype=pl.List(pl.Categorical)), ["a", "b"]),
        ],
    )
    def test_lists_of_any_single_values_are_labels(self, tmp_path: Path, column: pl.Series, labels: list[str]) -> None:
        columns = {"item_id": ["a", "b"], "image_uri": ["a.jpg", "b.jpg"], "labels": column}
        assert from_parquet(tmp_path, columns).rows()["labels"].to_list() == [labels, []]

    def test_a_map_and_whole_floats_are_attributes(self, tmp_path: Path) -> None:
        maps = pa.array([[("size", 4.0), ("weight", 0.5), ("depth", math.nan)]], pa.map_(pa.string(), pa.float64()))
        columns = {"item_id": ["a"], "image_uri": ["a.jpg"], "attributes": maps, "attr_height": [38.0]}
        pq.write_table(pa.table(columns), tmp_path / "items.parquet")
        source = TableSource(str(tmp_path / "items.parquet"))
        assert attributes(source) == [{"height": "38", "size": "4", "weight": "0.5"}]

    def test_categories_of_a_data_frame_are_text(self, tmp_path: Path) -> None:
        category = pl.Series(["coat"], dtype=pl.Categorical)
        source = from_parquet(
            tmp_path, {"item_id": ["a"], "image_uri": ["a.jpg"], "category": category, "split": [None]}
        )
        assert source.rows()["category"].to_list() == ["coat"]

    @pytest.mark.parametrize(
        "column",
        [
            {"item_id": [1.5]},
            {"image_uri": [b"\xff.jpg"]},
            {"category": [["coat"]]},
            {"item_id": [2.0**60]},
            {"labels": [[[1]]]},
            {"labels": [3]},
            {"attributes": [3]},
            {"attr_colour": [["red"]]},
        ],
    )
    def test_a_wrong_type_is_reported(self, tmp_path: Path, column: dict[str, object]) -> None:
        name = next(iter(column))
        with pytest.raises(CatalogInvalid, match=f"column {name} is .*; expected"):
            from_parquet(tmp_path, {"item_id": ["a"], "image_uri": ["a.jpg"]} | column).rows()

    def test_a_file_that_is_no_parquet_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "items.parquet").write_bytes(b"PAR1 and rubbish")
        with pytest.raises(CatalogInvalid, match="cannot be read"):
            TableSource(str(tmp_path / "items.parquet"))


def test_another_suffix_is_reported(tmp_path: Path) -> None:
    (tmp_path / "items.xlsx").write_bytes(b"x")
    with pytest.raises(CatalogInvalid, match=r"none of \.csv, \.tsv, \.csv\.gz"):
        TableSource(str(tmp_path / "items.xlsx"))


@pytest.mark.parametrize("bright", [255, 1])
def test_a_mask_is_bright_on_the_product(tmp_path: Path, bright: int) -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    Image.fromarray(mask * np.uint8(bright)).save(tmp_path / "a.png")
    source = from_csv(tmp_path, "item_id,image_uri,mask_uri\na,a.jpg,a.png\n")
    assert np.array_equal(source.read_mask(source.rows()["mask_uri"][0]), mask.astype(bool))


def test_an_all_black_mask_is_empty(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    source = from_csv(tmp_path, "item_id,image_uri,mask_uri\na,a.jpg,a.png\n")
    assert not source.read_mask(str(tmp_path / "a.png")).any()


def test_a_table_in_a_bucket_names_pictures_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        client.put_object(Bucket="shop", Key="tables/items.csv", Body=b"item_id,image_uri\na,pics/a.jpg\n")
        rows = TableSource("s3://shop/tables/items.csv").rows()
        assert rows["image_uri"].to_list() == ["s3://shop/tables/pics/a.jpg"]
        with pytest.raises(SourceMissing, match=r"no file s3://shop/tables/other\.csv"):
            TableSource("s3://shop/tables/other.csv")
