"""Every source yields one checked table."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.item_ids.normal_form import normal_name


def test_absent_columns_are_null_or_empty() -> None:
    rows = conform(pl.DataFrame({"item_id": ["a"], "image_uri": ["/a.jpg"]}), "here")
    assert dict(rows.schema) == SOURCE_SCHEMA
    assert rows.row(0) == ("a", "/a.jpg", None, None, None, None, [], [], [])


def test_rows_are_ordered_by_id_and_other_columns_dropped() -> None:
    frame = pl.DataFrame({"note": [1, 2], "item_id": ["b", "a"], "image_uri": ["/b.jpg", "/a.jpg"]})
    rows = conform(frame, "here")
    assert rows["item_id"].to_list() == ["a", "b"]
    assert "note" not in rows.columns


def test_empty_text_is_null() -> None:
    frame = pl.DataFrame({"item_id": ["a"], "image_uri": ["/a.jpg"], "product_id": [""], "split": [""]})
    assert conform(frame, "here").select("product_id", "split").row(0) == (None, None)


def test_ids_products_and_categories_get_their_normal_form() -> None:
    names = {name: ["\ufeffe\u0301 "] for name in ("item_id", "product_id", "category")}
    assert set(conform(pl.DataFrame(names | {"image_uri": ["/a.jpg"]}), "here").row(0)[:4]) == {"é", "/a.jpg"}


@settings(max_examples=200)
@given(st.lists(st.text("aAeE\u0301é-_. 1👩👧\u200d\u200b", min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_row_is_an_item_or_the_twins_are_named(item_ids: list[str]) -> None:
    frame = pl.DataFrame({"item_id": item_ids, "image_uri": [f"/{row}" for row in range(len(item_ids))]})
    normal = [normal_name(item_id) for item_id in item_ids]
    if "" not in normal and len(set(normal)) == len(normal):
        assert set(conform(frame, "here").select("item_id", "image_uri").rows()) == {
            (name, f"/{row}") for row, name in enumerate(normal)
        }
        return
    with pytest.raises(CatalogInvalid, match=r"empty item_id|occur more than once") as raised:
        conform(frame, "here")
    assert str(raised.value).isprintable()


def test_no_row_is_a_missing_source() -> None:
    with pytest.raises(SourceMissing, match="here is empty"):
        conform(pl.DataFrame(schema=SOURCE_SCHEMA), "here")


@pytest.mark.parametrize(
    ("item_ids", "uris", "splits", "message"),
    [
        (["a", ""], ["/a", "/b"], [None, None], "1 rows have an empty item_id"),
        (["a", None], ["/a", "/b"], [None, None], "1 rows have an empty item_id"),
        (["a", "b"], ["/a", ""], [None, None], "1 rows have an empty image_uri"),
        (["a", "a"], ["/a", "/b"], [None, None], "1 item_ids occur more than once, e.g. 'a'"),
        (["é", "e\u0301"], ["/a", "/b"], [None, None], r"'é', spelled 'e\\u0301' and '\\xe9'; rename one"),
        (["a", "\u200b"], ["/a", "/b"], [None, None], "1 rows have an empty item_id"),
        (["a", "b"], ["/a", "/b"], ["train", "dev"], "item 'b' has split 'dev'; expected train, val, query"),
    ],
)
def test_malformed_rows_are_refused(item_ids: list[str], uris: list[str], splits: list[str], message: str) -> None:
    frame = pl.DataFrame({"item_id": item_ids, "image_uri": uris, "split": splits})
    with pytest.raises(CatalogInvalid, match=message):
        conform(frame, "here")


def test_there_are_no_masks() -> None:
    source = Maskless()
    source.spec = "mnist:d"
    with pytest.raises(NotFound, match=r"mnist:d has no masks, so none at a\.png"):
        source.read_mask("a.png")
