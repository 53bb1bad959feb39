"""Filters such as `category=dress and price < 30`, over the columns, attributes and fields of a catalogue.

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | comparison
    comparison  = name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
                | name [ "not" ] "in" "(" value { "," value } ")"
                | name "is" [ "not" ] "null"

Names and values are bare words of letters, digits and `-_./`, or are quoted with single or double quotes, which are
doubled inside. A name is a column (`COLUMNS`), `label`, or an attribute or field of any item. Text is compared exactly
and is case-sensitive; ids and categories are compared in their normal form (`item_ids`). `<`, `<=`, `>` and `>=`
compare as numbers when the value in the filter is a number; items whose value is not a number then fail. Of several
labels, or several values of one name, one has to match. A missing value fails every comparison but `!=`, `not in` and
`is null`, which are the negations of `=`, `in` and `is not null`.

The value of a field has a kind (`fields.values`). A number in the filter is compared with numbers and with amounts in
any currency, an amount ('30 EUR') with those in its currency, a date with dates, and text with text. `=` and `in` also
find a field by the very text that the shop wrote.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from retrieval_core.errors import BadConfig
from retrieval_core.fields.values import FieldValue, parse_value
from retrieval_core.item_ids.normal_form import NORMAL_COLUMNS, normal_name

COLUMNS = ("item_id", "product_id", "category", "split")
LABEL = "label"
ATTRIBUTES = "attributes"
FIELD = "field."  # begins the name of the column of a field, whose values are structs of the parts of a `FieldValue`
EXAMPLE = "category=dress and colour in (red, blue)"
MAX_CHARS = 4_000
MAX_DEPTH = 50  # of parentheses and `not` inside each other
MAX_NAMES = 40  # listed in a message

_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[\w\-./]+)|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<sign>[!<>]=|[=<>(),]))"""
)
_BARE_WORD = re.compile(r"[\w\-./]+")
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
    sign: str  # one of _ORDER, "in", which "=" becomes too, or "is not null"
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
        """The columns, attributes and fields that the filter names, and `label`."""
        return frozenset(_names(self.tree))

    @property
    def columns(self) -> list[str]:
        """The columns that `mask` needs in its items, sorted."""
        columns = {name if name in COLUMNS else "labels" if name == LABEL else ATTRIBUTES for name in self.names}
        return sorted(columns)

    @property
    def open_names(self) -> frozenset[str]:
        """The names of attributes or fields in the filter."""
        return self.names - {*COLUMNS, LABEL}

    def mask(self, items: pl.DataFrame, fields: Collection[str] = ()) -> pl.Series:
        """Return (n,) bool: which of the n items match. Raises `BadConfig` for a name that no item has.

        `fields` are the names of all fields; those that the filter names are columns `field.NAME` of the items.
        """
        if self.open_names:
            existing = sorted({*attribute_names(items), *fields} - {*COLUMNS, LABEL})
            for name in sorted(self.open_names - set(existing)):
                raise unknown_name(name, [*COLUMNS, LABEL, *existing])
        return items.select(_expression(self.tree, frozenset(items.columns)).alias("is_match")).to_series()


def attribute_names(items: pl.DataFrame) -> list[str]:
    """Return the names of the attributes of these items, sorted, without those that are also names of columns."""
    names = _flat(items[ATTRIBUTES]).struct.field("name").drop_nulls().unique()
    return sorted(set(names) - {*COLUMNS, LABEL})


def one_of_each(choices: Mapping[str, Sequence[str]]) -> str:
    """Return the filter of the items that have, for each name, one of its values; "" for no names."""
    return " and ".join(f"{written(name)} in ({', '.join(map(written, values))})" for name, values in choices.items())


def written(text: str) -> str:
    """Return a name or a value as a filter spells it, in quotes where it has to be."""
    is_bare = _BARE_WORD.fullmatch(text) and text.lower() not in _KEYWORDS
    return text if is_bare else "'" + text.replace("'", "''") + "'"


def unknown_name(name: str, names: Sequence[str]) -> BadConfig:
    """Return the error for a name that the catalogue does not have; `names` are those that it has."""
    nearest = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    return BadConfig(f"the filter asks for {name!r}, which the catalogue does not have; it has {listed}{hint}")


