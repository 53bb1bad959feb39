"""`table:FILE`: a manifest in CSV, TSV (also with gzip) or Parquet, at any URI, a row for each picture."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, cast

import polars as pl

from retrieval_core import images
from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import conform
from retrieval_core.ingest.sources.files import absolute_uri
from retrieval_core.ingest.sources.labels import (
    attributes_of,
    bytes_text,
    normalise_labels,
    parse_attributes,
    parse_labels,
    value_text,
)
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.columns import (
    ATTRIBUTE_PREFIXES,
    UNNAMED,
    Columns,
    one_row_a_picture,
    split_columns,
)
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, read_delimited
from retrieval_core.ingest.sources.tables.objects import PAIRS
from retrieval_core.ingest.sources.tables.parquet import read_parquet
from retrieval_core.store.uris import folder_of, is_http, label_of, read_uri

TEXT_SUFFIXES = (".csv", ".tsv")
GZIP = b"\x1f\x8b"  # the first bytes of a file in gzip
GZIP_SUFFIXES = tuple(f"{suffix}.gz" for suffix in TEXT_SUFFIXES)
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *GZIP_SUFFIXES, ".parquet", ".pq")
MAX_TEXT_BYTES = 2**32  # that a small gzip may unpack to
# The largest floats up to which no two whole numbers are one float.
MAX_EXACT_FLOAT: dict[type[pl.DataType] | pl.DataType, int] = {pl.Float16: 2**11, pl.Float32: 2**24, pl.Float64: 2**53}
SLICE_ROWS = 100_000  # rows whose Python objects are in memory at once

TEXT_TYPES = (pl.String, pl.Binary, pl.Null)
TEXT_COLUMNS = ("item_id", "image_uri", "product_id", "category", "split", "mask_uri")
URI_COLUMNS = ("image_uri", "mask_uri")
# What a web server calls a table whose address does not end in a suffix.
SUFFIX_OF_TYPE = {"text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/vnd.apache.parquet": ".parquet"}
WEB_ADDRESS = r"(?i)^https?://"
LOGIN = r"^\w+://[^/?#]*@"
S3_OBJECT = r"^s3://[A-Za-z0-9][A-Za-z0-9._-]+/."
PARENT_FOLDER = r"(^|/)\.\.(/|$)"


class TableSource:
    """A manifest with item_id and image_uri, and optionally product_id, category, split, mask_uri, labels, attributes.

    Labels are `a|b` or a JSON list, in Parquet also a list of values. Attributes are a JSON object, in Parquet also a
    map, a struct or a list of name-value or key-value structs, or one column each, named `attr_…` or `attributes.…`. In
    Parquet, NaN is an empty cell, whole floats are whole numbers, and 16 bytes that are no text are a UUID. A relative
    URI starts at the table's folder and stays below it; a table on S3 or a web server may not name local files. A mask
    is a picture that is bright on the product.

    `FILE?item_id=sku&image_uri=image_url` says which of the table's columns these are. Of several columns of pictures,
    each picture is an item of the same product.

    Raises `SourceMissing` for an absent or empty table, `CatalogInvalid` for one that cannot be read or lacks a column.
    """

    kind: ClassVar[str] = "table"
    options: ClassVar[tuple[str, ...]] = ()  # further keys of the query
    n_passed_over: int = 0

    def __init__(self, uri: str) -> None:
        self.spec = f"{self.kind}:{label_of(uri) if is_http(uri) else uri}"
        file, self._columns = split_columns(uri, self.spec, self.options)
        self._uri = absolute_uri(file)
        self._table = self._read()

    def rows(self) -> pl.DataFrame:
        rows = conform(self._frame(), self.spec)
        return rows.with_columns(self._resolved(rows, name) for name in URI_COLUMNS)

    def read_mask(self, mask_uri: str) -> Bool:
        brightness = images.decode(read_uri(mask_uri)).max(axis=2)
        # Compare with half the brightest value, so that masks of 0 and 1 are read like masks of 0 and 255.
        return brightness > brightness.max() // 2

    def _frame(self) -> pl.DataFrame:
        """Return a row for each picture, with the columns of a catalogue that the table has."""
        columns = [self._text(name) for name in TEXT_COLUMNS if name in self._table.columns]
        frame = pl.DataFrame([*columns, self._labels(), self._attributes()])
        others = [self._text(name) for name in self._columns.pictures[1:]]
        return one_row_a_picture(frame, others) if others else frame

    def _read(self) -> pl.DataFrame:
        try:
            table, note = self._parsed_file()
        except NotFound as error:
            raise SourceMissing(f"{self.spec}: there is no file {label_of(self._uri)}; check the path") from error
        if table.is_empty():
            raise SourceMissing(f"{self.spec} has no rows; expected at least one picture")
        self.notes = (note, *self._columns.notes(table.columns))
        return self._columns.apply(table, self.spec)

    def _parsed_file(self) -> DelimitedTable:
        return read_table(self._uri, self.spec, self._columns)

    def _text(self, name: str) -> pl.Series:
        """Return a column of single values as trimmed text."""
        try:
            return text_column(self._table[name]).str.strip_chars().alias(name)
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec}: column {name} is {error}; expected text") from error

    def _labels(self) -> pl.Series:
        if "labels" not in self._table.columns:
            return self._empty("labels")
        column = self._table["labels"]
        if column.dtype in TEXT_TYPES:
            return self._parsed(self._text("labels"), parse_labels)
        if isinstance(column.dtype, pl.List | pl.Array) and not column.dtype.inner.is_nested():
            return self._parsed(column, lambda cell: normalise_labels(map(value_text, cell or ())))
        raise CatalogInvalid(f"{self.spec}: column labels is {column.dtype}; expected text or a list of text")

    def _attributes(self) -> pl.Series:
        """Merge the `attributes` column and the prefixed columns; of two with one name the prefixed column wins."""
        cells = pl.DataFrame({"row": pl.int_range(self._table.height, eager=True), "cell": self._attribute_cells()})
        from_cells = cells.explode("cell").select("row", pl.col("cell").struct.field("name", "value"))
        columns = [self._prefixed(name, prefix) for name in self._table.columns if (prefix := _prefix_of(name))]
        every = pl.concat([from_cells.drop_nulls("name"), *columns])
        last = every.unique(["row", "name"], keep="last", maintain_order=True).sort("row", "name")
        trimmed = last.with_columns(pl.col("name", "value").str.strip_chars())
        given = trimmed.filter(pl.col("name") != "", pl.col("value") != "")
        return as_lists(given["row"], given.select("name", "value").to_struct(), self._table.height).alias("attributes")

    def _prefixed(self, column: str, prefix: str) -> pl.DataFrame:
        """Return row, name and value for each value of a prefixed column that is not null."""
        try:
            values = _single_values(self._table[column])
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec}: column {column} is {error}; expected single values") from error
        return (
            pl.DataFrame({"value": values})
            .select(
                pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
                pl.lit(column.removeprefix(prefix)).alias("name"),
                "value",
            )
            .drop_nulls("value")
        )

    def _attribute_cells(self) -> pl.Series:
        if "attributes" not in self._table.columns:
            return self._empty("attributes")
        column = self._table["attributes"]
        if column.dtype in TEXT_TYPES:
            return self._parsed(self._text("attributes"), parse_attributes)
        if isinstance(column.dtype, pl.Struct | pl.Map):
            return self._parsed(column, lambda cell: attributes_of(cell or {}))
        if fields := _pair_fields(column.dtype):
            return self._parsed(
                column, lambda cell: attributes_of({pair[fields[0]]: pair[fields[1]] for pair in cell or () if pair})
            )
        raise CatalogInvalid(f"{self.spec}: column attributes is {column.dtype}; expected a JSON object or a struct")

    def _empty(self, name: str) -> pl.Series:
        return pl.Series(name, [[]], SOURCE_SCHEMA[name]).new_from_index(0, self._table.height)

    def _parsed(self, column: pl.Series, parse: Callable[[Any], list[Any]]) -> pl.Series:
        def parsed(cell: Any) -> list[Any]:
            try:
                return parse(cell)
            except ValueError as error:
                item_id = str(self._table["item_id"][column.to_list().index(cell)])[:80]
                raise CatalogInvalid(
                    f"{self.spec}: item {item_id!r}, {column.name} {str(cell)[:80]!r}: {error}"
                ) from error

        return read_lists(column, parsed, cast(pl.List, SOURCE_SCHEMA[column.name])).alias(column.name)

    def _resolved(self, rows: pl.DataFrame, name: str) -> pl.Series:
        """Return a column's URIs, with relative ones placed below the table's folder. Raises `CatalogInvalid`."""
        uri = pl.col(name)
        is_s3, is_web, is_local = uri.str.starts_with("s3://"), uri.str.contains(WEB_ADDRESS), uri.str.starts_with("/")
        is_relative = ~is_s3 & ~is_web & ~is_local
        self._refuse(rows, name, is_relative & uri.str.contains("://", literal=True), "a path, s3:// or https://")
        self._refuse(rows, name, is_s3 & ~uri.str.contains(S3_OBJECT), "s3://bucket/key")
        self._refuse(rows, name, is_web & uri.str.contains(LOGIN), "an address without user and password")
        self._refuse(
            rows, name, is_relative & uri.str.contains(PARENT_FOLDER), "a path below the table's folder, without .."
        )
        if "://" in self._uri:
            place = "a web server" if is_http(self._uri) else "S3"
            self._refuse(
                rows,
                name,
                is_local,
                f"a web or S3 address or a path below the table's folder: the table lies on {place}",
            )
        return rows.select(
            pl.when(is_relative).then(folder_of(self._uri) + "/" + uri).otherwise(uri).alias(name)
        ).to_series()

    def _refuse(self, rows: pl.DataFrame, name: str, is_bad: pl.Expr, expected: str) -> None:
        bad = rows.filter(is_bad)
        if len(bad):
            item_id, uri = bad.select("item_id", name).row(0)
            raise CatalogInvalid(
                f"{self.spec}: item {item_id[:80]!r} has {name} {label_of(uri)[:200]!r}; expected {expected}"
            )


def read_table(uri: str, spec: str, columns: Columns = UNNAMED) -> DelimitedTable:
    """Read a table at any URI; at a web address without a suffix, the server tells its format.

    Raises `NotFound`, `CatalogInvalid` also for a web page in its place, such as a login, and as `parse_table` does.
    """
    if not is_http(uri):
        return parse_table(read_uri(uri), uri, spec, columns)
    from retrieval_core.store.http import fetch

    data, _, content_type = fetch(uri, accepts_gzip=True)
    if data[:500].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CatalogInvalid(
            f"{spec}: the server sends a page in place of the table ({content_type or 'of no type'}); "
            "does it ask to log in?"
        )
    name = uri.partition("?")[0]
    if not name.lower().endswith(TABLE_SUFFIXES):
        name += SUFFIX_OF_TYPE.get(content_type.partition(";")[0].strip().lower(), "")
    return parse_table(data, name, spec, columns)


def parse_table(data: bytes, name: str, spec: str, columns: Columns = UNNAMED) -> DelimitedTable:
    """Parse CSV or TSV, every column as text, perhaps in gzip, or a Parquet file; the suffix of `name` decides which.

    Raises `SourceMissing` for an empty file, `CatalogInvalid` for one that cannot be read; the messages call it `spec`.
    """
    suffix = next((suffix for suffix in TABLE_SUFFIXES if name.lower().endswith(suffix)), "")
    if not suffix:
        raise CatalogInvalid(f"{spec} is none of {', '.join(TABLE_SUFFIXES)}; save the table as one of them")
    try:
        if suffix in GZIP_SUFFIXES and data.startswith(GZIP):  # a web server may have unpacked it
            data = read_whole(gzip.GzipFile(fileobj=io.BytesIO(data)))
        if suffix in (*TEXT_SUFFIXES, *GZIP_SUFFIXES):
            return read_delimited(data, columns)
        frame = read_parquet(data, columns)
        return DelimitedTable(frame, f"{counted(len(frame), 'row')} of Parquet")
    except SourceMissing as error:
        raise SourceMissing(f"{spec} is empty; expected a header and at least one row") from error
    except (Exception, pl.exceptions.PanicException) as error:  # readers fail in many ways on damaged files
        raise CatalogInvalid(f"{spec} cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error


def read_whole(stream: BinaryIO | gzip.GzipFile) -> bytes:
    """Return the bytes of a stream. Raises `ValueError` when there are more than `MAX_TEXT_BYTES`."""
    data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES:,} bytes")
    return data


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
    return _single_values(column)


def _single_values(column: pl.Series) -> pl.Series:
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


def _pair_fields(dtype: pl.DataType) -> tuple[str, str] | None:
    """Return the fields of name and value in a list of pairs, as which some programs write mappings."""
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        names = {field.name for field in dtype.inner.fields}
        return next((pair for pair in PAIRS if names == {*pair}), None)
    return None


def _prefix_of(column: str) -> str | None:
    return next((prefix for prefix in ATTRIBUTE_PREFIXES if column.startswith(prefix)), None)


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
