"""Cells of tables as text and as lists of text, column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

from retrieval_core.ingest.sources.labels import bytes_text, value_text

# The largest floats up to which no two whole numbers are one float.
MAX_EXACT_FLOAT: dict[type[pl.DataType] | pl.DataType, int] = {pl.Float16: 2**11, pl.Float32: 2**24, pl.Float64: 2**53}
SLICE_ROWS = 100_000  # rows whose Python objects are in memory at once


def text_column(column: pl.Series) -> pl.Series:
    """Return single values as text: whole numbers without a point, NaN as null, bytes as UTF-8 text or as UUIDs.

    Raises `ValueError`, which names the type, for other values.
    """
    if column.dtype == pl.String:
        return column
    if column.dtype.is_float():
        column = column.fill_nan(None)
        inexact = column.filter((column.round() != column) | (column.abs() > MAX_EXACT_FLOAT[column.dtype]))
        if len(inexact):
            raise ValueError(f"{column.dtype} with the number {inexact[0]}")
    return single_values(column)


def single_values(column: pl.Series) -> pl.Series:
    """Return single values as text. Raises `ValueError`, which names the type, for lists, mappings and other bytes."""
    dtype = column.dtype
    if dtype.is_nested() or dtype == pl.Object:
        raise ValueError(f"{dtype}")
    if dtype == pl.Binary:
        try:
            texts = iter(bytes_text(column.drop_nulls().to_list()))
        except ValueError as error:
            raise ValueError(f"{dtype} with {error}") from error
        return pl.Series([None if is_null else next(texts) for is_null in column.is_null()], dtype=pl.String)
    if (
        isinstance(dtype, pl.Datetime | pl.Time) and (column.dt.nanosecond() % 1000 > 0).any()
    ):  # Python has microseconds
        return column.dt.to_string(
            "%T%.f" if isinstance(dtype, pl.Time) else "%F %T%.f" + "%:z" * bool(dtype.time_zone)
        )
    if dtype in (pl.Float16, pl.Float32):  # over text, because as a 64-bit float it has the digits of its error
        column = column.cast(pl.String).cast(pl.Float64)
    return read_texts(column, value_text)


def read_texts(column: pl.Series, read: Callable[[Any], str]) -> pl.Series:
    """Apply `read` to each distinct value of a column; null stays null."""
    return _read(column, lambda cells: _texts(cells, read))


def read_lists(column: pl.Series, read: Callable[[Any], Sequence[Any]], dtype: pl.List) -> pl.Series:
    """Apply `read` to each cell, null too; `dtype` is a list of text or of structs of text."""
    return _read(column, lambda cells: list_column([read(cell) for cell in cells], dtype))


def as_lists(rows: pl.Series, values: pl.Series, n_rows: int) -> pl.Series:
    """Return (n_rows,) lists of the `values` of each row, in their order; `rows` holds the row number of each value."""
    given = (
        pl.DataFrame({"row": rows.cast(pl.UInt32), "value": values}).group_by("row", maintain_order=True).agg("value")
    )
    every = pl.select(row=pl.int_range(n_rows, dtype=pl.UInt32))
    lists = every.join(given, on="row", how="left", maintain_order="left")
    return lists.select(pl.col("value").fill_null(pl.lit([], pl.List(values.dtype)))).to_series()


def _read(column: pl.Series, read: Callable[[Sequence[Any]], pl.Series]) -> pl.Series:
    if column.dtype.is_nested():  # distinct nested values are costly to find
        return pl.concat([read(cells) for cells in _slices(column)])
    cells = column.cast(pl.String) if column.dtype == pl.Null else column
    distinct = cells.unique(maintain_order=True)
    by_cell = pl.DataFrame({"cell": distinct, "read": pl.concat([read(part) for part in _slices(distinct)])})
    frame = pl.DataFrame({"cell": cells})
    return frame.join(by_cell, on="cell", how="left", nulls_equal=True, maintain_order="left")["read"]


def _slices(column: pl.Series) -> Iterator[Sequence[Any]]:
    return (column[start : start + SLICE_ROWS].to_list() for start in range(0, len(column), SLICE_ROWS))


def _texts(cells: Sequence[Any], read: Callable[[Any], str]) -> pl.Series:
    return pl.Series([None if cell is None else read(cell) for cell in cells], dtype=pl.String)


def list_column(lists: Sequence[Sequence[Any]], dtype: pl.List) -> pl.Series:
    """Return a column of lists, built from a flat column: building each list by itself takes 100 times as long."""
    rows = pl.Series([row for row, values in enumerate(lists) for _ in values], dtype=pl.UInt32)
    flat = [value for values in lists for value in values]
    if isinstance(dtype.inner, pl.Struct):
        fields = [
            pl.Series(field.name, [value[field.name] for value in flat], field.dtype) for field in dtype.inner.fields
        ]
        return as_lists(rows, pl.DataFrame(fields).to_struct(), len(lists))
    return as_lists(rows, pl.Series(flat, dtype=dtype.inner), len(lists))
