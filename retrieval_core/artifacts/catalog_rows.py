"""The rows of a catalogue: their columns, where they are stored, and how single rows are read from a mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from retrieval_core.arrays import Bool, Int64, UInt64
from retrieval_core.artifacts.manifests import Artifact, Catalog, Part, Ref
from retrieval_core.artifacts.mapped_rows import (
    KeyIndex,
    batches_at,
    in_batches,
    mapped,
    rows_at,
    rows_by_value,
    rows_or_null,
)
from retrieval_core.artifacts.parts import is_stored, map_table, read_table, read_unsealed, table_bytes
from retrieval_core.errors import NotFound
from retrieval_core.fields.values import TEXT_FIELDS, FieldValue, parse_value
from retrieval_core.filters import FIELD
from retrieval_core.item_ids.normal_form import normal_name, with_normal_names
from retrieval_core.store.base import Store

SPLITS = ("train", "val", "query", "gallery", "test")
HELD_OUT = ("val", "query", "test")  # splits that nothing trains on
VALIDATION_SHARE = 0.1  # of the training rows, which models and variants are chosen by

NAMED_VALUES = pl.List(pl.Struct({"name": pl.String(), "value": pl.String()}))
# What a source says of each picture. Attributes are learned and compared; fields (title, price) are shown and filtered.
SOURCE_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "image_uri": pl.String(),
    "product_id": pl.String(),
    "category": pl.String(),
    "split": pl.String(),
    "mask_uri": pl.String(),
    "labels": pl.List(pl.String()),
    "attributes": NAMED_VALUES,
    "fields": NAMED_VALUES,
}
# What some sources tell of a picture's file, so that it need not be asked for: the size and version that a listing
# shows, or a version of the row.
VERSION_SCHEMA: dict[str, pl.DataType] = {
    "size_bytes": pl.Int64(),
    "version": pl.String(),
    "row_version": pl.String(),
}
CATALOG_SCHEMA: dict[str, pl.DataType] = SOURCE_SCHEMA | {  # stored without the fields
    "row_id": pl.Int64(),
    "content_id": pl.String(),
    "mask_id": pl.String(),
    "size_bytes": pl.Int64(),
    "version": pl.String(),
    "height": pl.Int32(),
    "width": pl.Int32(),
    "status": pl.String(),
}
QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "image_uri": pl.String(),
    "content_id": pl.String(),
    "reason": pl.String(),
    "attempts": pl.Int64(),
    "last_seen": pl.String(),
}
# What is known of an item; it has changed when one of these differs, except that an address may move (`ingest.diff`).
# The other columns follow from these, are bookkeeping (size, time), or are the fields, which are stored beside it.
COMPARED_COLUMNS = (*(name for name in SOURCE_SCHEMA if name != "fields"), "content_id", "mask_id", "status")

QUARANTINE_FILE = "quarantine.parquet"  # the part of a catalogue that lists its rejects
PIECES = f"{Catalog.folder}/parts/"  # the items of all catalogues; those with equal rows share a piece
PIECE_ROWS, MAX_PIECES = 8192, 64  # on average
# Store keys of the tables that the next run starts from: every item as it was last read, and the quarantine ledger.
SEEN_ITEMS = "ingest/items.parquet"
LEDGER = "ingest/quarantine.parquet"

HIT_COLUMNS = ("item_id", "image_uri", "product_id", "category", "labels")
FIELDS_FILE = "fields.parquet"
VALUE_TYPE = pl.Struct({"text": pl.String, "number": pl.Float64, "currency": pl.String, "moment": pl.Datetime("us")})


class FieldSet(Artifact):
    """The fields of a catalogue's items: part `fields.parquet`, a row for each item that has any."""

    folder = "fields"
    kind: Literal["FieldSet"] = "FieldSet"


def row_id(item_id: str) -> int:
    """Return the number of an item in the index: 63 bits of the XXH3 hash of its id, the same on every machine."""
    return xxhash.xxh3_64_intdigest(item_id.encode()) >> 1


