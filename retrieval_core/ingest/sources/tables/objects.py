"""Collect objects, which have a value for each of their keys, as the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

from retrieval_core.ingest.sources.labels import value_text
from retrieval_core.ingest.sources.tables.columns import Columns, header_names
from retrieval_core.ingest.sources.tables.fields import field_of

PAIRS = (("name", "value"), ("key", "value"))
MAX_EXPONENT = 400  # written out, a number has about as many digits
SLICE_ROWS = 10_000  # rows whose Python objects are in memory at once


class ObjectRows:
    """The values of objects as columns of text, in the form that cells of delimited text have."""

    def __init__(self, columns: Columns) -> None:
        self.n_rows = 0
        self._columns = columns
        self._cells: dict[str, list[str | None]] = {}
        self._n_cells = 0  # rows in `_cells`
        self._slices: list[pl.DataFrame] = []
        self._labels = columns.of.get("labels", "labels")
        self._mappings = [columns.of.get(name, name) for name in ("attributes", "fields")]
        self._pictures = columns.pictures or ("image_uri",)
        self._n_pictures = dict.fromkeys(self._pictures, 1)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add an object as a row. Raises `ValueError` for one that has values that no column takes."""
        for name, cell in self._row(values):
            cells = self._cells.setdefault(name, [])
            if len(cells) > self._n_cells:
                raise ValueError(f"the key {name} occurs more than once")
            cells.extend([None] * (self._n_cells - len(cells)))
            cells.append(cell)
        self._n_cells += 1
        self.n_rows += 1
        if self._n_cells == SLICE_ROWS:
            self._flush()

    def columns(self) -> Columns:
        """Return the columns with those of pictures, a list of which takes several; as given when there is no list."""
        if not self._columns.pictures and max(self._n_pictures.values()) == 1:
            return self._columns
        numbered = [name for column, n in self._n_pictures.items() for name in _numbered(column, n)]
        return self._columns._replace(pictures=tuple(numbered))

    def frame(self, keys: Sequence[str] = ()) -> pl.DataFrame:
        """Return the rows; a key that an object lacks is null. Without any object the columns are those of `keys`."""
        self._flush()
        empty = pl.DataFrame(schema=dict.fromkeys(header_names(keys), pl.String))
        return pl.concat(self._slices, how="diagonal") if self._slices else empty

    def _flush(self) -> None:
        if self._n_cells:
            self._cells = self._cells or {"item_id": []}  # objects without a key are rows, too
            self._slices.append(
                pl.DataFrame(
                    {name: pl.Series([*cells, *[None] * (self._n_cells - len(cells))], dtype=pl.String)
                     for name, cells in self._cells.items()}
                )
            )  # fmt: skip
        self._cells, self._n_cells = {}, 0

    def _row(self, values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
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
        if name in self._mappings and isinstance(value, dict | list):
            pairs = _as_object(value)
            return json.dumps(
                {key: _single(f"{name}.{key}", each) for key, each in pairs.items() if each not in ([], {})}
            )
        if field_of(name) and isinstance(value, dict | list):  # shown as it is
            return json.dumps(value, ensure_ascii=False, default=str)
        return None if value is None else _single(name, value)


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


def _numbered(column: str, n: int) -> Sequence[str]:
    return [column + f"[{position}]" * (position > 1) for position in range(1, n + 1)]


def parse_object(line: str) -> dict[str, Any]:
    """Parse a JSON object; its numbers keep their digits. Raises `ValueError` with the reason, `RecursionError`."""
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
