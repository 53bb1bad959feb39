"""LanceDB in a folder or on S3: a table for each vector space, and one of the export's name that says which to use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, TargetRefused
from retrieval_core.export.rows import Rows, table_schema
from retrieval_core.export.target import Address, is_collection, name_taken, other_width
from retrieval_core.store.uris import is_http, label_of

if TYPE_CHECKING:
    from lancedb.db import DBConnection

INDEXED_ROWS = 100_000  # from which a table has an index; fewer vectors are compared one by one, within milliseconds
POINTER = "collection"  # the column of the table of one row
FETCHED_ROWS = 10_000


def open_target(address: Address) -> LanceTarget:
    """Open a database in a folder or at `s3://bucket/prefix`. Raises `BadConfig` for a web address."""
    import lancedb

    if is_http(address.url):
        raise BadConfig(f"{label_of(address.url)} is no folder; expected one, or s3://bucket/prefix")
    return LanceTarget(lancedb.connect(address.url), address.name, label_of(address.url))


class LanceTarget:
    """The tables of one export; searches see a change in place as it is written."""

    def __init__(self, database: DBConnection, name: str, label: str) -> None:
        self.label = label
        self._database, self._name, self._table = database, name, _NOT_OPEN
        self._dim = 0

    def current(self) -> str | None:
        with self._translated():
            if self._name not in self._names():
                return None
            table = self._database.open_table(self._name)
            is_pointer = table.schema.names == [POINTER] and table.count_rows() == 1
            collection = str(table.to_arrow()[POINTER][0].as_py()) if is_pointer else ""
        if not is_collection(collection, self._name):
            raise name_taken(self._name, "a table")
        return collection

    def collections(self) -> Sequence[str]:
        with self._translated():
            return sorted(name for name in self._names() if is_collection(name, self._name))

    def open(self, collection: str, dim: int) -> bool:
        self._dim = dim
        with self._translated():
            is_new = collection not in self._names()
            if is_new:
                self._table = self._database.create_table(collection, schema=table_schema(dim))
            else:
                self._table = self._database.open_table(collection)
            schema = self._table.schema
        if not schema.equals(table_schema(dim)):
            width = schema.field("vector").type.list_size if "vector" in schema.names else "no"
            raise other_width(collection, width, dim)
        return is_new

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        with self._translated():
            found = self._table.search().select(["row_id", "content_hash"]).to_batches(FETCHED_ROWS)
            for batch in found:
                yield batch["row_id"].to_numpy(), batch["content_hash"].to_numpy()

    def upsert(self, rows: Rows) -> None:
        with self._translated():
            merge = self._table.merge_insert("row_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows.table())

    def delete(self, row_ids: Int64) -> None:
        with self._translated():
            self._table.delete(f"row_id IN ({', '.join(map(str, row_ids.tolist()))})")

    def finish(self) -> None:
        """Merge the small files that the batches left, and index a large table."""
        with self._translated():
            is_indexed = any(index.columns == ["vector"] for index in self._table.list_indices())
            if not is_indexed and self._table.count_rows() >= INDEXED_ROWS:
                self._table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ")
            self._table.optimize()

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        with self._translated():
            searches = [self._table.search(vector).distance_type("cosine").limit(k) for vector in vectors]
            return [search.select(["row_id", "_distance"]).to_arrow()["row_id"].to_pylist() for search in searches]

    def publish(self) -> None:
        """Replace the pointer, which LanceDB does in one step."""
        if self.current() == self._table.name:
            return
        with self._translated():
            pointer = pa.table({POINTER: [self._table.name]})
            self._database.create_table(self._name, pointer, mode="overwrite")

    def drop(self, collection: str) -> None:
        with self._translated():
            self._database.drop_table(collection)

    def close(self) -> None:
        """Do nothing: every write is whole by itself."""

    def _names(self) -> list[str]:
        names: list[str] = []
        page: str | None = None
        while True:
            answer = self._database.list_tables(page_token=page)
            names += answer.tables
            page = answer.page_token
            if not page:
                return names

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:  # LanceDB has no errors of its own
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise TargetRefused(
                f"{self.label} refuses the export: {reason}; where another export was at work, run the command again"
            ) from error


_NOT_OPEN: Any = None
