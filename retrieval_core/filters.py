"""The language of filters: `category=dress and colour in (red, blue)`, over the catalogue's columns and attributes.

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | comparison
    comparison  = name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
                | name [ "not" ] "in" "(" value { "," value } ")"

Names and values are bare words of letters, digits and `-_./`, or stand in single or double quotes, which are doubled
inside. A name is a column (`COLUMNS`), else `label`, else an attribute of any item. Text compares exactly, upper case
apart from lower; where a value and what it is compared with by `<` and its like both read as numbers, they compare as
such. Of several labels, or several values of one attribute, one has to fit. What is missing equals nothing: it fails
every comparison, and passes `!=` and `not in`, which are the opposites of `=` and `in`.
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

COLUMNS = ("item_id", "product_id", "category", "split")
LABEL = "label"
ATTRIBUTES = "attributes"
VALUE_COLUMNS = ["category", "split", "labels", ATTRIBUTES]
EXAMPLE = "category=dress and colour in (red, blue)"
MAX_CHARS = 4_000
MAX_DEPTH = 50  # of parentheses and `not` inside each other
MAX_NAMES = 40  # listed in a message
MAX_VALUES = 50  # of one name, listed for those who choose

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
    sign: str  # one of _ORDER, or "in", which also stands for "="
    values: tuple[str, ...]


class _Not(NamedTuple):
    inside: _Node


class _All(NamedTuple):
    parts: tuple[_Node, ...]


class _Any(NamedTuple):
    parts: tuple[_Node, ...]


_Node = _Comparison | _Not | _All | _Any


@dataclass(frozen=True)
class Where:
    """A filter that was understood; whether the names in it exist shows when it meets the items."""

    text: str
    tree: _Node

    @property
    def names(self) -> frozenset[str]:
        """What it asks for: columns, `label`, attributes."""
        return frozenset(_names(self.tree))

    @property
    def columns(self) -> list[str]:
        """The catalogue's columns that `mask` has to find in its items."""
        columns = {name if name in COLUMNS else "labels" if name == LABEL else ATTRIBUTES for name in self.names}
        return sorted(columns)

    def mask(self, items: pl.DataFrame) -> pl.Series:
        """(n,) bool: which of n items of a catalogue fit. Raises `BadConfig` for a name that none of them has."""
        asked = self.names - {*COLUMNS, LABEL}
        if asked:
            known = attribute_names(items)
            for name in sorted(asked - set(known)):
                raise BadConfig(_unknown(name, [*COLUMNS, LABEL, *known]))
        return items.select(_expression(self.tree).alias("fits")).to_series()


def attribute_names(items: pl.DataFrame) -> list[str]:
    """The names of all attributes of these items, sorted; those that a column's name hides are left out."""
    names = _flat(items[ATTRIBUTES]).struct.field("name").drop_nulls().unique()
    return sorted(set(names) - {*COLUMNS, LABEL})


def commonest_values(items: pl.DataFrame) -> dict[str, list[str]]:
    """What a filter can name in items of these `VALUE_COLUMNS`, with the commonest values of each, the commonest first.

    The ids, of which every item has its own or nearly so, go without.
    """
    named = {name: items[name] for name in ("category", "split")} | {LABEL: _flat(items["labels"])}
    attributes = _flat(items[ATTRIBUTES]).struct.unnest()
    named |= {name: attributes.filter(pl.col("name") == name)["value"] for name in attribute_names(items)}
    return {name: [] for name in COLUMNS} | {name: _commonest(values) for name, values in named.items()}


