"""Cells of a table read by plain functions, fast and in bounded memory: each distinct one once, a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

SLICE_ROWS = 100_000  # whose Python objects are in memory together


def read_texts(column: pl.Series, read: Callable[[Any], str]) -> pl.Series:
    """What `read` makes of each single value of a column; null stays null."""
    return _read(column, lambda cells: _texts(cells, read))


def read_lists(column: pl.Series, read: Callable[[Any], Sequence[Any]], dtype: pl.List) -> pl.Series:
    """The list that `read` makes of each cell, null too; `dtype` is of lists of text, or of structs of text."""
    return _read(column, lambda cells: _lists([read(cell) for cell in cells], dtype))


def as_lists(rows: pl.Series, values: pl.Series, n_rows: int) -> pl.Series:
    """(n_rows,) the `values` of each row in one list, in their order; `rows` says in which row each value stands."""
    given = (
        pl.DataFrame({"row": rows.cast(pl.UInt32), "value": values}).group_by("row", maintain_order=True).agg("value")
    )
    every = pl.select(row=pl.int_range(n_rows, dtype=pl.UInt32))
    lists = every.join(given, on="row", how="left", maintain_order="left")
    return lists.select(pl.col("value").fill_null(pl.lit([], pl.List(values.dtype)))).to_series()


def _read(column: pl.Series, read: Callable[[Sequence[Any]], pl.Series]) -> pl.Series:
    if column.dtype.is_nested():  # has no order, so that distinct ones are hard to find
        return pl.concat([read(cells) for cells in _slices(column)])
    cells = column.cast(pl.String) if column.dtype == pl.Null else column
    distinct = cells.unique(maintain_order=True)
    known = pl.DataFrame({"cell": distinct, "read": pl.concat([read(part) for part in _slices(distinct)])})
    asked = pl.DataFrame({"cell": cells})
    return asked.join(known, on="cell", how="left", nulls_equal=True, maintain_order="left")["read"]


def _slices(column: pl.Series) -> Iterator[Sequence[Any]]:
    return (column[start : start + SLICE_ROWS].to_list() for start in range(0, len(column), SLICE_ROWS))


def _texts(cells: Sequence[Any], read: Callable[[Any], str]) -> pl.Series:
    return pl.Series([None if cell is None else read(cell) for cell in cells], dtype=pl.String)


def _lists(lists: Sequence[Sequence[Any]], dtype: pl.List) -> pl.Series:
    """Python's lists as a column, made of a flat one: polars would make each list by itself, a hundred times slower."""
    rows = pl.Series([row for row, values in enumerate(lists) for _ in values], dtype=pl.UInt32)
    flat = [value for values in lists for value in values]
    if isinstance(dtype.inner, pl.Struct):
        fields = [
            pl.Series(field.name, [value[field.name] for value in flat], field.dtype) for field in dtype.inner.fields
        ]
        return as_lists(rows, pl.DataFrame(fields).to_struct(), len(lists))
    return as_lists(rows, pl.Series(flat, dtype=dtype.inner), len(lists))
