"""Fashion Product Images as Kaggle has them, and as the hub's Parquet files."""

from __future__ import annotations

from pathlib import Path

import boto3
import numpy as np
import polars as pl
import pytest
from moto import mock_aws

from retrieval_core import images
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources import fashion_products
from retrieval_core.ingest.sources.fashion_products import FashionProductsSource
from retrieval_core.ingest.sources.registry import open_source

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
SHIRT = "15970,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt"
SHOE = "38420,Unisex,Footwear,Shoes,Casual Shoes,White,,2012,NA,Newfeel White, Blue and Orange (Casual) Shoes - 8.5"


def save_csv(root: Path, *lines: str, header: str = HEADER) -> str:
    (root / "styles.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(root)


def jpeg(level: int) -> bytes:
    return images.thumbnail(np.full((8, 6, 3), level, np.uint8), 8)


def products(*ids: int, **columns: object) -> pl.DataFrame:
    """The hub's table: a null for every absent value, the picture in a struct."""
    frame = pl.DataFrame(
        {
            "id": ids,
            "gender": "Women",
            "masterCategory": "Apparel",
            "subCategory": "Dress",
            "articleType": "Dresses",
            "baseColour": pl.Series([None] * len(ids), dtype=pl.String),
            "season": "Summer",
            "year": 2012.0,
            "usage": "Casual",
            "productDisplayName": [f"Gini and Jony No. {id_}" for id_ in ids],
            "image": [{"bytes": jpeg(id_), "path": None} for id_ in ids],
        },
        schema_overrides={"image": pl.Struct({"bytes": pl.Binary, "path": pl.String})},
    )
    return frame.with_columns(**columns) if columns else frame


def attributes(rows: pl.DataFrame) -> list[dict[str, str]]:
    return [{a["name"]: a["value"] for a in row} for row in rows["attributes"].to_list()]


class TestKaggle:
    def test_a_line_becomes_an_item(self, tmp_path: Path) -> None:
        rows = open_source(f"fashion-products:{save_csv(tmp_path, SHIRT)}").rows()
        assert dict(rows.schema) == SOURCE_SCHEMA
        assert rows.drop("attributes", "fields").row(0) == (
            "15970", f"{tmp_path}/images/15970.jpg", None, "Shirts", None, None,
            ["blue", "check", "men", "navy", "shirt", "turtle"],
        )  # fmt: skip
        assert rows["fields"].to_list() == [[{"name": "title", "value": "Turtle Check Men Navy Blue Shirt"}]]
        assert attributes(rows) == [
            {
                "gender": "Men", "masterCategory": "Apparel", "subCategory": "Topwear", "baseColour": "Navy Blue",
                "season": "Fall", "usage": "Casual",
            }
        ]  # fmt: skip

    def test_unquoted_commas_stay_in_the_name(self, tmp_path: Path) -> None:
        rows = FashionProductsSource(save_csv(tmp_path, SHIRT, SHOE)).rows()
        assert rows["item_id"].to_list() == ["15970", "38420"]
        assert rows["labels"][1].to_list() == ["8.5", "and", "blue", "casual", "newfeel", "orange", "shoes", "white"]

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ('"Levis, the ""501"" Jeans"', ["501", "jeans", "levis", "the"]),
            ('15" Bag for 2,in 1', ["1", "15", "2", "bag", "for", "in"]),
            ('"Unclosed, quote', ["quote", "unclosed"]),
            ("Levi's T-shirt  T-Shirt", ["levi's", "t-shirt"]),
            ("Caf\x85\u00e9 \u2028ÉTÉ", ["caf", "é", "été"]),
            ("", []),
        ],
    )
    def test_words_are_lower_case_and_without_punctuation_around(
        self, tmp_path: Path, name: str, words: list[str]
    ) -> None:
        line = SHIRT.rpartition(",")[0] + "," + name
        rows = FashionProductsSource(save_csv(tmp_path, line, SHOE)).rows()
        assert rows["labels"][0].to_list() == words
        assert len(rows) == 2

    def test_an_unknown_value_is_no_value(self, tmp_path: Path) -> None:
        rows = FashionProductsSource(save_csv(tmp_path, SHOE)).rows()
        assert attributes(rows) == [
            {"gender": "Unisex", "masterCategory": "Footwear", "subCategory": "Shoes", "baseColour": "White"}
        ]

    def test_a_product_without_picture_stays_a_row(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "images/15970.jpg").write_bytes(jpeg(1))
        assert len(FashionProductsSource(save_csv(tmp_path, SHIRT, SHOE)).rows()) == 2

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ((SHIRT, "1,Men,Apparel"), r"styles\.csv, line 3 has 3 fields; expected 10: '1,Men,Apparel'"),
            ((SHIRT, "", SHOE), "line 3 has 0 fields"),
            ((SHIRT, SHIRT), "1 item_ids occur more than once, e.g. '15970'"),
            ((SHIRT.removeprefix("15970"),), "1 rows have an empty item_id"),
            (("../" + SHIRT,), "id '../15970' cannot name a picture"),
        ],
    )
    def test_a_damaged_table_is_reported(self, tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
        with pytest.raises(CatalogInvalid, match=message):
            FashionProductsSource(save_csv(tmp_path, *lines)).rows()

    @pytest.mark.parametrize("header", ["", SHIRT, HEADER.replace("year,", ""), HEADER.replace(",", ";")])
    def test_another_header_is_reported(self, tmp_path: Path, header: str) -> None:
        with pytest.raises(CatalogInvalid, match="expected the header id,gender,masterCategory"):
            FashionProductsSource(save_csv(tmp_path, SHIRT, header=header)).rows()

    def test_a_table_without_products_is_a_missing_source(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissing, match="is empty"):
            FashionProductsSource(save_csv(tmp_path)).rows()

    def test_pictures_that_are_files_already_cannot_go_elsewhere(self, tmp_path: Path) -> None:
        with pytest.raises(BadConfig, match=r"lie in images/ already; leave \?pictures=x out"):
            FashionProductsSource(f"{save_csv(tmp_path, SHIRT)}?pictures=x")

    def test_a_bucket_reads_like_a_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL", raising=False)
        with mock_aws():
            client = boto3.client("s3")
            client.create_bucket(Bucket="shop")
            client.put_object(Bucket="shop", Key="fpi/styles.csv", Body=f"{HEADER}\r\n{SHIRT}\r\n".encode())
            rows = FashionProductsSource("s3://shop/fpi").rows()
            assert rows["image_uri"].to_list() == ["s3://shop/fpi/images/15970.jpg"]
            assert "shirt" in rows["labels"][0]
            with pytest.raises(SourceMissing, match=r"lacks styles\.csv; Parquet files are read from a local folder"):
                FashionProductsSource("s3://shop/elsewhere")


class TestParquet:
    @pytest.mark.parametrize("folder", [".", "data"])
    def test_pictures_become_files_of_the_stored_bytes(
        self, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fashion_products, "BATCH_ROWS", 2)
        (tmp_path / folder).mkdir(exist_ok=True)
        products(4, 2, 3).write_parquet(tmp_path / folder / "train-00000-of-00002.parquet")
        products(1, 5).write_parquet(tmp_path / folder / "train-00001-of-00002.parquet")
        (tmp_path / folder / "._train-00000-of-00002.parquet").write_bytes(b"a resource fork")
        rows = open_source(f"fashion-products:{tmp_path}").rows()
        assert dict(rows.schema) == SOURCE_SCHEMA
        assert rows["item_id"].to_list() == ["1", "2", "3", "4", "5"]
        for item_id, uri in rows.select("item_id", "image_uri").iter_rows():
            assert uri == str(tmp_path / f"pictures/{item_id}.jpg")
            assert Path(uri).read_bytes() == jpeg(int(item_id))
        assert rows["labels"][0].to_list() == ["1", "and", "gini", "jony", "no"]
        assert attributes(rows)[0] == {
            "gender": "Women", "masterCategory": "Apparel", "subCategory": "Dress", "season": "Summer",
            "usage": "Casual",
        }  # fmt: skip

    def test_both_layouts_give_the_same_rows(self, tmp_path: Path) -> None:
        for name in ("kaggle", "hub"):
            (tmp_path / name).mkdir()
        products(7).write_parquet(tmp_path / "hub/a.parquet")
        line = "7,Women,Apparel,Dress,Dresses,NA,Summer,2012,Casual,Gini and Jony No. 7"
        kaggle = FashionProductsSource(save_csv(tmp_path / "kaggle", line)).rows()
        assert FashionProductsSource(f"{tmp_path}/hub").rows().drop("image_uri").equals(kaggle.drop("image_uri"))

    def test_pictures_lie_where_the_source_says(self, tmp_path: Path) -> None:
        products(1).write_parquet(tmp_path / "a.parquet")
        rows = FashionProductsSource(f"{tmp_path}?pictures={tmp_path}/elsewhere/").rows()
        assert rows["image_uri"].to_list() == [f"{tmp_path}/elsewhere/1.jpg"]
        assert Path(rows["image_uri"][0]).exists()

    def test_a_product_without_picture_stays_a_row(self, tmp_path: Path) -> None:
        image = pl.Series([None, {"bytes": None, "path": "2.jpg"}, {"bytes": jpeg(3), "path": "3.jpg"}])
        products(1, 2, 3, image=image).write_parquet(tmp_path / "a.parquet")
        rows = FashionProductsSource(str(tmp_path)).rows()
        assert [Path(uri).exists() for uri in rows["image_uri"]] == [False, False, True]

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (products(1).drop("usage", "image"), r"a\.parquet lacks column usage and image; it has id, gender"),
            (products(1, image=pl.lit(b"jpeg")), "column image is Binary; expected a struct"),
            (products(1, id=pl.lit(1.5)), "column id is Float64; expected whole numbers"),
            (products(1, id=pl.lit("../1")), "id '../1' cannot name a picture"),
            (products(1, id=pl.lit(None, pl.Int64)), "1 rows have an empty item_id"),
            (products(1, 1), "1 item_ids occur more than once"),
        ],
    )
    def test_another_table_is_reported_before_anything_is_unpacked(
        self, tmp_path: Path, frame: pl.DataFrame, message: str
    ) -> None:
        frame.write_parquet(tmp_path / "a.parquet")
        with pytest.raises(CatalogInvalid, match=message):
            FashionProductsSource(str(tmp_path)).rows()
        assert not (tmp_path / "pictures").exists()

    @pytest.mark.parametrize("keep", [0, 3, 60, -1])
    def test_a_damaged_file_is_reported(self, tmp_path: Path, keep: int) -> None:
        products(1, 2).write_parquet(tmp_path / "a.parquet")
        data = (tmp_path / "a.parquet").read_bytes()
        (tmp_path / "a.parquet").write_bytes(data[:keep])
        with pytest.raises(CatalogInvalid, match=r"a\.parquet cannot be read"):
            FashionProductsSource(str(tmp_path)).rows()

    def test_files_without_rows_are_a_missing_source(self, tmp_path: Path) -> None:
        products(1).clear().write_parquet(tmp_path / "a.parquet")
        with pytest.raises(SourceMissing, match="is empty"):
            FashionProductsSource(str(tmp_path)).rows()

    def test_a_folder_of_neither_layout_is_a_missing_source(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissing, match=r"holds neither styles\.csv nor \*\.parquet"):
            FashionProductsSource(str(tmp_path))

    def test_an_unknown_key_is_a_bad_config(self, tmp_path: Path) -> None:
        products(1).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(BadConfig, match="the keys are pictures"):
            FashionProductsSource(f"{tmp_path}?size=small")
