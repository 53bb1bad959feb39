"""The rows of a release as an export sends them: what a hit says of each item, its vector, and a hash of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.artifacts.catalog_rows import HIT_COLUMNS, Items
from retrieval_core.artifacts.manifests import Catalog, IndexSet, Release, fingerprint
from retrieval_core.artifacts.parts import read_table
from retrieval_core.fields.values import as_json
from retrieval_core.index.lookup import open_index
from retrieval_core.index.shard_files import positions_of
from retrieval_core.item_ids.normal_form import with_normal_names
from retrieval_core.search.hits import Item
from retrieval_core.store.base import Store

BATCH_ROWS = 1000  # 5 MB of vectors at 1,280 dimensions
COLUMNS = ["row_id", *HIT_COLUMNS, "attributes"]
SPACE_CHARS = 12  # of the name of a vector space


class ExportedItem(Item):
    """What a target is told of an item: what a search shows of it, and its attributes by name."""

    attributes: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a release: (n,) row ids, their items, (n, dim) unit-length vectors, (n,) hashes of item and vector.

    A row id is the 63-bit hash of the item's id, so that a target can have it as a key whatever the shop's ids look
    like. A content hash has 63 bits, too, and changes with anything that the target is told of the item.
    """

    row_ids: Int64
    items: list[ExportedItem]
    vectors: Float32
    hashes: Int64

    def __len__(self) -> int:
        return len(self.items)

    def only(self, where: Bool) -> Rows:
        """Return the rows where the (n,) mask is true."""
        items = [item for item, is_kept in zip(self.items, where, strict=True) if is_kept]
        return Rows(self.row_ids[where], items, self.vectors[where], self.hashes[where])

    def slices(self, n: int) -> Iterator[Rows]:
        """Yield the rows in order, at most n at a time."""
        for start in range(0, len(self), n):
            part = slice(start, start + n)
            yield Rows(self.row_ids[part], self.items[part], self.vectors[part], self.hashes[part])

    def documents(self) -> list[dict[str, Any]]:
        """Return each row as a JSON object: the item, and its `content_hash`; without the vector."""
        pairs = zip(self.items, self.hashes.tolist(), strict=True)
        return [item.model_dump() | {"content_hash": content_hash} for item, content_hash in pairs]

    def table(self) -> pa.Table:
        """Return the rows with the columns of `table_schema`."""
        documents = self.documents()
        columns: dict[str, Any] = {name: [row[name] for row in documents] for name in HIT_COLUMNS}
        for name in ("attributes", "fields"):
            columns[name] = [json.dumps(row[name], ensure_ascii=False) for row in documents]
        dim = self.vectors.shape[1]
        flat = pa.array(np.ascontiguousarray(self.vectors).reshape(-1))
        columns |= {"row_id": self.row_ids, "content_hash": self.hashes}
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, dim)
        schema = table_schema(dim)
        return pa.table([columns[name] for name in schema.names], schema=schema)


def table_schema(dim: int) -> pa.Schema:
    """Return the columns of a table of rows; attributes and fields are JSON objects, as their names differ by shop."""
    return pa.schema(
        {
            "row_id": pa.int64(),
            "item_id": pa.string(),
            "image_uri": pa.string(),
            "product_id": pa.string(),
            "category": pa.string(),
            "labels": pa.list_(pa.string()),
            "attributes": pa.string(),
            "fields": pa.string(),
            "content_hash": pa.int64(),
            "vector": pa.list_(pa.float32(), dim),
        }
    )


class ReleaseRows:
    """All rows that a search of a release can find, with their vectors as it compares them.

    `space` names what makes these vectors: releases of the same model, view, head and width share it, and only their
    vectors can be compared.
    """

    def __init__(self, store: Store, release: Release) -> None:
        """Open the index and the items of a release. Raises `NotFound`, `ShardCorrupt`."""
        index_set = IndexSet.open(store, release.index)
        self.index = open_index(store, index_set)
        self.dim = index_set.dim
        self.space = fingerprint("space", 1, {"dim": self.dim}, [index_set.family])[:SPACE_CHARS]
        self.row_ids = self.index.row_ids()
        self._store = store
        self._pieces = Catalog.open(store, release.catalog).item_parts
        self._items = Items.open(store, release.catalog, release.fields)

    def batches(self) -> Iterator[Rows]:
        """Yield all rows, at most `BATCH_ROWS` at a time; only these and one piece of the catalogue are in memory."""
        for part in self._pieces:
            piece = with_normal_names(read_table(self._store, part, COLUMNS))
            is_indexed = positions_of(self.row_ids, piece["row_id"].to_numpy())[1]
            yield from map(self._rows, piece.filter(pl.Series(is_indexed)).iter_slices(BATCH_ROWS))

    def _rows(self, table: pl.DataFrame) -> Rows:
        row_ids = table["row_id"].to_numpy()
        rows = zip(table.drop("row_id").iter_rows(named=True), self._items.fields(row_ids), strict=True)
        items = []
        for row, fields in rows:
            row["attributes"] = {pair["name"]: pair["value"] for pair in row["attributes"] or ()}
            row["labels"] = row["labels"] or []
            items.append(ExportedItem(fields={name: as_json(value) for name, value in fields.items()}, **row))
        vectors = self.index.vectors_of(row_ids)
        hashes = [_content_hash(item, vector) for item, vector in zip(items, vectors, strict=True)]
        return Rows(row_ids, items, vectors, np.array(hashes, np.int64))


def _content_hash(item: ExportedItem, vector: Float32) -> int:
    digest = xxhash.xxh3_64(item.model_dump_json().encode())
    digest.update(vector.tobytes())
    return digest.intdigest() >> 1
