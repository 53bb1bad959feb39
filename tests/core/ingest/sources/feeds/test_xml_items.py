"""XML is read item by item, and neither expands entities nor opens other files."""

from __future__ import annotations

import io
import tracemalloc

import pytest

from retrieval_core.ingest.sources.feeds.xml_items import XmlItems

BOMB = '<!DOCTYPE rss [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><rss><item><id>&b;</id></item></rss>'
FILE = '<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/hostname">]><rss><item><id>&a;</id></item></rss>'
OUTSIDE = '<!DOCTYPE rss SYSTEM "http://localhost/rss.dtd"><rss><item><id>&a;</id></item></rss>'


@pytest.mark.parametrize("text", [BOMB, FILE, OUTSIDE])
def test_a_document_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="declares a document type"):
        list(XmlItems(io.BytesIO(text.encode())))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<?xml version='1.0' encoding='x-shop'?><rss/>", "unknown encoding: x-shop; save it as UTF-8"),
        ("<rss><item><id>&nbsp;</id></item></rss>", "line 1: undefined entity"),
        ("<rss><item>\n<g:id>1</g:id></item></rss>", "line 2: unbound prefix"),
        (f"<rss><item><id>{'x' * 2**21}</id></item></rss>", "a value of over 1,048,576 characters"),
    ],
)
def test_other_faults_are_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(XmlItems(io.BytesIO(text.encode())))


def test_every_cut_of_a_feed_is_refused() -> None:
    text = b"<?xml version='1.0'?>\n<rss><channel><item><id>1</id></item><item><id>2</id></item></channel></rss>"
    for end in range(1, len(text)):
        with pytest.raises(ValueError, match=r"line [12]: "):
            list(XmlItems(io.BytesIO(text[:end])))
    assert [item.values["id"] for item in XmlItems(io.BytesIO(text))] == [["1"], ["2"]]


def test_an_element_of_merchant_center_counts_before_one_of_the_format() -> None:
    text = (
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">'
        "<id>feed</id><entry><id>atom</id><title>t</title><g:id>sku</g:id></entry></feed>"
    )
    items = XmlItems(io.BytesIO(text.encode()))
    assert [item.values for item in items] == [{"id": ["sku"], "title": ["t"]}]
    assert items.names == {"id": "id", "title": "title"}


def test_memory_does_not_grow_with_the_feed() -> None:
    item = b"<item><id>1</id><title>" + b"x" * 1000 + b"</title></item>"
    tracemalloc.start()
    assert sum(1 for _ in XmlItems(io.BytesIO(b"<rss>" + item * 20_000 + b"</rss>"))) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70_000_000  # of which the feed itself takes 21 MB twice