def parse_where(text: str) -> Where:
    """Parse a filter. Raises `BadConfig` with the position of an error and what was expected there."""
    if len(text) > MAX_CHARS:
        raise BadConfig(f"the filter has {len(text):,} characters, expected at most {MAX_CHARS:,}; shorten it")
    return Where(text, _Parser(text).parse())


def _flat(lists: pl.Series) -> pl.Series:
    return lists.explode(empty_as_null=False, keep_nulls=False)


class _Token(NamedTuple):
    kind: str  # word, quoted, sign, or "" at the end
    text: str
    start: int

    @property
    def keyword(self) -> str:
        """The keyword in lower case; "" for any other token."""
        return self.text.lower() if self.kind == "word" and self.text.lower() in _KEYWORDS else ""

    def is_word(self, word: str) -> bool:
        """Return whether this is a bare word, which is no keyword everywhere."""
        return self.kind == "word" and self.text.lower() == word


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
        if self._next.is_word("is"):
            return self._null_test(name)
        if self._next.kind != "sign" or self._next.text not in (*_ORDER, "=", "!="):
            raise self._expected("=, !=, <, <=, >, >=, in, not in, is null or is not null")
        sign = self._take().text
        value = self._value("a value")
        if sign in _ORDER:
            return _Comparison(name, sign, (value,))
        equal = _Comparison(name, "in", (value,))
        return _Not(equal) if sign == "!=" else equal

    def _null_test(self, name: str) -> _Node:
        self._take()
        is_negated = self._next.keyword == "not"
        if is_negated:
            self._take()
        if not self._next.is_word("null"):
            raise self._expected("null" if is_negated else "null or not null")
        self._take()
        has_value = _Comparison(name, "is not null", ())
        return has_value if is_negated else _Not(has_value)

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


def _names(node: _Node) -> Iterator[str]:
    match node:
        case _Comparison():
            yield node.name
        case _Not():
            yield from _names(node.negated)
        case _All() | _Any():
            for part in node.parts:
                yield from _names(part)


def _expression(node: _Node, columns: frozenset[str]) -> pl.Expr:
    """Return whether an item matches, as an expression over these columns that is never null."""
    match node:
        case _Not():
            return ~_expression(node.negated, columns)
        case _All():
            return pl.all_horizontal(*(_expression(part, columns) for part in node.parts))
        case _Any():
            return pl.any_horizontal(*(_expression(part, columns) for part in node.parts))
    is_match = _value_test(node)
    if node.name in COLUMNS:
        return is_match(pl.col(node.name)).fill_null(False)
    element = pl.element()
    if node.name == LABEL:
        return pl.col("labels").list.eval(is_match(element)).list.any().fill_null(False)
    has_name = element.struct.field("name") == node.name
    of_attributes = pl.col(ATTRIBUTES).list.eval(has_name & is_match(element.struct.field("value"))).list.any()
    field = FIELD + node.name
    of_fields = [_field_test(node, pl.col(field).struct.field)] if field in columns else []
    return pl.any_horizontal(of_attributes.fill_null(False), *(test.fill_null(False) for test in of_fields))


def _value_test(node: _Comparison) -> Callable[[pl.Expr], pl.Expr]:
    """Return a function from a value to whether it passes the comparison."""
    if node.sign == "is not null":
        return lambda value: value.is_not_null()
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


def _field_test(node: _Comparison, part: Callable[[str], pl.Expr]) -> pl.Expr:
    """Return whether a field passes the comparison; `part` returns a part of its value."""
    if node.sign == "is not null":
        return part("text").is_not_null()
    if node.sign == "in":
        is_equal = [_compare_field(operator.eq, value, part) for value in node.values]
        return pl.any_horizontal(part("text").is_in(node.values), *is_equal)
    return _compare_field(_ORDER[node.sign], node.values[0], part)


def _compare_field(
    compare: Callable[[pl.Expr, pl.Expr], pl.Expr], text: str, part: Callable[[str], pl.Expr]
) -> pl.Expr:
    """Return whether a field compares so with the value of a text, which must be of the same kind."""
    value = FieldValue(text, float(text)) if _NUMBER.fullmatch(text) else parse_value(text)
    if value.number is not None:
        is_match = compare(part("number"), pl.lit(value.number))
        return is_match & (part("currency") == value.currency) if value.currency else is_match
    if value.moment is not None:
        return compare(part("moment"), pl.lit(value.moment))
    return part("number").is_null() & part("moment").is_null() & compare(part("text"), pl.lit(text))