def parse_where(text: str) -> Where:
    """Understand a filter. Raises `BadConfig` with the place and what was expected there."""
    if len(text) > MAX_CHARS:
        raise BadConfig(
            f"the filter has {len(text):,} characters, expected at most {MAX_CHARS:,}; ask for less at once"
        )
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
        """The keyword in lower case, "" for anything else."""
        return self.text.lower() if self.kind == "word" and self.text.lower() in _KEYWORDS else ""


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def parse(self) -> _Node:
        tree = self._either(0)
        if self._next.kind:
            raise self._expected("and, or, or the end")
        return tree

    def _either(self, depth: int) -> _Node:
        parts = [self._both(depth)]
        while self._next.keyword == "or":
            self._take()
            parts.append(self._both(depth))
        return _Any(tuple(parts)) if len(parts) > 1 else parts[0]

    def _both(self, depth: int) -> _Node:
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
            inside = self._either(depth + 1)
            self._sign(")", "and, or, or ')'")
            return inside
        return self._comparison()

    def _comparison(self) -> _Node:
        name = self._value("a name")
        if self._next.keyword in ("not", "in"):
            negated = self._take().keyword == "not"
            if negated:
                self._keyword("in")
            found = _Comparison(name, "in", self._values())
            return _Not(found) if negated else found
        if self._next.kind != "sign" or self._next.text not in (*_ORDER, "=", "!="):
            raise self._expected("=, !=, <, <=, >, >=, in or not in")
        sign = self._take().text
        value = self._value("a value")
        if sign in _ORDER:
            return _Comparison(name, sign, (value,))
        equal = _Comparison(name, "in", (value,))
        return _Not(equal) if sign == "!=" else equal

    def _values(self) -> tuple[str, ...]:
        self._sign("(", "'('")
        values = [self._value("a value")]
        while self._next.kind == "sign" and self._next.text == ",":
            self._take()
            values.append(self._value("a value"))
        self._sign(")", "',' or ')'")
        return tuple(values)

    def _value(self, what: str) -> str:
        if self._next.keyword:
            raise self._expected(f"{what} (in quotes where it reads {self._next.keyword})")
        if self._next.kind not in ("word", "quoted"):
            raise self._expected(what)
        token = self._take()
        if token.kind == "word":
            return token.text
        quote = token.text[0]
        return token.text[1:-1].replace(quote * 2, quote)

    def _sign(self, sign: str, what: str) -> None:
        if self._next.kind != "sign" or self._next.text != sign:
            raise self._expected(what)
        self._take()

    def _keyword(self, keyword: str) -> None:
        if self._next.keyword != keyword:
            raise self._expected(keyword)
        self._take()

    def _take(self) -> _Token:
        taken, self._next = self._next, next(self._tokens)
        return taken

    def _expected(self, what: str) -> BadConfig:
        seen = repr(self._next.text) if self._next.kind else "the end"
        return _misread(self._next.start, what, seen)


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of a text, then one of the kind "" for good."""
    place, end = 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            start = end - len(text[place:end].lstrip())
            expected = "a closing quote" if text[start] in "'\"" else "a name, a value or a sign"
            raise _misread(start, expected, repr(text[start : start + 12]))
        kind = found.lastgroup or ""
        yield _Token(kind, found[kind], found.start(kind))
        place = found.end()
    while True:
        yield _Token("", "", end)


def _misread(place: int, what: str, seen: str) -> BadConfig:
    return BadConfig(f"cannot read the filter at character {place + 1}: expected {what}, got {seen}; e.g. {EXAMPLE}")


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(known[:MAX_NAMES]) + (f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else "")
    return f"the filter asks for {name!r}, which the catalogue does not have; it has {listed}{hint}"


def _names(node: _Node) -> Iterator[str]:
    match node:
        case _Comparison():
            yield node.name
        case _Not():
            yield from _names(node.inside)
        case _All() | _Any():
            for part in node.parts:
                yield from _names(part)


def _expression(node: _Node) -> pl.Expr:
    """Whether an item fits, never null."""
    match node:
        case _Not():
            return ~_expression(node.inside)
        case _All():
            return pl.all_horizontal(*map(_expression, node.parts))
        case _Any():
            return pl.any_horizontal(*map(_expression, node.parts))
    fits = _value_fits(node)
    if node.name in COLUMNS:
        return fits(pl.col(node.name)).fill_null(False)
    element = pl.element()
    if node.name == LABEL:
        return pl.col("labels").list.eval(fits(element)).list.any().fill_null(False)
    named = element.struct.field("name") == node.name
    return pl.col(ATTRIBUTES).list.eval(named & fits(element.struct.field("value"))).list.any().fill_null(False)


def _value_fits(node: _Comparison) -> Callable[[pl.Expr], pl.Expr]:
    """What a comparison asks of one value."""
    if node.sign == "in":
        return lambda value: value.is_in(list(node.values))
    compare, (asked,) = _ORDER[node.sign], node.values
    if not _NUMBER.fullmatch(asked):
        return lambda value: compare(value, pl.lit(asked))
    limit = pl.lit(float(asked))

    def fits(value: pl.Expr) -> pl.Expr:
        number = value.cast(pl.Float64, strict=False)
        return number.is_finite() & compare(number, limit)

    return fits
