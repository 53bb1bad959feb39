"""Filters compare fields by their kind: amounts, numbers, dates and text."""

from __future__ import annotations

import operator
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import NAMED_VALUES, field_table
from retrieval_core.errors import BadConfig
from retrieval_core.filters import parse_where

ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
# What each text says: a number and its currency, a date, or nothing but itself.
MEANINGS: dict[str, tuple[float, str | None] | datetime | None] = {
    "30": (30, None), "30.00 EUR": (30, "EUR"), "1.299,00 €": (1299, "EUR"), "29,99": (29.99, None), "$30": (30, "$"),
    "2026-03-01": datetime(2026, 3, 1), "01.04.2026": datetime(2026, 4, 1),
    "2026-03-01T12:00Z": datetime(2026, 3, 1, 12), "in stock": None, "on request": None, "007": None,
}  # fmt: skip
texts = st.sampled_from([*MEANINGS])
rows = st.lists(st.dictionaries(st.sampled_from(["price", "season"]), texts), min_size=1, max_size=8)


def table(fields: list[dict[str, str]], attributes: list[dict[str, str]] | None = None) -> pl.DataFrame:
    """Items with these fields, as a release reads them for a filter."""

    def column(values: list[dict[str, str]]) -> pl.Series:
        return pl.Series(
            [[{"name": k, "value": v} for k, v in sorted(row.items())] for row in values], dtype=NAMED_VALUES
        )

    items = pl.DataFrame({"row_id": range(len(fields)), "fields": column(fields)})
    items = items.with_columns(attributes=column(attributes or [{}] * len(fields)))
    return items.join(field_table(items), on="row_id", how="left", maintain_order="left")


def mask(where: str, items: pl.DataFrame, names: tuple[str, ...] = ("price", "season")) -> list[bool]:
    return parse_where(where).mask(items, names).to_list()


def passes(sign: str, text: str | None, asked: str) -> bool:
    """The oracle: by what the texts mean."""
    if text is None:
        return False
    if sign == "=" and text == asked:
        return True
    value, limit = MEANINGS[text], (7, None) if asked == "007" else MEANINGS[asked]
    match value, limit:
        case (float() | int() as number, currency), (float() | int() as asked_number, asked_currency):
            return asked_currency in (None, currency) and ORDER[sign](number, asked_number)
        case datetime(), datetime():
            return ORDER[sign](value, limit)
        case None, None:
            return ORDER[sign](text, asked)
    return False


@settings(max_examples=300)
@given(rows, st.sampled_from(["price", "season"]), st.sampled_from([*ORDER, "!=", "is null"]), texts)
def test_a_field_is_compared_by_what_its_text_means(
    fields: list[dict[str, str]], name: str, sign: str, asked: str
) -> None:
    if sign == "is null":
        expected = [name not in row for row in fields]
    elif sign == "!=":
        expected = [not passes("=", row.get(name), asked) for row in fields]
    else:
        expected = [passes(sign, row.get(name), asked) for row in fields]
    where = f"{name} is null" if sign == "is null" else f"{name} {sign} '{asked}'"
    assert mask(where, table(fields)) == expected


SHOP: list[dict[str, str]] = [
    {"price": "19.99 EUR", "availability": "in stock", "title": "Lamp"},
    {"price": "1.299,00 €", "availability": "in stock", "title": "Sofa"},
    {"price": "on request", "availability": "out of stock", "title": "Vase"},
    {},
]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('price < 30 and availability = "in stock"', [0]),
        ("price >= 30", [1]),
        ("price < '30 EUR'", [0]),
        ("price < '30 USD'", []),
        ("price < '1,299.00 EUR' or price is null", [0, 3]),
        ("price is not null and not price > 0", [2]),
        ("price = 1299", [1]),
        ("price in (19.99, 'on request')", [0, 2]),
        ("title > M", [1, 2]),
        ("availability != 'in stock'", [2, 3]),
    ],
)
def test_a_shopper_finds_what_is_cheap_and_in_stock(where: str, expected: list[int]) -> None:
    found = mask(where, table(SHOP), ("price", "availability", "title"))
    assert [row for row, is_match in enumerate(found) if is_match] == expected


def test_a_name_that_is_a_field_and_an_attribute_means_both() -> None:
    items = table([{"season": "in stock"}, {}, {}], [{}, {"season": "in stock"}, {"season": "007"}])
    assert mask("season = 'in stock'", items) == [True, True, False]
    assert mask("season is null", items) == [False, False, False]


def test_a_name_that_no_item_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadConfig, match=r"'prize', which the catalogue does not have; .*did you mean 'price'"):
        mask("prize < 3", table([{"price": "3"}]))


def test_words_of_the_null_test_are_values_elsewhere() -> None:
    items: list[dict[str, Any]] = [{"category": "is"}, {"category": "null"}]
    frame = pl.DataFrame(items, schema={"category": pl.String})
    assert parse_where("category=is").mask(frame).to_list() == [True, False]
    assert parse_where("category in (null)").mask(frame).to_list() == [False, True]
    for text, says in [("category is", "null or not null, got the end"), ("category is not in", "expected null, got")]:
        with pytest.raises(BadConfig, match=says):
            parse_where(text)


def with_row_ids(fields: list[dict[str, str]]) -> pl.DataFrame:
    return table(fields).select("row_id", "fields")
