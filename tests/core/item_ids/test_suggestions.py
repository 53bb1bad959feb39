"""An unknown id is answered with the ids that the person may have meant."""

from __future__ import annotations

import string

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.item_ids.suggestions import did_you_mean

NUMBERED = pl.Series([f"sku-{number:05d}" for number in range(20_000)])
NAMED = pl.Series(["Kleid/été 1.jpg", "Kleid/été 2.jpg", "Schuhe/größe-40.jpg", "+1", "a*b(c"])


@pytest.mark.parametrize(
    ("ids", "typed", "meant"),
    [
        (NUMBERED, "SKU_01234", "sku-01234"),
        (NUMBERED, "sku01234", "sku-01234"),
        (NUMBERED, "sku-0123x4", "sku-01234"),
        (NUMBERED, "sk-0123x4", "sku-01234"),
        (NAMED, "kleid/ETE 1.jpg", "Kleid/été 1.jpg"),
        (NAMED, "Schuhe-größe-40.jpg", "Schuhe/größe-40.jpg"),
        (NAMED, "Schuhe/groesse-40.jpg", "Schuhe/größe-40.jpg"),
        (NAMED, "a*b(d", "a*b(c"),
    ],
)
def test_the_nearest_id_is_suggested(ids: pl.Series, typed: str, meant: str) -> None:
    assert repr(meant) in did_you_mean(typed, ids)


@pytest.mark.parametrize("typed", ["", "?", "zebra", "x" * 1024, "[](){}|^$.*+\\", "\udcff", "<>%#& ~"])
def test_nothing_is_suggested_where_nothing_is_near(typed: str) -> None:
    assert did_you_mean(typed, NUMBERED) == did_you_mean(typed, pl.Series([], dtype=pl.String)) == ""


@settings(max_examples=200)
@given(st.integers(0, len(NUMBERED) - 1), st.data())
def test_any_one_wrong_letter_is_forgiven_in_any_case(row: int, data: st.DataObject) -> None:
    """Of a numbered catalogue many ids are as near, so the id is looked for among few others."""
    ids = pl.concat([pl.Series([NUMBERED[row]]), NAMED])
    meant = NUMBERED[row]
    position = data.draw(st.integers(0, len(meant) - 1))
    letter = data.draw(st.sampled_from(string.ascii_letters + string.digits))
    slip = data.draw(st.sampled_from(["wrong", "missing", "added", "swapped"]))
    typed = {
        "wrong": meant[:position] + letter + meant[position + 1 :],
        "missing": meant[:position] + meant[position + 1 :],
        "added": meant[:position] + letter + meant[position:],
        "swapped": meant[:position] + meant[position + 1 : position + 2] + meant[position] + meant[position + 2 :],
    }[slip]
    assert repr(meant) in did_you_mean(data.draw(st.sampled_from([typed, typed.upper()])), ids)