def row_ids(item_ids: pl.Series) -> pl.Series:
    """Return the row id of each item as the column row_id."""
    return pl.Series("row_id", np.fromiter(map(row_id, item_ids), np.int64, len(item_ids)))


class _MappedRows:
    """Rows of mapped files by row id: 12 bytes of memory a row."""

    def __init__(self, store: Store, parts: Iterable[Part], columns: Sequence[str], row_ids: Int64) -> None:
        batches = [batch for part in parts for batch in map_table(store, part, columns)]
        self._names, self._columns = columns, [batch.columns for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])[:-1]
        self._position = np.argsort(row_ids).astype(np.int32)
        self._row_ids = row_ids[self._position]

    def read(self, row_ids: Int64, names: Collection[str] = ()) -> list[dict[str, Any] | None]:
        """Return these columns of each row, all of them by default, and None for a row that is absent."""
        wanted = [(number, name) for number, name in enumerate(self._names) if not names or name in names]
        return [
            {name: place[0][number][place[1]].as_py() for number, name in wanted} if place else None
            for place in self._find(row_ids)
        ]

    def _find(self, row_ids: Int64) -> list[tuple[list[pa.Array], int] | None]:
        """Return the columns of the batch that holds each row, and its position there."""
        if not len(self._row_ids):
            return [None] * len(row_ids)
        nearest = np.minimum(np.searchsorted(self._row_ids, row_ids), len(self._row_ids) - 1)
        position = self._position[nearest]
        batch = np.searchsorted(self._starts, position, side="right") - 1
        rows = zip(self._row_ids[nearest] == row_ids, batch, position - self._starts[batch], strict=True)
        return [(self._columns[number], int(row)) if is_found else None for is_found, number, row in rows]


class Items:
    """The items of a catalogue by row id, and their fields; what a hit shows is mapped from files."""

    def __init__(self, store: Store, catalog: Catalog, fields: FieldSet | None) -> None:
        self._store, self._catalog = store, catalog
        row_ids = read_items(store, catalog, ["row_id"])["row_id"].to_numpy()
        self._rows = _MappedRows(store, catalog.item_parts, (*HIT_COLUMNS, "content_id"), row_ids)
        self._field_part = fields.part(FIELDS_FILE) if fields else None
        self.field_names = field_names(store, self._field_part) if self._field_part else []
        if self._field_part:
            row_ids = read_table(store, self._field_part, ["row_id"])["row_id"].to_numpy()
            columns = [FIELD + name for name in self.field_names]
            self._fields = _MappedRows(store, [self._field_part], columns, row_ids)

    @classmethod
    def open(cls, store: Store, catalog: Ref, fields: Ref | None = None) -> Self:
        """Open the items of a sealed catalogue. Raises `NotFound`, `ShardCorrupt`."""
        return cls(store, Catalog.open(store, catalog), FieldSet.open(store, fields) if fields else None)

    def columns(self, names: list[str], fields: Iterable[str] = ()) -> pl.DataFrame:
        """Read these columns of every row, with row_id also `field.NAME` for those of these fields that exist."""
        items = read_items(self._store, self._catalog, names)
        columns = [FIELD + name for name in fields if name in self.field_names]
        if not columns or self._field_part is None:
            return items
        values = read_table(self._store, self._field_part, ["row_id", *columns])
        return items.join(values, on="row_id", how="left", maintain_order="left")

    def rows(self, row_ids: Int64) -> list[dict[str, Any]]:
        """Return `HIT_COLUMNS` and content_id of these rows, in their order. Raises `NotFound`."""
        return [row | {"item_id": normal_name(row["item_id"])} for row in self._read(row_ids)]

    def fields(self, row_ids: Int64) -> list[dict[str, FieldValue]]:
        """Return the fields of these rows by name, in their order."""
        if self._field_part is None:
            return [{}] * len(row_ids)
        rows = [row or {} for row in self._fields.read(row_ids)]
        return [{name.removeprefix(FIELD): FieldValue(**value) for name, value in row.items() if value} for row in rows]

    def values(self, name: str, row_ids: Int64) -> list[str | None]:
        """Return one text of each of these rows, such as its `product_id` or `category`. Raises `NotFound`."""
        return [row[name] for row in self._read(row_ids, (name,))]

    def _read(self, row_ids: Int64, names: Collection[str] = ()) -> list[dict[str, Any]]:
        found = [row for row in self._rows.read(row_ids, names) if row]
        if len(found) < len(row_ids):
            raise NotFound(f"catalogue {self._catalog.fingerprint[:12]} lacks some of {len(row_ids)} requested rows")
        return found


