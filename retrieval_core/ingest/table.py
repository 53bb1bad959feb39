"""`table:FILE`: a manifest in CSV or Parquet, local or `s3://`, one row per picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core import images
from retrieval_core.errors import CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.folder import absolute_uri
from retrieval_core.ingest.labels import attributes_of, normalise_labels, parse_attributes, parse_labels
from retrieval_core.ingest.sources import SOURCE_SCHEMA, conform
from retrieval_core.store import read_uri

REQUIRED = ("item_id", "image_uri")
TEXT_COLUMNS = ("item_id", "image_uri", "product_id", "category", "split", "mask_uri")
URI_COLUMNS = ("image_uri", "mask_uri")
ATTRIBUTE_PREFIXES = ("attr_", "attributes.")


class TableSource:
    """A manifest with item_id and image_uri, and optionally product_id, category, split, mask_uri, labels, attributes.

    Labels are `a|b` or a JSON list (in Parquet also a list of strings); attributes a JSON object (in Parquet also a
    struct or a list of name-value structs), or one column each, named `attr_…` or `attributes.…`. A relative URI starts
    at the table's folder. A mask is a picture, bright on the product.
    """

    def __init__(self, uri: str) -> None:
        self.spec = f"table:{uri}"
        self._uri = absolute_uri(uri)
        self._table = self._read()

    def rows(self) -> pl.DataFrame:
        missing = [name for name in REQUIRED if name not in self._table.columns]
        if missing:
            raise CatalogInvalid(
                f"{self.spec} lacks column {' and '.join(missing)}; it has {', '.join(self._table.columns)}"
            )
        columns = [self._text(name) for name in TEXT_COLUMNS if name in self._table.columns]
        frame = pl.DataFrame([*columns, self._labels(), self._attributes()])
        rows = conform(frame, self.spec)
        return rows.with_columns(self._resolved(rows, name) for name in URI_COLUMNS)

    def read_mask(self, mask_uri: str) -> npt.NDArray[np.bool_]:
        brightness = images.decode(read_uri(mask_uri)).max(axis=2)
        # Half of the brightest value, so that masks of 0 and 1 are read like masks of 0 and 255.
        return brightness > brightness.max() // 2

    def _read(self) -> pl.DataFrame:
        try:
            data = read_uri(self._uri)
        except NotFound as error:
            raise SourceMissing(f"{self.spec}: there is no file {self._uri}; check the path") from error
        try:
            table = self._parse(data)
        except pl.exceptions.NoDataError as error:
            raise SourceMissing(f"{self.spec} is empty; expected a header and at least one row") from error
        except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
            raise CatalogInvalid(f"{self.spec} cannot be read: {str(error).splitlines()[0]}") from error
        if table.is_empty():
            raise SourceMissing(f"{self.spec} has no rows; expected at least one picture")
        return table

    def _parse(self, data: bytes) -> pl.DataFrame:
        name = self._uri.lower()
        if name.endswith((".parquet", ".pq")):
            return pl.read_parquet(io.BytesIO(data))
        if name.endswith(".csv"):
            # Everything as text: an id of 0012 is not the number 12.
            return pl.read_csv(io.BytesIO(data), infer_schema=False)
        raise CatalogInvalid(f"{self.spec} is neither .csv nor .parquet; save the table as one of them")

    def _text(self, name: str) -> pl.Series:
        """A column of single values as trimmed text; whole numbers are fine as ids."""
        column = self._table[name]
        if isinstance(column.dtype, pl.Categorical | pl.Enum | pl.Null) or column.dtype.is_integer():
            column = column.cast(pl.String)
        if column.dtype != pl.String:
            raise CatalogInvalid(f"{self.spec}: column {name} is {column.dtype}; expected text")
        return column.str.strip_chars()

    def _labels(self) -> pl.Series:
        if "labels" not in self._table.columns:
            return pl.Series("labels", [[]] * self._table.height, SOURCE_SCHEMA["labels"])
        column = self._table["labels"]
        if column.dtype in (pl.String, pl.Null):
            return self._parsed(column, parse_labels)
        if column.dtype == pl.List(pl.String):
            return self._parsed(column, lambda cell: normalise_labels(label for label in cell or () if label))
        raise CatalogInvalid(f"{self.spec}: column labels is {column.dtype}; expected text or a list of text")

    def _attributes(self) -> pl.Series:
        """The `attributes` column and the prefixed columns in one; a prefixed column wins over the same name."""
        rows = [{a["name"]: a["value"] for a in cell or ()} for cell in self._attribute_cells().to_list()]
        for column in self._table.columns:
            prefix = next((p for p in ATTRIBUTE_PREFIXES if column.startswith(p)), None)
            if prefix is None:
                continue
            values = self._table[column]
            if values.dtype.is_nested():
                raise CatalogInvalid(f"{self.spec}: column {column} is {values.dtype}; expected single values")
            for row, value in zip(rows, values, strict=True):
                if value is not None:
                    row[column.removeprefix(prefix)] = value
        return pl.Series("attributes", [attributes_of(row) for row in rows], SOURCE_SCHEMA["attributes"])

    def _attribute_cells(self) -> pl.Series:
        if "attributes" not in self._table.columns:
            return pl.Series("attributes", [[]] * self._table.height, SOURCE_SCHEMA["attributes"])
        column = self._table["attributes"]
        if column.dtype in (pl.String, pl.Null):
            return self._parsed(column, parse_attributes)
        if isinstance(column.dtype, pl.Struct):
            return self._parsed(column, lambda cell: attributes_of(cell or {}))
        if column.dtype == SOURCE_SCHEMA["attributes"]:
            return column
        raise CatalogInvalid(f"{self.spec}: column attributes is {column.dtype}; expected a JSON object or a struct")

    def _parsed(self, column: pl.Series, parse: Callable[[Any], Any]) -> pl.Series:
        values = []
        for row, cell in enumerate(column.to_list()):
            try:
                values.append(parse(cell))
            except ValueError as error:
                item_id = self._table["item_id"][row]
                raise CatalogInvalid(
                    f"{self.spec}: item {item_id!r}, {column.name} {str(cell)[:80]!r}: {error}"
                ) from error
        return pl.Series(column.name, values, SOURCE_SCHEMA[column.name])

    def _resolved(self, rows: pl.DataFrame, name: str) -> pl.Series:
        """URIs of a column: absolute and `s3://` ones as they are, relative ones below the table's folder."""
        uris = rows[name]
        foreign = rows.filter(uris.str.contains("://", literal=True) & ~uris.str.starts_with("s3://"))
        if len(foreign):
            item_id, uri = foreign.select("item_id", name).row(0)
            raise CatalogInvalid(f"{self.spec}: item {item_id!r} has {name} {uri!r}; expected a path or s3://")
        folder = self._uri.rpartition("/")[0]
        column = pl.col(name)
        is_absolute = column.str.contains(r"^(s3://|/)")
        return rows.select(pl.when(is_absolute).then(column).otherwise(folder + "/" + column)).to_series().alias(name)
