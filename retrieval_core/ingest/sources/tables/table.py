"""`table:FILE`: a manifest in CSV, TSV (also with gzip) or Parquet, at any URI, a row for each picture."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from typing import Any, BinaryIO, ClassVar, Self, cast

import numpy as np
import polars as pl

from retrieval_core import images
from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.artifacts.mapped_rows import batches_at, in_batches, mapped
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.base import conform_batches
from retrieval_core.ingest.sources.files import absolute_uri, refuse_web_page
from retrieval_core.ingest.sources.labels import (
    attributes_of,
    normalise_labels,
    parse_attributes,
    parse_labels,
    value_text,
)
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.cells import as_lists, read_lists, single_values, text_column
from retrieval_core.ingest.sources.tables.columns import (
    ATTRIBUTE_PREFIXES,
    ROW_VERSION,
    UNNAMED,
    Columns,
    one_row_a_picture,
    split_columns,
)
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, read_delimited
from retrieval_core.ingest.sources.tables.delta import OPTIONS, Named, is_delta, marks_deleted
from retrieval_core.ingest.sources.tables.fields import checked_fields, field_columns, field_of
from retrieval_core.ingest.sources.tables.objects import PAIRS
from retrieval_core.ingest.sources.tables.parquet import read_parquet
from retrieval_core.store.uris import folder_of, is_http, label_of, read_uri

TEXT_SUFFIXES = (".csv", ".tsv")
GZIP = b"\x1f\x8b"  # the first bytes of a file in gzip
GZIP_SUFFIXES = tuple(f"{suffix}.gz" for suffix in TEXT_SUFFIXES)
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *GZIP_SUFFIXES, ".parquet", ".pq")
MAX_TEXT_BYTES = 2**32  # that a small gzip may unpack to

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

    Fields are the columns title, price, sale_price, link, brand and availability, those named `field.…`, and a column
    `fields` like that of attributes.

    `FILE?item_id=sku&image_uri=image_url&field.season=collection` says which of the table's columns these are. Of
    several columns of pictures, each picture is an item of the same product. `version=updated_at` names a column that
    changes whenever the row does.

    Raises `SourceMissing` for an absent or empty table, `CatalogInvalid` for one that cannot be read or lacks a column.
    """

    kind: ClassVar[str] = "table"
    options: ClassVar[tuple[str, ...]] = OPTIONS  # keys of the query that are no columns
    has_picture_lists: ClassVar[bool] = False  # in a cell
    n_passed_over: int = 0
    is_delta: bool

    def __init__(self, uri: str) -> None:
        self.spec = f"{self.kind}:{label_of(uri) if is_http(uri) else uri}"
        file, self._columns = split_columns(uri, self.spec, self.options)
        self._uri = absolute_uri(file)
        self.is_delta = is_delta(self._columns.options.get("mode", ""), self.spec)
        self._table = self._read()
        self.deleted_ids = self._drop_deleted()
        self._fields, columns = pl.Series(), self._field_columns()
        given = (part._named_values("fields", columns) for part in self._batches())
        self._fields, notes = self._checked_fields(given)
        self.notes += notes

    def rows(self) -> pl.DataFrame:
        if self.is_delta and self._is_empty():
            return pl.DataFrame(schema=SOURCE_SCHEMA)
        rows = conform_batches((part._frame() for part in self._batches()), self.spec)
        uris = mapped(pl.DataFrame([self._resolved(batch, name) for name in URI_COLUMNS]) for batch in in_batches(rows))
        return rows.with_columns(uris)

    def named(self) -> Named:
        """Return the ids of the table's rows."""
        has_further_pictures = self.has_picture_lists or len(self._columns.pictures) > 1
        return Named.of(self._text("item_id").drop_nulls(), self.deleted_ids, has_further_pictures)

    def read_mask(self, mask_uri: str) -> Bool:
        brightness = images.decode(read_uri(mask_uri)).max(axis=2)
        # Compare with half the brightest value, so that masks of 0 and 1 are read like masks of 0 and 255.
        return brightness > brightness.max() // 2

    def _batches(self) -> Iterator[Self]:
        """Yield this source with a batch of its rows each."""
        start = 0
        for table in in_batches(self._table):
            part = copy(self)
            part._table, part._fields = table, self._fields[start : start + len(table)]
            yield part
            start += len(table)

    def _frame(self) -> pl.DataFrame:
        """Return a row for each picture, with the columns of a catalogue that the table has."""
        columns = [self._text(name) for name in TEXT_COLUMNS if name in self._table.columns]
        if ROW_VERSION in self._columns.of:
            columns.append(self._text(ROW_VERSION).str.replace_all(r"\s+", " ").alias("row_version"))
        frame = pl.DataFrame([*columns, self._labels(), self._attributes(), self._fields])
        others = [self._text(name) for name in self._columns.pictures[1:]]
        return one_row_a_picture(frame, others) if others else frame

    def _read(self) -> pl.DataFrame:
        try:
            table, note = self._parsed_file()
        except NotFound as error:
            raise SourceMissing(f"{self.spec}: there is no file {label_of(self._uri)}; check the path") from error
        if table.is_empty() and not self.is_delta:
            raise SourceMissing(f"{self.spec} has no rows; expected at least one picture")
        self.notes = (note, *self._columns.notes(table.columns))
        return self._columns.apply(table, self.spec)

    def _is_empty(self) -> bool:
        return self._table.is_empty()

    def _drop_deleted(self) -> list[str]:
        """Drop the rows that are marked as deleted; return their ids. Raises `CatalogInvalid`."""
        if not self._columns.deleted:
            return []
        cells, item_ids = self._text(self._columns.deleted), self._text("item_id")
        try:
            marks = pl.Series([marks_deleted(cell) for cell in cells], dtype=pl.Boolean)
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec}: column {self._columns.deleted}: {error}") from error
        deleted_ids = item_ids.filter(marks)
        if len(both := item_ids.filter(~marks & item_ids.is_in(deleted_ids.drop_nulls().implode()))):
            raise CatalogInvalid(
                f"{self.spec}: item {both[0][:80]!r} has a row that is marked as deleted and one that is not"
            )
        self._table = mapped(batches_at(self._table, np.flatnonzero(~marks.to_numpy())))
        self.notes += (f"{counted(len(deleted_ids), 'row')} marked as deleted",) * bool(len(deleted_ids))
        return deleted_ids.drop_nulls().to_list()

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
        prefixed = {name: name.removeprefix(prefix) for name in self._table.columns if (prefix := _prefix_of(name))}
        return self._named_values("attributes", prefixed)

    def _field_columns(self) -> dict[str, str]:
        """Return the names of the fields by the table's columns."""
        columns = field_columns(self._table.columns, self._columns.of)
        nested = [name for name in columns if field_of(name) and self._table[name].dtype.is_nested()]
        self.notes += (f"not used: {', '.join(nested)}, with several values in a cell",) * bool(nested)
        return {name: columns[name] for name in columns if name not in nested}

    def _checked_fields(self, fields: Iterable[pl.Series]) -> tuple[pl.Series, tuple[str, ...]]:
        try:
            return checked_fields(fields)
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec} has {error}") from error

    def _named_values(self, name: str, columns: Mapping[str, str]) -> pl.Series:
        """Merge a column of mappings and columns of single values; of two values with one name the last counts."""
        cells = self._mapping_cells(name)
        values = pl.DataFrame([self._single_values(column).alias(column) for column in columns])
        return pl.concat([self._empty(name).clear(), _merged(cells, values, columns)]).alias(name)

    def _single_values(self, column: str) -> pl.Series:
        try:
            return single_values(self._table[column])
        except ValueError as error:
            raise CatalogInvalid(f"{self.spec}: column {column} is {error}; expected single values") from error

    def _mapping_cells(self, name: str) -> pl.Series:
        if name not in self._table.columns:
            return self._empty(name)
        column = self._table[name]
        if column.dtype in TEXT_TYPES:
            return self._parsed(self._text(name), parse_attributes)
        if isinstance(column.dtype, pl.Struct | pl.Map):
            return self._parsed(column, lambda cell: attributes_of(cell or {}))
        if fields := _pair_fields(column.dtype):
            return self._parsed(
                column, lambda cell: attributes_of({pair[fields[0]]: pair[fields[1]] for pair in cell or () if pair})
            )
        raise CatalogInvalid(f"{self.spec}: column {name} is {column.dtype}; expected a JSON object or a struct")

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