def field_table(items: pl.DataFrame) -> pl.DataFrame:
    """Return row_id and a column `field.NAME` of values for each field of items, without the items that have none.

    The rows are mapped, in the order of their ids.
    """
    given = items.select("row_id", "fields")
    has_fields = np.concatenate([batch["fields"].list.len().to_numpy() > 0 for batch in in_batches(given)])
    rows = np.flatnonzero(has_fields)
    rows = rows[np.argsort(given["row_id"].to_numpy()[rows])]
    named = [field_pairs(batch).select(pl.col("name").unique()) for batch in in_batches(given)]
    names = pl.concat(named)["name"].unique().sort().to_list()
    return mapped(_field_values(batch, names) for batch in batches_at(given, rows))


def field_pairs(items: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each pair of name and value in the lists `fields` of items, with their other columns."""
    return items.filter(pl.col("fields").list.len() > 0).explode("fields").unnest("fields")


def _field_values(items: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    wide = field_pairs(items).pivot("name", index="row_id", values="value", aggregate_function="first").sort("row_id")
    absent = [pl.lit(None, pl.String).alias(name) for name in names if name not in wide.columns]
    wide = wide.with_columns(absent)
    return wide.select("row_id", *(_values(wide[name]) for name in names))


def _values(texts: pl.Series) -> pl.Series:
    """Return the column `field.NAME` of values in the column NAME of texts."""
    values = [] if texts.name in TEXT_FIELDS else [parse_value(text) for text in texts.drop_nulls().unique()]
    read = pl.DataFrame(values, schema=VALUE_TYPE.to_schema(), orient="row")
    joined = pl.DataFrame({"text": texts}).join(read, on="text", how="left", maintain_order="left")
    value = pl.when(pl.col("text").is_not_null()).then(pl.struct(pl.all()))
    return joined.select(value.alias(FIELD + texts.name)).to_series()


def field_names(store: Store, part: Part) -> list[str]:
    """Return the names of the fields in the part of a `FieldSet`, sorted."""
    columns = pl.read_parquet_schema(store.local_path(part.key, part.sha256))
    return [name.removeprefix(FIELD) for name in columns if name.startswith(FIELD)]


def read_fields(store: Store, fields: FieldSet) -> pl.DataFrame:
    """Return row_id and the column `fields` of a catalogue's items, as a source says them; mapped.

    Raises `ShardCorrupt`.
    """
    table = read_table(store, fields.part(FIELDS_FILE))
    pairs = [
        pl.struct(name=pl.lit(name.removeprefix(FIELD)), value=pl.col(name).struct.field("text"))
        for name in table.columns
        if name != "row_id"
    ]
    has_value = pl.element().struct.field("value").is_not_null()
    given = pl.concat_list(pairs).list.eval(pl.element().filter(has_value)).alias("fields")
    return mapped(batch.select("row_id", given) for batch in in_batches(table))


def put_items(store: Store, items: pl.DataFrame) -> tuple[Part, ...]:
    """Store the items of a catalogue (`CATALOG_SCHEMA`) in pieces, except those that another catalogue has stored."""
    return tuple(_put_piece(store, piece) for piece in item_pieces(items))


def item_pieces(items: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut the items of a catalogue into the pieces that it is stored in, in order; no item makes one empty piece.

    The pieces have no fields, so that a catalogue whose prices alone changed is the same catalogue.

    A piece begins at each item whose row id is a multiple of a power of two, as a prolly tree is cut
    (https://docs.dolthub.com/architecture/storage-engine/prolly-tree). So a change moves no other cut, and a catalogue
    that differs in few items shares the other pieces.
    """
    items = items.drop("fields", strict=False)
    rows_a_piece = max(PIECE_ROWS, 1 << (len(items) // MAX_PIECES).bit_length())
    starts = (items["row_id"] % rows_a_piece == 0).arg_true().to_list()
    for start, end in pairwise([*sorted({0, *starts}), len(items)]):
        yield items[start:end]


def _put_piece(store: Store, piece: pl.DataFrame) -> Part:
    data = table_bytes(piece)
    sha256 = hashlib.sha256(data).hexdigest()
    part = Part(key=f"{PIECES}items-{sha256}.parquet", sha256=sha256, n_rows=len(piece), n_bytes=len(data))
    if not is_stored(store, part):
        store.put(part.key, data)
    return part


def read_items(store: Store, catalog: Catalog, columns: list[str] | None = None) -> pl.DataFrame:
    """Read the items of a catalogue, mapped, with all columns or these, their names in normal form.

    Raises `ShardCorrupt`.

    An older version stored names as the source spelled them; the row ids of its items are those in its index.
    """
    pieces = (read_table(store, part, columns) for part in catalog.item_parts)
    return with_normal_names(mapped(batch for piece in pieces for batch in in_batches(piece)))


def read_with_fields(store: Store, catalog: Catalog, fields: Ref | None) -> pl.DataFrame:
    """Read the items of a catalogue with their fields, in `CATALOG_SCHEMA`. Raises `NotFound`, `ShardCorrupt`."""
    values = read_fields(store, FieldSet.open(store, fields)) if fields else None
    return with_fields(read_items(store, catalog), values)


def read_last_seen(store: Store, key: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read one of the tables that the next run starts from, `SEEN_ITEMS` or `LEDGER`, its names in normal form.

    All columns are read, or these. Raises `NotFound`, `ShardCorrupt`.
    """
    return with_normal_names(read_unsealed(store, key, columns=columns))


def with_fields(items: pl.DataFrame, fields: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return items in `CATALOG_SCHEMA`, mapped, with the fields of a table (row_id, fields) or none."""
    if fields is None:
        return mapped(map(_with_lists, in_batches(items)))
    items, rows = items.drop("fields", strict=False), KeyIndex(fields.select("row_id"))
    found = (rows.first(batch.select("row_id")) for batch in in_batches(items))
    theirs = (rows_or_null(fields.select("fields"), positions) for positions in found)
    return mapped(_with_lists(batch.hstack(given)) for batch, given in zip(in_batches(items), theirs, strict=True))


def _with_lists(items: pl.DataFrame) -> pl.DataFrame:
    given = pl.col("fields") if "fields" in items.columns else pl.lit(None, NAMED_VALUES)
    return items.with_columns(given.fill_null(pl.lit([], NAMED_VALUES)).alias("fields")).select(*CATALOG_SCHEMA)


def load_items(store: Store, catalog_fingerprint: str, columns: list[str] | None = None) -> pl.DataFrame:
    """Load every row of a sealed catalogue, with all stored columns or these. Raises `NotFound`."""
    catalog = Catalog.find(store, catalog_fingerprint)
    if catalog is None:
        raise NotFound(f"no catalogue {catalog_fingerprint} in {store.url}")
    return read_items(store, catalog, columns)


def read_titles(store: Store, fields: Ref | None, items: pl.DataFrame) -> pl.Series:
    """Return the titles of these items, mapped, null for an item without one. Raises `NotFound`, `ShardCorrupt`."""
    part, column = FieldSet.open(store, fields).part(FIELDS_FILE) if fields else None, FIELD + "title"
    if part is None or "title" not in field_names(store, part):
        return pl.Series("title", [None] * len(items), pl.String)
    titles = read_table(store, part, ["row_id", column]).select("row_id", title=pl.col(column).struct.field("text"))
    known = KeyIndex(titles.select("row_id"))
    found = (known.first(batch) for batch in in_batches(items.select("row_id")))
    return mapped(rows_or_null(titles.select("title"), positions) for positions in found)["title"]


def without_held_out(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items whose picture no held-out item shows, in their order, mapped: a model may be trained on them."""
    held_out = items["content_id"].filter(items["split"].is_in(HELD_OUT)).implode()
    return mapped(batch.filter(~pl.col("content_id").is_in(held_out)) for batch in in_batches(items))


def bounded_sample(items: pl.DataFrame, max_rows: int, seed: int) -> pl.DataFrame:
    """Return all items, or of more than `max_rows` a random sample of that size, in their order."""
    if len(items) <= max_rows:
        return items
    return rows_at(items, np.sort(np.random.default_rng(seed).permutation(len(items))[:max_rows]))


def product_unit() -> pl.Expr:
    """Return an expression that names what an item's pictures belong to: its product, or itself if it has none.

    Pictures of one unit are never divided between query and gallery, nor counted as each other's neighbours.
    """
    return pl.coalesce("product:" + pl.col("product_id"), "item:" + pl.col("item_id"))


def inner_validation(items: pl.DataFrame, seed: int) -> Bool:
    """Return which rows of a catalogue, (n,), are set aside of its training rows to choose models and variants by.

    `items` are all rows, before any sampling, with product_id, content_id and split. Rows of one product or with one
    file form a group, which is set aside as a whole or not at all. A hash of the group and `seed` selects about
    `VALIDATION_SHARE` of them, so that a row keeps its part from run to run while its group has the same members.
    Groups with a held-out row, or of more than that share of the training rows, are never set aside. At least one
    group is, the one with the lowest hash, if two or more could be.
    """
    return validation_rows(items, linked_groups(items, seed))


def validation_rows(items: pl.DataFrame, groups: UInt64) -> Bool:
    """Return the `inner_validation` of items whose `linked_groups` are known."""
    is_held_out = items["split"].is_in(HELD_OUT).fill_null(False).to_numpy()
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    has_held_out = np.bincount(group, is_held_out, len(names)) > 0
    max_rows = max(1, VALIDATION_SHARE * (~is_held_out).sum())
    can_be_chosen = ~has_held_out & (sizes <= max_rows)
    is_chosen = can_be_chosen & (names < VALIDATION_SHARE * 2**64)
    if not is_chosen.any() and can_be_chosen.sum() > 1:
        is_chosen[can_be_chosen.argmax()] = True
    return np.asarray(is_chosen[group])


def linked_groups(items: pl.DataFrame, seed: int) -> UInt64:
    """Return the group of each row, (n,): rows of one product or with one file share it, also by way of others.

    A group is named by the lowest hash, with `seed`, of its products and of its files without a product.
    """
    named = items.select("product_id", "content_id")
    names = pl.coalesce("product_id", "content_id", pl.lit(""))
    texts = (text for batch in in_batches(named) for text in batch.select(names).to_series())
    groups = np.fromiter((xxhash.xxh3_64_intdigest(text.encode(), seed) for text in texts), np.uint64, len(named))
    links = [link for column in named.columns if len((link := rows_by_value(named, column)).rows)]
    while True:
        moved = groups.copy()
        for rows, starts in links:
            lowest = np.minimum.reduceat(moved[rows], starts)
            moved[rows] = np.repeat(lowest, np.diff(np.append(starts, len(rows))))
        if np.array_equal(moved, groups):
            return groups
        groups = moved
