"""`jsonl:FILE`: one JSON object a line, perhaps in gzip, whose keys are the columns of a table."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.feeds.feed import GZIP_ERRORS, open_text
from retrieval_core.ingest.sources.labels import value_text
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.columns import Columns, header_names
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, decode_text
from retrieval_core.ingest.sources.tables.table import PAIRS, TableSource, read_whole

MAX_EXPONENT = 400  # written out, a number has about as many digits


class JsonlSource(TableSource):
    """A manifest in JSON Lines: its keys are columns as in a table, also with `FILE?item_id=sku&image_uri=image`.

    Labels are a list or text as in a table, attributes an object or a list of name-value objects. A list of addresses
    as image_uri is that many pictures of one product.
    """

    kind = "jsonl"

    def _parsed_file(self) -> DelimitedTable:
        try:
            with open_text(self._uri, self.spec) as stream:
                text, encoding = decode_text(read_whole(stream))
        except (*GZIP_ERRORS, ValueError) as error:
            raise CatalogInvalid(f"{self.spec} cannot be read: {error}; export it again") from error
        objects = _Objects(self._columns)
        for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
            if line.strip():
                try:
                    objects.add(line)
                except (ValueError, RecursionError) as error:
                    raise CatalogInvalid(f"{self.spec}, line {number}: {str(error)[:300]}") from error
        if not objects.n_rows:
            raise SourceMissing(f"{self.spec} is empty; expected at least one picture")
        self._columns = self._columns._replace(pictures=objects.picture_columns())
        return DelimitedTable(objects.frame(), f"{counted(objects.n_rows, 'row')} of JSON in {encoding}")


class _Objects:
    """The values of JSON objects as columns of text, in the form that cells of delimited text have."""

    def __init__(self, columns: Columns) -> None:
        self.n_rows = 0
        self._columns = columns
        self._cells: dict[str, list[str | None]] = {}
        self._labels, self._attributes = (columns.of.get(name, name) for name in ("labels", "attributes"))
        self._pictures = columns.pictures or ("image_uri",)
        self._n_pictures = dict.fromkeys(self._pictures, 1)

    def add(self, line: str) -> None:
        """Add a line as a row. Raises `ValueError` for one that is no object, or has values that no column takes."""
        for name, cell in self._row(_parse(line)):
            cells = self._cells.setdefault(name, [])
            if len(cells) > self.n_rows:
                raise ValueError(f"the key {name} occurs more than once")
            cells.extend([None] * (self.n_rows - len(cells)))
            cells.append(cell)
        self.n_rows += 1

    def picture_columns(self) -> tuple[str, ...]:
        """Return the columns of pictures, those of a list after one another; as given when no object has a list."""
        if not self._columns.pictures and max(self._n_pictures.values()) == 1:
            return ()
        return tuple(name for column, n in self._n_pictures.items() for name in _numbered(column, n))

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(
            {name: pl.Series([*cells, *[None] * (self.n_rows - len(cells))], dtype=pl.String)
             for name, cells in self._cells.items()}
        )  # fmt: skip

    def _row(self, values: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
        for name, key in zip(header_names([*values]), values, strict=True):
            value = values[key]
            if not self._columns.is_used(name):
                yield name, None
            elif name in self._pictures and isinstance(value, list):
                self._n_pictures[name] = max(self._n_pictures[name], len(value))
                yield from zip(_numbered(name, len(value)), (_single(name, each) for each in value), strict=True)
            else:
                yield name, self._cell(name, value)

    def _cell(self, name: str, value: Any) -> str | None:
        if name == self._labels and isinstance(value, list):
            return json.dumps([_single(name, label) for label in value])
        if name == self._attributes and isinstance(value, dict | list):
            pairs = _as_object(value)
            return json.dumps(
                {key: _single(f"{name}.{key}", each) for key, each in pairs.items() if each not in ([], {})}
            )
        return None if value is None else _single(name, value)


def _parse(line: str) -> dict[str, Any]:
    try:
        value = json.loads(
            line.removeprefix("\ufeff"), parse_float=_number, parse_constant=_refuse, object_pairs_hook=_unrepeated
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, or cut off: {error.msg}") from error
    if "\\ud" in line.casefold():  # may be half of a surrogate pair, which no column can hold
        json.dumps(value, ensure_ascii=False, default=str).encode()
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"item_id": "1", "image_uri": "1.jpg"}')
    return value


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > MAX_EXPONENT:
        raise ValueError(f"the number {text[:40]} is too large or too small")
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON: {constant}")


def _unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"an object has one key twice: {', '.join(key for key, _ in pairs)}")
    return values


def _as_object(value: dict[str, Any] | list[Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not all(isinstance(pair, dict) and {*pair} in map(set, PAIRS) for pair in value):
        raise ValueError("attributes are a list; expected an object, or a list of objects with name and value")
    return {value_text(pair.get("name", pair.get("key"))): pair["value"] for pair in value}


def _single(name: str, value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError(f"{name} has several values; expected one")
    return value_text(value)


def _numbered(column: str, n: int) -> list[str]:
    return [column + f"[{position}]" * (position > 1) for position in range(1, n + 1)]
