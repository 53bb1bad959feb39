"""Filters agree with a plain evaluation in Python, and every malformed text is refused."""

from __future__ import annotations

import operator
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA
from retrieval_core.errors import BadConfig
from retrieval_core.filters import MAX_CHARS, MAX_DEPTH, one_of_each, parse_where

ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
VALUES = ["a", "B", "b", "a b", "it's", 'say "x"', "10", "9", "1e1", "-2.5", "in", "", "inf", "nan", "é/ü_1.x-y", "(,)"]
ATTRIBUTES = ["colour", "year", "not", "art type", "category"]

values = st.sampled_from(VALUES)
items = st.lists(
    st.fixed_dictionaries(
        {
            "item_id": values,
            "product_id": st.none() | values,
            "category": st.none() | values,
            "split": st.sampled_from(["train", "query"]),
            "labels": st.lists(values, max_size=3),
            "attributes": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from(ATTRIBUTES), "value": st.none() | values}), max_size=3
            ),
        }
    ),
    max_size=6,
)
comparisons = st.tuples(
    st.sampled_from(["item_id", "product_id", "category", "split", "label", "colour", "year", "not", "art type"]),
    st.sampled_from(["=", "!=", *ORDER, "in", "not in", "is null", "is not null"]),
    st.lists(values, min_size=1, max_size=3),
)
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("and"), st.lists(inner, min_size=2, max_size=3)),
        st.tuples(st.just("or"), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=6,
)


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=CATALOG_SCHEMA)


def written(tree: Any) -> str:
    """A tree as a person would type it, in parentheses only where they are needed or do no harm."""
    match tree:
        case ("not", inner):
            return f"NOT ({written(inner)})"
        case ("and", list(parts)):
            return " and ".join(f"({written(part)})" if part[0] == "or" else written(part) for part in parts)
        case ("or", list(parts)):
            return " Or ".join(written(part) for part in parts)
    name, sign, asked = tree
    if sign in ("in", "not in"):
        return f"{quoted(name)} {sign} ({', '.join(map(quoted, asked))})"
    if sign.startswith("is"):
        return f"{quoted(name)} {sign}"
    return f"{quoted(name)}{sign}{quoted(asked[0])}"


def quoted(text: str) -> str:
    bare = text and text not in ("in", "not") and all(c.isalnum() or c in "-_./" for c in text)
    return text if bare else "'" + text.replace("'", "''") + "'"


def fits(tree: Any, item: dict[str, Any]) -> bool:
    """The oracle."""
    match tree:
        case ("not", inner):
            return not fits(inner, item)
        case ("and", list(parts)):
            return all(fits(part, item) for part in parts)
        case ("or", list(parts)):
            return any(fits(part, item) for part in parts)
    name, sign, asked = tree
    if name == "label":
        has = item["labels"]
    elif name in ("item_id", "product_id", "category", "split"):
        has = [item[name]]
    else:
        has = [pair["value"] for pair in item["attributes"] if pair["name"] == name]
    has = [value for value in has if value is not None]
    match sign:
        case "=":
            return asked[0] in has
        case "!=":
            return asked[0] not in has
        case "in":
            return any(value in asked for value in has)
        case "not in":
            return not any(value in asked for value in has)
        case "is null" | "is not null":
            return bool(has) == (sign == "is not null")
    return any(ordered(sign, value, asked[0]) for value in has)


def ordered(sign: str, value: str, asked: str) -> bool:
    numbers = {"10": 10.0, "9": 9.0, "1e1": 10.0, "-2.5": -2.5}
    if asked not in numbers:
        return ORDER[sign](value.encode(), asked.encode())
    return value in numbers and ORDER[sign](numbers[value], numbers[asked])


@settings(max_examples=300)
@given(items, trees)
def test_a_filter_means_what_a_plain_reading_of_it_means(rows: list[dict[str, Any]], tree: Any) -> None:
    every = {"attributes": [{"name": name, "value": None} for name in ATTRIBUTES]}  # so that each name is known
    where = parse_where(written(tree))
    mask = where.mask(table([*rows, every]))
    assert mask.null_count() == 0
    assert mask.to_list()[:-1] == [fits(tree, row) for row in rows]


