"""Read Parquet files as data frames and query engines write them, every value exactly or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval_core.artifacts.mapped_rows import in_batches, map_arrow, mapped, parquet_batches
from retrieval_core.ingest.sources.tables.columns import UNNAMED, Columns, header_names

FIRST_DAY, END_DAY = -719_162, 2_932_897  # the years 1 to 9999, which Python has, as days since 1970-01-01
EXTENSION = b"ARROW:extension:name"
PER_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}


def read_parquet(data: bytes, columns: Columns = UNNAMED) -> pl.DataFrame:
    """Return the table in a Parquet file, mapped; columns that are not used are null, whatever they hold.

    Dictionaries become their values, UUIDs and JSON text, 32-bit floats the decimal numbers that they were written as,
    and a column of NaN alone is null. Raises `ValueError`, which names the column and its type, for values that cannot
    be read exactly, and what Arrow raises for a damaged file.
    """
    # Spark writes times as INT96, which Arrow reads in nanoseconds: years after 2262 would wrap around.
    file = pq.ParquetFile(io.BytesIO(data), coerce_int96_timestamp_unit="us")
    headers = file.schema_arrow.names
    names = columns.names(headers)
    nulls = pl.repeat(None, file.metadata.num_rows, dtype=pl.Null, eager=True)
    series = dict.fromkeys(names, nulls)
    used = (header for header, name in zip(headers, names, strict=True) if columns.is_used(name))
    for table in (_read_column(file, header) for header in dict.fromkeys(used)):
        for field, column in zip(table.schema, table.columns, strict=True):
            (name,) = header_names([field.name])
            if extension := (field.metadata or {}).get(EXTENSION):  # its meaning is not in the values: pandas.period
                raise ValueError(f"column {name} is {extension.decode()}, which is unknown here; save it as text")
            try:
                read = _as_series(column).to_frame(name)
            except (pa.ArrowException, pl.exceptions.PolarsError, NotImplementedError) as error:
                raise ValueError(f"column {name} is {column.type}: {str(error).splitlines()[0]}") from error
            series[name] = mapped(in_batches(read)).to_series()
    return pl.DataFrame(series)


def _read_column(file: pq.ParquetFile, header: str) -> pa.Table:
    """Return a column, or those of one name; one alone is mapped, unless its values lie in a dictionary, each once."""
    places = file.schema_arrow.get_all_field_indices(header)
    if len(places) > 1 or "dictionary" in str(file.schema_arrow.field(places[0]).type):
        return file.read([header])
    return map_arrow(parquet_batches(file, [header]))


def _as_series(column: pa.ChunkedArray) -> pl.Series:
    """Raises `pa.ArrowException` or `pl.exceptions.PolarsError` for values that cannot be read exactly."""
    nulls = pl.repeat(None, len(column), dtype=pl.Null, eager=True)
    if column.null_count == len(column):
        return nulls
    if isinstance(column.type, pa.UuidType):
        return pl.Series([value and str(value) for value in column.to_pylist()], dtype=pl.String)
    column.validate(full=True)
    is_nested = column.type.num_fields > 0
    column = _cast(column, _mapped(column.type, lambda kind: _plain_leaf(kind, is_nested)))
    for chunk in column.chunks:
        for leaf in _leaves(chunk):
            _check_days(leaf)
    if is_nested:  # 32-bit floats over text, because as 64-bit floats they have the digits of their error
        kinds = [_mapped(column.type, partial(_float32_as, kind)) for kind in (pa.string(), pa.float64())]
        column = _cast(_cast(column, kinds[0]), kinds[1])
    series = pl.Series(pl.from_arrow(column))
    return nulls if series.dtype.is_float() and series.is_nan().all() else series


def _float32_as(substitute: pa.DataType, kind: pa.DataType) -> pa.DataType:
    return substitute if pa.types.is_float32(kind) else kind


def _plain_leaf(kind: pa.DataType, is_nested: bool) -> pa.DataType:
    """Return the type in which polars and Python represent the same values exactly."""
    if isinstance(kind, pa.BaseExtensionType) and not is_nested:
        return kind.storage_type
    if pa.types.is_decimal(kind):
        return pa.decimal128(38, kind.scale)
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if is_nested and pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if is_nested and pa.types.is_time64(kind):
        return pa.time64("us")
    return kind


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if kind == column.type else column.cast(kind)


def _mapped(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type with `leaf` applied to the types of its single values, without dictionaries."""
    if pa.types.is_dictionary(kind):
        return _mapped(kind.value_type, leaf)
    if pa.types.is_map(kind):
        return pa.map_(_mapped(kind.key_type, leaf), _mapped(kind.item_type, leaf))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_mapped(field.type, leaf)) for field in kind])
    if kind.num_fields == 1:
        return pa.large_list(_mapped(kind.value_type, leaf))
    return leaf(kind)


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the arrays of single values in an array of any type."""
    if pa.types.is_map(array.type):
        children = [array.keys, array.items]
    elif array.type.num_fields:
        children = array.flatten() if pa.types.is_struct(array.type) else [array.flatten()]
    else:
        yield array
        return
    for child in children:
        yield from _leaves(child)


def _check_days(leaf: pa.Array) -> None:
    """Raise `pa.ArrowInvalid` for a date before the year 1 or after 9999."""
    kind, margin = leaf.type, 0
    if pa.types.is_timestamp(kind):
        per_day, margin = PER_DAY[kind.unit], int(kind.tz not in (None, "UTC"))
    elif pa.types.is_date(kind):
        per_day = 1 if pa.types.is_date32(kind) else PER_DAY["ms"]
    else:
        return
    low, high = pc.min_max(leaf.view(f"int{kind.bit_width}")).as_py().values()
    if low is not None and not (FIRST_DAY + margin) * per_day <= low <= high < (END_DAY - margin) * per_day:
        raise pa.ArrowInvalid("a date is not in the years 1 to 9999")
