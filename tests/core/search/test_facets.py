"""Counts of the values that a filter can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA
from retrieval_core.errors import BadConfig
from retrieval_core.filters import attribute_names, one_of_each
from retrieval_core.search.facets import count_values
from retrieval_core.search.query import Query

NAMES = ("item_id", "product_id", "category", "split", "label", "colour")


def table(rows: list[dict[str, Any]], season: list[str | None] | None = None) -> pl.DataFrame:
    items = pl.DataFrame(rows, schema=CATALOG_SCHEMA)
    if season is None:
        return items
    parts = [text and {"text": text, "number": 3.0 if text == "3" else None, "moment": None} for text in season]
    kind = pl.Struct({"text": pl.String, "number": pl.Float64, "moment": pl.Datetime("us")})
    return items.with_columns(pl.Series("field.season", parts, kind))


def test_values_are_counted_by_item_the_commonest_first() -> None:
    pair = {"name": "colour", "value": "red"}
    rows = [
        {"category": "a", "labels": ["x", "y", "y"], "attributes": [pair, {"name": "category", "value": "hidden"}]},
        {"category": "b", "labels": ["y"], "attributes": [pair, pair, {"name": "colour", "value": "blue"}]},
        {"category": "b", "split": "train", "attributes": [{"name": "colour", "value": None}]},
    ]
    assert attribute_names(table(rows)) == ["colour"]
    counts = count_values(table(rows), NAMES)
    assert counts == {
        "item_id": {},
        "product_id": {},
        "category": {"b": 2, "a": 1},
        "split": {"train": 1},
        "label": {"y": 2, "x": 1},
        "colour": {"red": 2, "blue": 1},
    }
    assert [*counts["category"]] == ["b", "a"]
    assert count_values(table([]), NAMES) == {name: {} for name in NAMES}


def test_a_field_is_counted_by_its_texts_beside_the_attributes_of_its_name() -> None:
    rows = [{"attributes": [{"name": "season", "value": "b"}]}, {}, {}, {}]
    assert count_values(table(rows, ["b", "a", "3", None]), ["season"]) == {"season": {"a": 1, "b": 1}}


def test_a_release_counts_what_a_search_can_find(new_shop: Any, tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    shop.publish()
    release = shop.open()
    for where in ("", "category=dress", "colour in (red, blue) and not label=new", "item_id=nothing"):
        counts = release.facets(["category", "label", "colour"], where)
        for name, values in counts.items():
            for value, n in values.items():
                chosen = one_of_each({name: [value]})
                both = f"({where}) and {chosen}" if where else chosen
                assert len(release.search(Query(texts=(), item_ids=("item-0-0",)), 100, where=both)) in (n, n - 1)
    assert list(release.facets()) == [*NAMES, "year"]
    with pytest.raises(BadConfig, match=r"'colur', which the catalogue does not have; .*did you mean 'colour'"):
        release.facets(["colur"])
