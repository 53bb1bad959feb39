"""Labels and attributes as people write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.ingest.sources.labels import attributes_of, normalise_labels, parse_attributes, parse_labels

LABEL = st.text(st.characters(blacklist_characters="|[", blacklist_categories=("Cs", "Cc")), min_size=1)


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        (None, []),
        ("", []),
        ("  ", []),
        ("coat", ["coat"]),
        ("hat| coat |hat||", ["coat", "hat"]),
        ('["hat", "coat|long"]', ["coat|long", "hat"]),
        ("[]", []),
    ],
)
def test_a_cell_of_labels(cell: str | None, labels: list[str]) -> None:
    assert parse_labels(cell) == labels


@given(st.lists(LABEL))
def test_both_spellings_mean_the_same(labels: list[str]) -> None:
    assert parse_labels("|".join(labels)) == parse_labels(json.dumps(labels)) == normalise_labels(labels)


@pytest.mark.parametrize("cell", ["[", '["a"', '["a", 1]', "[null]", '[["a"]]'])
def test_labels_that_do_not_parse_are_reported(cell: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse_labels(cell)


def test_attributes_are_text_ordered_by_name_and_empty_ones_are_left_out() -> None:
    cell = '{"size": 38, "colour": " red ", "sale": true, "note": "", "season": null, " ": "x"}'
    assert [(a["name"], a["value"]) for a in parse_attributes(cell)] == [
        ("colour", "red"),
        ("sale", "true"),
        ("size", "38"),
    ]


@pytest.mark.parametrize("cell", [None, "", " ", "{}"])
def test_a_cell_without_attributes(cell: str | None) -> None:
    assert parse_attributes(cell) == []


@pytest.mark.parametrize("cell", ["red", "{", '["red"]', "3", "null"])
def test_attributes_that_do_not_parse_are_reported(cell: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse_attributes(cell)


def test_several_values_of_one_attribute_are_refused() -> None:
    with pytest.raises(ValueError, match="'colour' has several values"):
        attributes_of({"colour": ["red", "blue"]})
