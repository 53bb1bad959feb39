"""A file that is no feed is refused by what it is, and a feed in gzip is read like any other."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.feeds.feed import Export, column_key
from retrieval_core.ingest.sources.registry import open_source

PAGE = Path(__file__).parents[5] / "docs" / "sources.md"
FEEDS = ("merchant", "shopify", "woocommerce", "jsonl")
TEXT = b"id\timage_link\tcolor\n1\ta.jpg\tred\n2\tb.jpg\tblue\n"


PAGES = (
    b"<!DOCTYPE html>\n<html>",
    b"\xef\xbb\xbf <!-- x -->\n<HTML lang='de'>",
    "<html>".encode("utf-16"),
    b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>",
)


@pytest.mark.parametrize("kind", [*FEEDS, "table"])
@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_is_named(kind: str, page: bytes, tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_bytes(page)
    with pytest.raises(CatalogInvalid, match="is a web page"):
        open_source(f"{kind}:{path}")
    path = tmp_path / "feed.csv.gz"
    path.write_bytes(gzip.compress(page))
    with pytest.raises(CatalogInvalid, match="is a web page"):
        open_source(f"{kind}:{path}")


@pytest.mark.parametrize("kind", FEEDS)
def test_an_empty_file_is_missing(kind: str, tmp_path: Path) -> None:
    for data in (b"", b" \n", gzip.compress(b"")):
        (tmp_path / "feed").write_bytes(data)
        with pytest.raises(SourceMissing, match="is empty"):
            open_source(f"{kind}:{tmp_path / 'feed'}")


def test_every_cut_of_a_packed_feed_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(TEXT)
    path = tmp_path / "feed"
    for end in range(3, len(packed)):
        path.write_bytes(packed[:end])
        with pytest.raises(CatalogInvalid, match=r"cut off|cannot be read"):
            open_source(f"merchant:{path}")
    path.write_bytes(packed)
    assert open_source(f"merchant:{path}").rows()["item_id"].to_list() == ["1", "2"]


def test_a_feed_on_s3_names_pictures_beside_it() -> None:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="shop")
        client.put_object(Bucket="shop", Key="feeds/today", Body=gzip.compress(TEXT))
        rows = open_source("merchant:s3://shop/feeds/today").rows()
    assert rows["image_uri"].to_list() == ["s3://shop/feeds/a.jpg", "s3://shop/feeds/b.jpg"]


def test_a_picture_may_not_lie_above_the_feed(tmp_path: Path) -> None:
    (tmp_path / "feed.tsv").write_text("id\timage_link\tcolor\n1\t../a.jpg\tred\n")
    with pytest.raises(CatalogInvalid, match="expected a path below the table's folder"):
        open_source(f"merchant:{tmp_path / 'feed.tsv'}").rows()


def test_rows_have_their_cells_by_the_one_form_of_the_names() -> None:
    export = Export(TEXT, ("ID", "image link"), ("image_link",))
    assert list(export.rows(("id", "color", "size"))) == [
        (1, {"id": "1", "color": "red", "size": ""}),
        (2, {"id": "2", "color": "blue", "size": ""}),
    ]
    assert {column_key(name) for name in ("g:image_link", "Image Link", " IMAGE-LINK ")} == {"image link"}


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="id and g:id"):
        next(Export(b"id\tg:id\timage_link\n1\t2\ta.jpg\n", (), ("image_link",)).rows(("id",)))


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        ("merchant", {"lamp-blue": "Lamps", "lamp-blue/2": "Lamps"}),
        ("shopify", {"shirt": "Tops", "shirt/2": "Tops", "shirt/3": "Tops", "shirt/4": "Tops"}),
        ("woocommerce", {"10": "Hoodies", "10/2": "Hoodies", "11": "Hoodies"}),
        ("jsonl", {"4711": None, "4711/2": None, "4712": "hat"}),
    ],
)
def test_the_sample_of_the_documentation_is_read_by_its_command(
    kind: str, items: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = PAGE.read_text().partition(f"\n## `{kind}:`")[2].partition("\n## ")[0]
    sample, command, *_ = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    spec = re.search(r"--source '?([^' ]+)", command)
    assert spec is not None
    (tmp_path / spec[1].partition(":")[2].partition("?")[0]).write_text(sample)
    monkeypatch.chdir(tmp_path)
    assert dict(open_source(spec[1]).rows().select("item_id", "category").rows()) == items


def test_a_text_that_is_cut_anywhere_loses_no_product_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "feed"
    text = b"id\timage_link\tcolor\n" + b"".join(b"%d\t%d.jpg\tred\n" % (row, row) for row in range(3))
    for end in range(text.index(b"\n") + 2, len(text)):
        path.write_bytes(text[:end])
        n_whole = text[:end].count(b"\n") - 1
        try:
            source = open_source(f"merchant:{path}")
        except CatalogInvalid as error:
            assert re.search(f"line {n_whole + 2}: |without an id", str(error))  # noqa: PT017
        else:
            assert source.rows().height in (n_whole, n_whole + 1)
            is_between_rows, has_all_cells = (
                text[:end].endswith(b"\n"),
                text[:end].rpartition(b"\n")[2].count(b"\t") == 2,
            )
            assert is_between_rows or has_all_cells