@settings(max_examples=300)
@given(st.text(max_size=60) | st.lists(st.sampled_from([*"()=<>!,'\" ", "a", "not", "and", "or", "in"])).map(" ".join))
@example("category=dress and")
def test_any_text_is_parsed_or_refused_with_the_position(text: str) -> None:
    refusal = ""
    try:
        parse_where(text)
    except BadConfig as error:
        refusal = str(error)
    assert refusal == "" or "the filter at character" in refusal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at character 1: expected a name, got the end"),
        ("category", "at character 9: expected =, !=, <"),
        ("category=", "at character 10: expected a value, got the end"),
        ("category=red dress", "at character 14: expected and, or, or the end, got 'dress'"),
        ("category==dress", "at character 10: expected a value, got '='"),
        ("category='red", "at character 10: expected a closing quote"),
        ("category=dress; drop", "at character 15: expected a name, a value or a sign, got '; drop'"),
        ("category in red", "at character 13: expected '(', got 'red'"),
        ("category in ()", "at character 14: expected a value, got ')'"),
        ("category in (a b)", "at character 16: expected ',' or ')', got 'b'"),
        ("category not red", "at character 14: expected in, got 'red'"),
        ("(category=red", "at character 14: expected and, or, or ')', got the end"),
        ("category=red)", "at character 13: expected and, or, or the end, got ')'"),
        ("category=and", r"at character 10: expected a value (in quotes where it reads and), got 'and'"),
        ("and=red", "at character 1: expected a name"),
    ],
)
def test_a_syntax_error_names_the_position_and_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(BadConfig) as raised:
        parse_where(text)
    assert says in str(raised.value)
    assert "e.g. category=dress" in str(raised.value)


def test_hostile_text_is_refused_and_costs_nothing() -> None:
    for text in ("(" * 3_000, "not " * 900, "(" * 60 + "a=1" + ")" * 60, "(not " * 30 + "a=1" + ")" * 30):
        with pytest.raises(BadConfig, match=f"at most {MAX_DEPTH}"):
            parse_where(text)
    for text in ("a=" + "b" * 10_000, "(" * 10_000, "'" * 10_001):
        with pytest.raises(BadConfig, match=f"at most {MAX_CHARS:,}"):
            parse_where(text)
    deep = "(" * (MAX_DEPTH - 1) + "not category=x" + ")" * (MAX_DEPTH - 1)
    assert parse_where(deep).mask(table([{"category": "x"}, {"category": None}])).to_list() == [False, True]
    many = " or ".join(["category=x", "label=y"] * 150)
    assert parse_where(many).mask(table([{"category": "x"}, {"labels": ["y"]}, {}])).to_list() == [True, True, False]


def test_an_unknown_name_is_answered_with_the_existing_names_and_the_nearest() -> None:
    rows = table([{"attributes": [{"name": "colour", "value": "red"}, {"name": "season", "value": None}]}])
    with pytest.raises(BadConfig) as raised:
        parse_where("colr=red").mask(rows)
    assert "'colr'" in str(raised.value)
    assert "item_id, product_id, category, split, label, colour, season; did you mean 'colour'?" in str(raised.value)
    with pytest.raises(BadConfig, match=r"it has item_id, product_id, category, split, label$"):
        parse_where("zzz=1").mask(table([]))
    many = table([{"attributes": [{"name": f"name{number:03}", "value": ""} for number in range(100)]}])
    with pytest.raises(BadConfig, match="and 65 more"):
        parse_where("zzz=1").mask(many)


def test_a_filter_knows_the_columns_that_it_needs() -> None:
    assert parse_where("category=a and not label in (b, c)").columns == ["category", "labels"]
    assert parse_where("colour=red or size=S or split=train").columns == ["attributes", "split"]
    where = parse_where("split=train")
    assert where.mask(table([{"split": "train"}, {"split": "query"}]).select(where.columns)).to_list() == [True, False]


def test_case_and_spelling_of_values_count() -> None:
    rows = table([{"category": value} for value in ("Dress", "dress", "dress ")])
    assert parse_where("category=dress").mask(rows).to_list() == [False, True, False]
    spelled = table([{"item_id": "é", "category": "Größe"}])
    for where in ("item_id='e\u0301\u200b'", "category in ('Gro\u0308ße')", "not item_id!='e\u0301'"):
        assert parse_where(where).mask(spelled).to_list() == [True]
    ids = table([{"item_id": "007"}, {"item_id": "7"}])
    assert parse_where("item_id=7").mask(ids).to_list() == [False, True], "equality is of text, also between numbers"
    assert parse_where("item_id<=7").mask(ids).to_list() == [True, True]


names_and_values = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@given(st.dictionaries(names_and_values, st.lists(names_and_values, min_size=1, max_size=3), min_size=1, max_size=3))
def test_choices_written_as_a_filter_are_read_as_they_were(choices: dict[str, list[str]]) -> None:
    assert parse_where(one_of_each(choices)).names == set(choices)
    assert (
        one_of_each({"category": ["or", "it's"], "colour": ["red"]})
        == "category in ('or', 'it''s') and colour in (red)"
    )
