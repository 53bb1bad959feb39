"""A WooCommerce export becomes a catalogue, in which variations are items of their parent's product."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval_core.errors import CatalogInvalid
from retrieval_core.ingest.sources.feeds.woocommerce import WooCommerceSource
from tests.core.ingest.sources.row_fields import fields_of

HEADER = (
    "ID,Type,SKU,Name,Published,Categories,Tags,Images,Parent,Brands,Attribute 1 name,Attribute 1 value(s),"
    "Attribute 1 visible,Attribute 2 name,Attribute 2 value(s)\n"
)
HOODIE = (
    '10,variable,HOOD,Hoodie,1,"Clothing, Clothing > Hoodies","warm, cosy","s3://shop/h.jpg, s3://shop/h,2.jpg",,Acme,'
    'Colour,"Red, Blue",1,Cut,Wide\n'
)
RED = "11,variation,HOOD-R,Hoodie red,1,,,s3://shop/red.jpg,id:10,,Colour,Red,,,\n"
BLUE = '12,"variation, virtual",,Hoodie blue,1,,,s3://shop/blue.jpg,HOOD,,Colour,Blue,,,\n'
MUG = "13,simple,,Mug,1,Cups\\, mugs,,s3://shop/mug.jpg,,,,,,,\n"


def source_of(folder: Path, text: str) -> WooCommerceSource:
    path = folder / "wc-product-export.csv"
    path.write_text(text)
    return WooCommerceSource(str(path))


def test_a_variation_is_an_item_of_its_parent_s_product(tmp_path: Path) -> None:
    source = source_of(tmp_path, HEADER + RED + HOODIE + BLUE + MUG.replace("Cups\\, mugs", '"Cups\\, mugs"'))
    assert source.rows().select("item_id", "image_uri", "product_id", "category", "labels").rows() == [
        ("10", "s3://shop/h.jpg", "10", "Hoodies", ["Clothing", "cosy", "warm"]),
        ("10/2", "s3://shop/h,2.jpg", "10", "Hoodies", ["Clothing", "cosy", "warm"]),
        ("11", "s3://shop/red.jpg", "10", "Hoodies", ["Clothing", "cosy", "warm"]),
        ("12", "s3://shop/blue.jpg", "10", "Hoodies", ["Clothing", "cosy", "warm"]),
        ("13", "s3://shop/mug.jpg", "13", "Cups, mugs", []),
    ]
    attributes = [{pair["name"]: pair["value"] for pair in row} for row in source.rows()["attributes"].to_list()]
    shared = {"brand": "Acme", "product_category": "Clothing > Hoodies"}
    assert attributes == [
        {**shared, "Cut": "Wide"},
        {**shared, "Cut": "Wide"},
        {**shared, "Colour": "Red"},
        {**shared, "Colour": "Blue"},
        {"product_category": "Cups, mugs"},
    ]
    assert source.notes[1:] == (
        "columns: item_id from ID, product_id from Type and SKU and Parent, title from Name, published or not"
        " from Published, category from Categories, labels from Tags, image_uri from Images, brand from "
        "Brands, attributes from Attribute 1 name and Attribute 1 value(s) and Attribute 2 name and Attribute"
        " 2 value(s)",
        "not used: Attribute 1 visible",
        "fields: brand: 4 as text; link: 5 as text; title: 5 as text",
    )


def test_products_that_are_not_in_the_shop_are_passed_over_and_named(tmp_path: Path) -> None:
    text = HEADER + MUG.replace("Cups\\, mugs", "Cups")
    hidden = HOODIE.replace(",1,", ",-1,", 1)
    orphan = RED.replace("id:10", "id:99").replace("11,", "20,", 1)
    bare = "21,simple,,Voucher,1,,,,,,,,,,\n"
    source = source_of(tmp_path, text + hidden + RED + orphan + bare)
    assert source.rows()["item_id"].to_list() == ["13"]
    assert source.notes[3:-1] == (
        "2 products passed over, not published: 10, 11",
        "1 product passed over, a variation whose parent is not in the export: 20",
        "1 product passed over, without a picture: 21",
    )


def test_a_variation_without_its_parent_in_a_list_of_changes_is_refused_and_leaves_no_catalogue(tmp_path: Path) -> None:
    (tmp_path / "changes.csv").write_text(HEADER + RED)
    with pytest.raises(CatalogInvalid, match="of variation 11 the parent is missing; export both"):
        WooCommerceSource(f"{tmp_path / 'changes.csv'}?mode=delta")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + HOODIE + HOODIE, "'10' stands in row 1 and in row 2"),
        (HEADER + HOODIE + RED[:30], "line 3: "),
        (HEADER + HOODIE[:60], "never closed"),
        ("Handle,Title,Image Src\na,A,a.jpg\n", "lacks column ID and Type and Images; it has Handle, Title"),
    ],
)
def test_a_malformed_export_is_refused_with_the_position(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=says):
        source_of(tmp_path, text)


def test_a_product_has_the_lowest_price_of_its_variations(tmp_path: Path) -> None:
    text = (
        "ID,Type,SKU,Name,Published,Images,Parent,Regular price,Sale price,In stock?,External URL\n"
        "10,variable,HOOD,Hoodie,1,s3://shop/h.jpg,,,,1,\n"
        "11,variation,,Hoodie red,1,s3://shop/red.jpg,id:10,45,39,0,\n"
        "12,variation,,,1,s3://shop/blue.jpg,HOOD,40,,backorder,\n"
        "13,external,,Mug,1,s3://shop/mug.jpg,,5,,1,https://mugs.example/1\n"
    )
    assert fields_of(source_of(tmp_path, text).rows()) == {
        "10": {"title": "Hoodie", "link": "/?p=10", "price": "40", "availability": "in stock"},
        "11": {
            "title": "Hoodie red",
            "link": "/?p=10",
            "price": "45",
            "sale_price": "39",
            "availability": "out of stock",
        },
        "12": {"title": "Hoodie", "link": "/?p=10", "price": "40", "availability": "backorder"},
        "13": {"title": "Mug", "link": "https://mugs.example/1", "price": "5", "availability": "in stock"},
    }
