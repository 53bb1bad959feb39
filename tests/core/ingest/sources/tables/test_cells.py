"""Cells read a slice at a time say what they say one by one."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.ingest.sources.labels import parse_attributes, parse_labels
from retrieval_core.ingest.sources.tables import cells
from retrieval_core.ingest.sources.tables.cells import as_lists, read_lists, read_texts

LABELS, ATTRIBUTES = SOURCE_SCHEMA["labels"], SOURCE_SCHEMA["attributes"]
WORDS = st.text("ab| \N{LATIN SMALL LETTER E WITH ACUTE}", max_size=6)


@pytest.fixture(autouse=True, scope="module")
def small_slices() -> None:
    cells.SLICE_ROWS = 3


@given(st.lists(st.none() | WORDS, min_size=1, max_size=12))
def test_labels_are_those_of_each_cell(texts: list[str | None]) -> None:
    read = read_lists(pl.Series(texts, dtype=pl.String), parse_labels, LABELS)
    assert read.to_list() == [parse_labels(text) for text in texts]


def test_attributes_are_those_of_each_cell() -> None:
    texts = ['{"b": 1, "a": "x"}', None, "", '{"a": "x", "b": true}', '{"b": 1, "a": "x"}', "{}"]
    read = read_lists(pl.Series(texts), parse_attributes, ATTRIBUTES)
    assert read.dtype == ATTRIBUTES
    assert read.to_list() == [parse_attributes(text) for text in texts]


@given(st.lists(st.none() | st.lists(st.none() | WORDS, max_size=3), min_size=1, max_size=8))
def test_cells_that_are_lists_already_are_read_too(lists: list[list[str | None] | None]) -> None:
    def read(cell: list[str | None] | None) -> list[str]:
        return [word for word in cell or () if word]

    assert read_lists(pl.Series(lists, dtype=LABELS), read, LABELS).to_list() == [read(cell) for cell in lists]


def test_a_text_is_read_once_however_often_it_occurs() -> None:
    asked: list[object] = []
    column = pl.Series([38, 39, None, 38, 38], dtype=pl.Int64)
    assert read_texts(column, lambda size: str(asked.append(size) or size)).to_list() == ["38", "39", None, "38", "38"]
    assert asked == [38, 39]


def test_a_column_of_nothing_is_read() -> None:
    assert read_lists(pl.Series([None, None]), parse_labels, LABELS).to_list() == [[], []]
    assert read_texts(pl.Series([None, None]), str).to_list() == [None, None]


@given(st.lists(st.lists(st.integers(-(2**100), 2**100), max_size=3), min_size=1, max_size=8))
def test_values_find_their_rows(lists: list[list[int]]) -> None:
    rows = pl.Series([row for row, values in enumerate(lists) for _ in values], dtype=pl.Int64)
    values = pl.Series([value for values in lists for value in values], dtype=pl.Int128)
    assert as_lists(rows, values, len(lists)).to_list() == lists