def _merged(cells: pl.Series, values: pl.DataFrame, names: Mapping[str, str]) -> pl.Series:
    """Merge lists of names and values with columns of values, whose `names` are given, into lists sorted by name."""
    rows = pl.int_range(len(cells), dtype=pl.Int64, eager=True).alias("row")
    pairs = pl.DataFrame([rows, cells.alias("cell")]).explode("cell")
    given = [pairs.select("row", pl.col("cell").struct.field("name", "value")).drop_nulls("name")]
    for column, name in names.items():
        value = pl.DataFrame([rows, values[column].alias("value")])
        given.append(value.select("row", pl.lit(name).alias("name"), "value").drop_nulls("value"))
    last = pl.concat(given).unique(["row", "name"], keep="last", maintain_order=True).sort("row", "name")
    trimmed = last.with_columns(pl.col("name", "value").str.strip_chars())
    kept = trimmed.filter(pl.col("name") != "", pl.col("value") != "")
    return as_lists(kept["row"], kept.select("name", "value").to_struct(), len(cells))


def read_table(uri: str, spec: str, columns: Columns = UNNAMED) -> DelimitedTable:
    """Read a table at any URI; at a web address without a suffix, the server tells its format.

    Raises `NotFound`, and as `parse_table` does.
    """
    if not is_http(uri):
        return parse_table(read_uri(uri), uri, spec, columns)
    from retrieval_core.store.http import fetch

    data, _, content_type = fetch(uri, accepts_gzip=True)
    refuse_web_page(data, spec)  # whose type is that of no table
    name = uri.partition("?")[0]
    if not name.lower().endswith(TABLE_SUFFIXES):
        name += SUFFIX_OF_TYPE.get(content_type.partition(";")[0].strip().lower(), "")
    return parse_table(data, name, spec, columns)


