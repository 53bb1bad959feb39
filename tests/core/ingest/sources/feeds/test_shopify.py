"""A Shopify export becomes a catalogue: its rows are filled down, and its variants' options go to their pictures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import CatalogInvalid
from retrieval_core.ingest.sources.feeds.shopify import ShopifySource
from tests.core.ingest.sources.row_fields import fields_of

HEADER = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,"
    "Option2 Value,Variant SKU,Variant Price,Image Src,Image Position,Variant Image,Status\n"
)
SHIRT = (
    'shirt,Shirt,"<p>Soft,\n""warm""</p>",Acme,Apparel > Clothing > Tops,,"summer, cotton",true,Colour,Red,Size,S,1,9,'
    "s3://shop/front.jpg,2,s3://shop/red.jpg,active\n"
    "shirt,,,,,,,,,Red,,M,2,9,s3://shop/main.jpg,1,s3://shop/red.jpg,\n"
    "shirt,,,,,,,,,Blue,,M,3,9,s3://shop/blue.jpg,3,s3://shop/blue.jpg,\n"
)
MUG = "mug,Mug,,Pots & Co,,Cups,,true,Title,Default Title,,,4,5,s3://shop/mug.jpg,1,,active\n"


def source_of(folder: Path, text: str) -> ShopifySource:
    path = folder / "products_export.csv"
    path.write_text(text)
    return ShopifySource(str(path))


def attributes(source: ShopifySource) -> dict[str, dict[str, str]]:
    rows = source.rows().select("item_id", "attributes").rows()
    return {item_id: {pair["name"]: pair["value"] for pair in pairs} for item_id, pairs in rows}


def test_the_pictures_of_a_product_are_items_in_their_order(tmp_path: Path) -> None:
    source = source_of(tmp_path, HEADER + SHIRT + MUG)
    assert source.rows().select("item_id", "image_uri", "product_id", "category", "labels").rows() == [
        ("mug", "s3://shop/mug.jpg", "mug", "Cups", []),
        ("shirt", "s3://shop/main.jpg", "shirt", "Tops", ["cotton", "summer"]),
        ("shirt/2", "s3://shop/front.jpg", "shirt", "Tops", ["cotton", "summer"]),
        ("shirt/3", "s3://shop/blue.jpg", "shirt", "Tops", ["cotton", "summer"]),
        ("shirt/4", "s3://shop/red.jpg", "shirt", "Tops", ["cotton", "summer"]),
    ]
    assert source.notes[0].startswith("2 products with 5 pictures, from 4 rows, separated by commas")
    assert source.notes[1:] == (
        "columns: item_id and product_id from Handle, title from Title, brand from Vendor, category from "
        "Product Category and Type, labels from Tags, published or not from Published and Status, attributes "
        "from Option1 Name and Option1 Value and Option2 Name and Option2 Value, price from Variant Price, "
        "image_uri from Image Src and Variant Image, order of pictures from Image Position",
        "not used: Body (HTML), Variant SKU",
        "fields: brand: 5 as text; link: 5 as text; price: 5 as numbers; title: 5 as text",
    )


def test_a_picture_has_the_options_of_the_variants_that_it_shows(tmp_path: Path) -> None:
    shared = {"brand": "Acme", "product_category": "Apparel > Clothing > Tops"}
    assert attributes(source_of(tmp_path, HEADER + SHIRT + MUG)) == {
        "mug": {"brand": "Pots & Co"},
        "shirt": shared,
        "shirt/2": shared,
        "shirt/3": {**shared, "Colour": "Blue", "Size": "M"},
        "shirt/4": {**shared, "Colour": "Red"},
    }


def test_the_newer_names_of_the_columns_are_read_too(tmp_path: Path) -> None:
    text = (
        "Title,URL handle,Vendor,Product image URL,Image position,Status,Published on online store\n"
        "Mug,mug,Pots,s3://shop/mug.jpg,1,Active,TRUE\n"
    )
    assert source_of(tmp_path, text).rows()["item_id"].to_list() == ["mug"]


def test_products_that_are_not_in_the_shop_are_passed_over_and_named(tmp_path: Path) -> None:
    others = (
        MUG.replace("mug,Mug", "a,A").replace("active", "draft")
        + MUG.replace("mug,Mug", "b,B").replace("active", "archived")
        + MUG.replace("mug,Mug", "c,C").replace(",true,", ",false,")
        + MUG.replace("mug,Mug", "d,D").replace("s3://shop/mug.jpg", "")
    )
    source = source_of(tmp_path, HEADER + others + MUG)
    assert source.rows()["item_id"].to_list() == ["mug"]
    assert source.notes[3:-1] == (
        "1 product passed over, with status draft: a",
        "1 product passed over, with status archived: b",
        "1 product passed over, not published: c",
        "1 product passed over, without a picture: d",
    )
    assert source.n_passed_over == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + MUG + SHIRT + MUG, "'mug' stands in row 1 and in row 5"),
        (HEADER + MUG + MUG.replace("Mug", "Jug"), "row 2: the handle 'mug' is that of two products"),
        (HEADER + MUG + MUG.replace("mug,Mug", ",Mug"), "row 2: a product without an id"),
        (HEADER + MUG + "jug,Jug,,Pots", "line 3: the last line is cut off|line 3: 4 cells"),
        (HEADER + MUG + SHIRT[:40], "line 3: a quoted cell runs over"),
        ("ID,Type,Images\n1,simple,a.jpg\n", "lacks column Handle; it has ID, Type, Images"),
    ],
)
def test_a_malformed_export_is_refused_with_the_position(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=says):
        source_of(tmp_path, text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), min_size=1, max_size=5))
def test_every_picture_of_every_product_is_there_once(products: list[list[int]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Handle", "Title", "Image Src", "Image Position", "Tags"])
    for number, pictures in enumerate(products):
        for row, position in enumerate(pictures):
            title, tags = ("A, b", "x") if row == 0 else ("", "")
            writer.writerow([f"p{number}", title, f"s3://shop/{number}-{position}.jpg", position, tags])
    with TemporaryDirectory() as folder:
        rows = source_of(Path(folder), text.getvalue()).rows()
    assert set(rows.select("item_id", "image_uri", "product_id").rows()) == {
        (f"p{number}" + f"/{n}" * (n > 1), f"s3://shop/{number}-{position}.jpg", f"p{number}")
        for number, pictures in enumerate(products)
        for n, position in enumerate(sorted(pictures), 1)
    }
    assert len(rows) == sum(map(len, products))
    assert set(map(tuple, rows["labels"].to_list())) == {("x",)}


PRICED = (
    "Handle,Title,Vendor,Option1 Name,Option1 Value,Image Src,Image Position,Variant Image,Variant Price,"
    "Variant Compare At Price,Variant Inventory Qty,Variant Inventory Tracker,Variant Inventory Policy\n"
    "shirt,Shirt,Acme,Colour,Red,s3://shop/shirt.jpg,1,s3://shop/red.jpg,49.90,59.90,3,shopify,deny\n"
    "shirt,,,,Blue,,,s3://shop/blue.jpg,39.90,,0,shopify,deny\n"
    "shirt,,,,Green,,,s3://shop/green.jpg,44.90,,-2,shopify,continue\n"
)


def test_a_picture_has_the_lowest_price_of_the_variants_that_it_shows(tmp_path: Path) -> None:
    shared = {"title": "Shirt", "brand": "Acme", "link": "/products/shirt"}
    source = source_of(tmp_path, PRICED)
    assert fields_of(source.rows()) == {
        "shirt": {**shared, "price": "39.90", "availability": "in stock"},
        "shirt/2": {**shared, "price": "49.90", "compare_at_price": "59.90", "availability": "in stock"},
        "shirt/3": {**shared, "price": "39.90", "availability": "out of stock"},
        "shirt/4": {**shared, "price": "44.90", "availability": "in stock"},
    }
    query = "?field.link=https://acme.example/products/{Handle}&field.price={Variant Price} EUR"
    told = fields_of(ShopifySource(f"{tmp_path}/products_export.csv{query}").rows())
    assert told["shirt/2"]["link"] == "https://acme.example/products/shirt"
    assert [told[f"shirt{position}"]["price"] for position in ("", "/2")] == ["39.90 EUR", "49.90 EUR"]
