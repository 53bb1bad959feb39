"""A Merchant Center feed becomes a catalogue, whether it is RSS, Atom or delimited text."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.feeds.merchant import MerchantSource
from tests.core.ingest.sources.row_fields import fields_of

RSS = """<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0">
<channel>
<title>A shop</title><link>https://shop.example</link>
<item>
  <g:id>lamp-blue</g:id>
  <title>Lamp &amp; shade</title>
  <g:description><![CDATA[<b>bright</b>]]></g:description>
  <g:image_link>s3://shop/lamp-blue.jpg?v=1&amp;w=9</g:image_link>
  <g:additional_image_link>s3://shop/lamp-side.jpg</g:additional_image_link>
  <g:additional_image_link>s3://shop/lamp-back.jpg</g:additional_image_link>
  <g:item_group_id>lamp</g:item_group_id>
  <g:product_type>Home &gt; Lighting &gt; Lamps</g:product_type>
  <g:google_product_category>594</g:google_product_category>
  <g:color>blue</g:color><g:age_group>adult</g:age_group>
  <g:shipping><g:country>SE</g:country><g:price>4 EUR</g:price></g:shipping>
  <g:price>19.00 EUR</g:price>
</item>
<item><g:id>bulb</g:id><g:image_link>s3://shop/bulb.jpg</g:image_link>
  <g:google_product_category>Home &gt; Bulbs</g:google_product_category></item>