def parse_table(data: bytes, name: str, spec: str, columns: Columns = UNNAMED) -> DelimitedTable:
    """Parse CSV or TSV, every column as text, perhaps in gzip, or a Parquet file; the suffix of `name` decides which.

    Raises `SourceMissing` for an empty file, `CatalogInvalid` for one that cannot be read and for a web page in its
    place, such as a login; the messages call it `spec`.
    """
    suffix = next((suffix for suffix in TABLE_SUFFIXES if name.lower().endswith(suffix)), "")
    if not suffix:
        raise CatalogInvalid(f"{spec} is none of {', '.join(TABLE_SUFFIXES)}; save the table as one of them")
    try:
        if suffix in GZIP_SUFFIXES and data.startswith(GZIP):  # a web server may have unpacked it
            data = read_whole(gzip.GzipFile(fileobj=io.BytesIO(data)))
        refuse_web_page(data, spec)
        if suffix in (*TEXT_SUFFIXES, *GZIP_SUFFIXES):
            return read_delimited(data, columns)
        frame = read_parquet(data, columns)
        return DelimitedTable(frame, f"{counted(len(frame), 'row')} of Parquet")
    except SourceMissing as error:
        raise SourceMissing(f"{spec} is empty; expected a header and at least one row") from error
    except CatalogInvalid:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # readers fail in many ways on damaged files
        raise CatalogInvalid(f"{spec} cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error


def read_whole(stream: BinaryIO | gzip.GzipFile) -> bytes:
    """Return the bytes of a stream. Raises `ValueError` when there are more than `MAX_TEXT_BYTES`."""
    data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES:,} bytes")
    return data


def _pair_fields(dtype: pl.DataType) -> tuple[str, str] | None:
    """Return the fields of name and value in a list of pairs, as which some programs write mappings."""
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        names = {field.name for field in dtype.inner.fields}
        return next((pair for pair in PAIRS if names == {*pair}), None)
    return None


def _prefix_of(column: str) -> str | None:
    return next((prefix for prefix in ATTRIBUTE_PREFIXES if column.startswith(prefix)), None)
