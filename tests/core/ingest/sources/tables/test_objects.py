"""Objects become rows: a column for each key, whatever object has it first."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.ingest.sources.tables import objects
from retrieval_core.ingest.sources.tables.columns import UNNAMED, Columns
from retrieval_core.ingest.sources.tables.objects import ObjectRows

KEYS = ("item_id", "image_uri", "category", "attr_size", "stock")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers(0, 9), max_size=5), max_size=12))
def test_rows_are_the_same_however_many_are_collected_at_a_time(given: list[dict[str, Any]]) -> None:
    for slice_rows in (1, 3, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objects, "SLICE_ROWS", slice_rows)
            rows = ObjectRows(UNNAMED)
            for values in given:
                rows.add(values)
            frame = rows.frame()
        assert rows.n_rows == len(frame) == len(given)
        for name in frame.columns:
            expected = [values.get(name) if name != "stock" else None for values in given]
            assert frame[name].to_list() == [None if value is None else str(value) for value in expected]
        assert {name for values in given for name in values} <= {*frame.columns}


def test_a_list_of_pictures_takes_a_column_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "SLICE_ROWS", 1)
    rows = ObjectRows(Columns({"item_id": "sku"}, ("photos",)))
    rows.add({"sku": 1, "photos": ["a", "b", "c"]})
    rows.add({"sku": 2, "photos": "d"})
    columns = rows.columns()
    assert columns.pictures == ("photos", "photos[2]", "photos[3]")
    assert rows.frame().select(pl.col(columns.pictures)).rows() == [("a", "b", "c"), ("d", None, None)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"item_id": [1, 2]}, "item_id has several values"),
        ({"attributes": {"size": ["S", "M"]}}, r"attributes.size has several values"),
        ({"attributes": [1]}, "attributes are a list"),
        ({"Item ID": 1, "item_id": 2}, "item_id occurs more than once"),
        ({"category": b"\xff\xfe"}, "neither UTF-8 text nor UUIDs"),
    ],
)
def test_a_value_that_no_column_takes_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ObjectRows(UNNAMED).add(values)