<item><g:id>gift-card</g:id><g:image_link></g:image_link></item>
</channel>
</rss>
"""


def source_of(folder: Path, text: str | bytes, name: str = "feed.xml") -> MerchantSource:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return MerchantSource(str(path))


def attributes(source: MerchantSource) -> list[dict[str, str]]:
    return [{pair["name"]: pair["value"] for pair in row} for row in source.rows()["attributes"].to_list()]


def test_each_element_finds_its_place(tmp_path: Path) -> None:
    source = source_of(tmp_path, RSS)
    assert source.rows().select("item_id", "image_uri", "product_id", "category").rows() == [
        ("bulb", "s3://shop/bulb.jpg", "bulb", "Bulbs"),
        ("lamp-blue", "s3://shop/lamp-blue.jpg?v=1&w=9", "lamp", "Lamps"),
        ("lamp-blue/2", "s3://shop/lamp-side.jpg", "lamp", "Lamps"),
        ("lamp-blue/3", "s3://shop/lamp-back.jpg", "lamp", "Lamps"),
    ]
    assert attributes(source)[0] == {"google_product_category": "Home > Bulbs"}
    assert attributes(source)[1] == {
        "age_group": "adult",
        "color": "blue",
        "google_product_category": "594",
        "product_type": "Home > Lighting > Lamps",
    }
    assert fields_of(source.rows())["lamp-blue/2"] == {"title": "Lamp & shade", "price": "19.00 EUR"}
    assert source.notes == (
        "2 products with 4 pictures, from XML",
        "columns: item_id from id, title, image_uri from image_link and additional_image_link, product_id "
        "from item_group_id, category from product_type and google_product_category, color, age_group, price",
        "not used: description, shipping",
        "1 product passed over, without a picture: gift-card",
        "fields: price: 3 in EUR; title: 3 as text",
    )
    assert source.n_passed_over == 1


def test_columns_have_their_names_in_any_spelling(tmp_path: Path) -> None:
    text = "ID\tImage Link\tg:item_group_id\tadditional image link\n1\ta.jpg\tp\tb.jpg,c.jpg\n2\td.jpg\t\t\n"
    rows = source_of(tmp_path, text, "feed.txt").rows()
    assert rows.select("item_id", "product_id").rows() == [("1", "p"), ("1/2", "p"), ("1/3", "p"), ("2", "2")]


def test_a_comma_in_an_address_of_a_list_does_not_separate(tmp_path: Path) -> None:
    text = "id\timage_link\tadditional_image_link\n1\ts3://aa/1.jpg\ts3://aa/w_3,h_4/2.jpg, s3://aa/3.jpg\n"
    rows = source_of(tmp_path, text, "feed.tsv").rows()
    assert rows["image_uri"].to_list() == ["s3://aa/1.jpg", "s3://aa/w_3,h_4/2.jpg", "s3://aa/3.jpg"]


def test_a_picture_that_a_product_names_twice_is_one_item(tmp_path: Path) -> None:
    text = "id\timage_link\tadditional_image_link\n1\ta.jpg\ta.jpg,b.jpg\n2\t\tc.jpg\n"
    rows = source_of(tmp_path, text, "feed.tsv").rows()
    assert [(item_id, Path(uri).name) for item_id, uri in rows.select("item_id", "image_uri").rows()] == [
        ("1", "a.jpg"),
        ("1/2", "b.jpg"),
        ("2", "c.jpg"),
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "windows-1252"])
def test_xml_is_read_in_the_encoding_that_it_names(encoding: str, tmp_path: Path) -> None:
    text = RSS.replace('version="1.0"?', f'version="1.0" encoding="{encoding}"?').replace(">blue<", ">blå<")
    assert attributes(source_of(tmp_path, text.encode(encoding)))[1]["color"] == "blå"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RSS.replace("bulb</g:id>", "lamp-blue</g:id>"), "'lamp-blue' stands in line 5 and in line 19"),
        (RSS.replace("<g:id>bulb</g:id>", ""), "line 19: a product without an id"),
        (RSS[:900], "line [0-9]+: .*cut off"),
        (RSS.replace("</g:id>", "</g:di>"), "line 6: mismatched tag"),
        (RSS.encode("cp1252").replace(b"blue<", b"bl\xe5<"), "line 6: .*invalid token"),
        ("<?xml version='1.0'?><urlset/>", "begins with <urlset>; expected <rss> or <feed>"),
        ("id\ttitle\n1\tx\n", "lacks column image_link; it has id, title"),
        ("id\timage_link\tcolor\n1\ta.jpg\tred\n2\tb.j", "line 3: the last line is cut off"),
        ("id\timage_link\tcolor\n1\ta.jpg\tred\n1\tb.jpg\tred\n", "'1' stands in row 1 and in row 2"),
        (b"id\timage_link\n1\ta.jpg\n\xd0\xd2\xc1\xd7\xc4\xc1\tb.jpg\n", "line 3: neither UTF-8 nor cp1252"),
    ],
)
def test_a_malformed_feed_is_refused_with_the_position(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=says):
        source_of(tmp_path, text, "feed")


def test_a_feed_without_any_picture_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=r"no product with a picture.*1 product passed over.*: 1"):
        source_of(tmp_path, "id\timage_link\tcolor\n1\t\tred\n", "feed.tsv")


def test_a_long_title_is_cut_and_changes_nothing_else(tmp_path: Path) -> None:
    source, plain = source_of(tmp_path, RSS.replace("Lamp &amp; shade", "Lamp " * 2000)), source_of(tmp_path, RSS)
    assert source.rows().drop("fields").equals(plain.rows().drop("fields"))
    assert fields_of(source.rows())["lamp-blue"]["title"] == ("Lamp " * 2000)[:1999] + "…"
    assert source.notes[-1] == "field title: 3 values cut to 2,000 characters"


def test_all_that_a_shopper_reads_is_a_field(tmp_path: Path) -> None:
    header = "id\timage_link\ttitle\tlink\tprice\tsale price\tavailability\tbrand\tcustom_label_0\n"
    text = header + "1\ta.jpg\tLamp\thttps://x.example/1\t19.99 EUR\t9,99 €\tin_stock\tAcme\tSS26\n"
    query = "?field.season=custom_label_0&field.offer={title} for {sale price}"
    path = tmp_path / "feed.tsv"
    path.write_text(text)
    assert fields_of(MerchantSource(f"{path}{query}").rows())["1"] == {
        "title": "Lamp", "link": "https://x.example/1", "price": "19.99 EUR", "sale_price": "9,99 €",
        "availability": "in stock", "brand": "Acme", "season": "SS26", "offer": "Lamp for 9,99 €",
    }  # fmt: skip
    with pytest.raises(CatalogInvalid, match="there is no column custom label 1; did you mean custom label 0"):
        MerchantSource(f"{path}?field.season=custom_label_1")


WORD = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters='"|;>'), min_size=1)
PRODUCTS = st.dictionaries(
    st.text("abcXYZ019-_é", min_size=1, max_size=6),
    st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), WORD, st.sampled_from(["", "p"])),
    min_size=1,
    max_size=6,
)
ELEMENTS = ("id", "image_link", "color", "item_group_id")


def as_xml(products: dict[str, tuple[list[str], str, str]], root: str, item: str) -> bytes:
    texts = [f'<{root} xmlns:g="http://base.google.com/ns/1.0"><channel>']
    for item_id, (pictures, colour, group) in products.items():
        cells = zip(ELEMENTS, (item_id, f"s3://shop/{pictures[0]}.jpg", colour, group), strict=True)
        texts.append(f"<{item}>" + "".join(f"<g:{name}>{escape(cell)}</g:{name}>" for name, cell in cells))
        others = (f"<g:additional_image_link>s3://shop/{each}.jpg</g:additional_image_link>" for each in pictures[1:])
        texts.append("".join(others) + f"</{item}>")
    return "\n".join([*texts, f"</channel></{root}>"]).encode()


def as_text(products: dict[str, tuple[list[str], str, str]]) -> bytes:
    lines = ["\t".join((*ELEMENTS, "additional_image_link"))]
    for item_id, (pictures, colour, group) in products.items():
        addresses = [f"s3://shop/{each}.jpg" for each in pictures]
        lines.append("\t".join((item_id, addresses[0], colour, group, ",".join(addresses[1:]))))
    return "\n".join([*lines, ""]).encode()


@settings(max_examples=40, deadline=None)
@given(PRODUCTS)
def test_one_list_of_products_is_the_same_catalogue_in_each_format(
    products: dict[str, tuple[list[str], str, str]],
) -> None:
    with TemporaryDirectory() as folder:
        rss, atom = as_xml(products, "rss", "item"), as_xml(products, "feed", "entry")
        texts = [rss, atom, as_text(products), gzip.compress(rss), gzip.compress(as_text(products))]
        catalogues = [source_of(Path(folder), text, f"feed{n}").rows() for n, text in enumerate(texts)]
    expected = sorted(
        (item_id + f"/{position}" * (position > 1), f"s3://shop/{picture}.jpg", group or item_id, [colour])
        for item_id, (pictures, colour, group) in products.items()
        for position, picture in enumerate(pictures, 1)
    )
    for rows in catalogues:
        found = rows.select("item_id", "image_uri", "product_id", "attributes").rows()
        assert sorted((*row[:3], [pair["value"] for pair in row[3]]) for row in found) == expected
