"""Filters such as `category=dress and colour in (red, blue)`, over the columns and attributes of a catalogue.

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | comparison
    comparison  = name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
                | name [ "not" ] "in" "(" value { "," value } ")"

Names and values are bare words of letters, digits and `-_./`, or are quoted with single or double quotes, which are
doubled inside. A name is a column (`COLUMNS`), `label`, or an attribute of any item. Text is compared exactly and is
case-sensitive; ids and categories are compared in their normal form (`item_ids`). `<`, `<=`, `>` and `>=` compare as
numbers when the value in the filter is a number; items whose value is not a number then fail. Of several labels, or
several values of one attribute, one has to match. A missing value fails every comparison but `!=` and `not in`, which
are the negations of `=` and `in`.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from retrieval_core.errors import BadConfig
from retrieval_core.item_ids.normal_form import NORMAL_COLUMNS, normal_name

COLUMNS = ("item_id", "product_id", "category", "split")
LABEL = "label"
ATTRIBUTES = "attributes"
VALUE_COLUMNS = ["category", "split", "labels", ATTRIBUTES]
EXAMPLE = "category=dress and colour in (red, blue)"
MAX_CHARS = 4_000
MAX_DEPTH = 50  # of parentheses and `not` inside each other
MAX_NAMES = 40  # listed in a message
MAX_VALUES = 50  # listed for one name

_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[\w\-./]+)|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<sign>[!<>]=|[=<>(),]))"""
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_KEYWORDS = frozenset({"and", "or", "not", "in"})
_ORDER: Mapping[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Comparison(NamedTuple):
    name: str
    sign: str  # one of _ORDER, or "in", which "=" becomes too
    values: tuple[str, ...]


class _Not(NamedTuple):
    negated: _Node


class _All(NamedTuple):
    parts: tuple[_Node, ...]


class _Any(NamedTuple):
    parts: tuple[_Node, ...]


_Node = _Comparison | _Not | _All | _Any


@dataclass(frozen=True)
class Where:
    """A parsed filter; `mask` checks that its names exist."""

    text: str
    tree: _Node

    @property
    def names(self) -> frozenset[str]:
        """The columns and attributes that the filter names, and `label`."""
        return frozenset(_names(self.tree))

    @property
    def columns(self) -> list[str]:
        """The columns that `mask` needs in its items, sorted."""
        columns = {name if name in COLUMNS else "labels" if name == LABEL else ATTRIBUTES for name in self.names}
        return sorted(columns)

    def mask(self, items: pl.DataFrame) -> pl.Series:
        """Return (n,) bool: which of the n items match. Raises `BadConfig` for a name that no item has."""
        named_attributes = self.names - {*COLUMNS, LABEL}
        if named_attributes:
            existing = attribute_names(items)
            for name in sorted(named_attributes - set(existing)):
                raise BadConfig(_unknown(name, [*COLUMNS, LABEL, *existing]))
        return items.select(_expression(self.tree).alias("is_match")).to_series()


def attribute_names(items: pl.DataFrame) -> list[str]:
    """Return the names of the attributes of these items, sorted, without those that are also names of columns."""
    names = _flat(items[ATTRIBUTES]).struct.field("name").drop_nulls().unique()
    return sorted(set(names) - {*COLUMNS, LABEL})


def commonest_values(items: pl.DataFrame) -> dict[str, list[str]]:
    """Return every name that a filter of these items can use, with its most frequent values, the most frequent first.

    `items` have the `VALUE_COLUMNS`. For the ids, which are different for nearly every item, no values are listed.
    """
    values = {name: items[name] for name in ("category", "split")} | {LABEL: _flat(items["labels"])}
    attributes = _flat(items[ATTRIBUTES]).struct.unnest()
    values |= {name: attributes.filter(pl.col("name") == name)["value"] for name in attribute_names(items)}
    return {name: [] for name in COLUMNS} | {name: _commonest(column) for name, column in values.items()}


def parse_where(text: str) -> Where:
    """Parse a filter. Raises `BadConfig` with the position of an error and what was expected there."""
    if len(text) > MAX_CHARS:
        raise BadConfig(f"the filter has {len(text):,} characters, expected at most {MAX_CHARS:,}; shorten it")
    return Where(text, _Parser(text).parse())


def _flat(lists: pl.Series) -> pl.Series:
    return lists.explode(empty_as_null=False, keep_nulls=False)


def _commonest(values: pl.Series) -> list[str]:
    counted = values.drop_nulls().rename("value").value_counts(name="n")
    return counted.sort("n", "value", descending=[True, False])["value"].head(MAX_VALUES).to_list()


class _Token(NamedTuple):
    kind: str  # word, quoted, sign, or "" at the end
    text: str
    start: int

    @property
    def keyword(self) -> str:
        """The keyword in lower case; "" for any other token."""
        return self.text.lower() if self.kind == "word" and self.text.lower() in _KEYWORDS else ""


class _Parser:
    """A recursive-descent parser that looks one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def parse(self) -> _Node:
        tree = self._disjunction(0)
        if self._next.kind:
            raise self._expected("and, or, or the end")
        return tree

    def _disjunction(self, depth: int) -> _Node:
        parts = [self._conjunction(depth)]
        while self._next.keyword == "or":
            self._take()
            parts.append(self._conjunction(depth))
        return _Any(tuple(parts)) if len(parts) > 1 else parts[0]

    def _conjunction(self, depth: int) -> _Node:
        parts = [self._negation(depth)]
        while self._next.keyword == "and":
            self._take()
            parts.append(self._negation(depth))
        return _All(tuple(parts)) if len(parts) > 1 else parts[0]

    def _negation(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise self._expected(f"at most {MAX_DEPTH} parentheses and nots inside each other")
        if self._next.keyword == "not":
            self._take()
            return _Not(self._negation(depth + 1))
        if self._next.text == "(" and self._next.kind == "sign":
            self._take()
            inner = self._disjunction(depth + 1)
            self._take_sign(")", "and, or, or ')'")
            return inner
        return self._comparison()

    def _comparison(self) -> _Node:
        name = self._value("a name")
        if self._next.keyword in ("not", "in"):
            is_negated = self._take().keyword == "not"
            if is_negated:
                self._take_keyword("in")
            comparison = _Comparison(name, "in", self._values())
            return _Not(comparison) if is_negated else comparison
        if self._next.kind != "sign" or self._next.text not in (*_ORDER, "=", "!="):
            raise self._expected("=, !=, <, <=, >, >=, in or not in")
        sign = self._take().text
        value = self._value("a value")
        if sign in _ORDER:
            return _Comparison(name, sign, (value,))
        equal = _Comparison(name, "in", (value,))
        return _Not(equal) if sign == "!=" else equal

    def _values(self) -> tuple[str, ...]:
        self._take_sign("(", "'('")
        values = [self._value("a value")]
        while self._next.kind == "sign" and self._next.text == ",":
            self._take()
            values.append(self._value("a value"))
        self._take_sign(")", "',' or ')'")
        return tuple(values)

    def _value(self, expected: str) -> str:
        if self._next.keyword:
            raise self._expected(f"{expected} (in quotes where it reads {self._next.keyword})")
        if self._next.kind not in ("word", "quoted"):
            raise self._expected(expected)
        token = self._take()
        if token.kind == "word":
            return token.text
        quote = token.text[0]
        return token.text[1:-1].replace(quote * 2, quote)

    def _take_sign(self, sign: str, expected: str) -> None:
        if self._next.kind != "sign" or self._next.text != sign:
            raise self._expected(expected)
        self._take()

    def _take_keyword(self, keyword: str) -> None:
        if self._next.keyword != keyword:
            raise self._expected(keyword)
        self._take()

    def _take(self) -> _Token:
        taken, self._next = self._next, next(self._tokens)
        return taken

    def _expected(self, expected: str) -> BadConfig:
        seen = repr(self._next.text) if self._next.kind else "the end"
        return _syntax_error(self._next.start, expected, seen)


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens of a text, then the token of kind "" for ever."""
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = end - len(text[position:end].lstrip())
            expected = "a closing quote" if text[start] in "'\"" else "a name, a value or a sign"
            raise _syntax_error(start, expected, repr(text[start : start + 12]))
        kind = match.lastgroup or ""
        yield _Token(kind, match[kind], match.start(kind))
        position = match.end()
    while True:
        yield _Token("", "", end)


def _syntax_error(position: int, expected: str, seen: str) -> BadConfig:
    return BadConfig(
        f"cannot read the filter at character {position + 1}: expected {expected}, got {seen}; e.g. {EXAMPLE}"
    )


def _unknown(name: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    return f"the filter asks for {name!r}, which the catalogue does not have; it has {listed}{hint}"


def _names(node: _Node) -> Iterator[str]:
    match node:
        case _Comparison():
            yield node.name
        case _Not():
            yield from _names(node.negated)
        case _All() | _Any():
            for part in node.parts:
                yield from _names(part)


def _expression(node: _Node) -> pl.Expr:
    """Return whether an item matches, as an expression that is never null."""
    match node:
        case _Not():
            return ~_expression(node.negated)
        case _All():
            return pl.all_horizontal(*map(_expression, node.parts))
        case _Any():
            return pl.any_horizontal(*map(_expression, node.parts))
    is_match = _value_test(node)
    if node.name in COLUMNS:
        return is_match(pl.col(node.name)).fill_null(False)
    element = pl.element()
    if node.name == LABEL:
        return pl.col("labels").list.eval(is_match(element)).list.any().fill_null(False)
    has_name = element.struct.field("name") == node.name
    return pl.col(ATTRIBUTES).list.eval(has_name & is_match(element.struct.field("value"))).list.any().fill_null(False)


def _value_test(node: _Comparison) -> Callable[[pl.Expr], pl.Expr]:
    """Return a function from a value to whether it passes the comparison."""
    values = [normal_name(value) if node.name in NORMAL_COLUMNS else value for value in node.values]
    if node.sign == "in":
        return lambda value: value.is_in(values)
    compare, (limit,) = _ORDER[node.sign], values
    if not _NUMBER.fullmatch(limit):
        return lambda value: compare(value, pl.lit(limit))

    def compare_numbers(value: pl.Expr) -> pl.Expr:
        number = value.cast(pl.Float64, strict=False)
        return number.is_finite() & compare(number, pl.lit(float(limit)))

    return compare_numbers
