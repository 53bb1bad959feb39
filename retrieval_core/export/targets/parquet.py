"""Parquet files in a folder or on S3, with a document that lists the current ones: `NAME.json` beside `NAME/`.

The document is replaced in one step, so that a reader of the files it lists sees one export or the next, never a
mixture. Files whose rows are all as they were stay; removed and replaced rows are left out of files written anew.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from pydantic import ValidationError

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.text import first_line
from retrieval_core.errors import AliasConflict, NotFound, TargetRefused
from retrieval_core.export.rows import Rows
from retrieval_core.export.target import Address, other_width
from retrieval_core.index.shard_files import positions_of
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

FILE_ROWS = 32_768  # at most; files of fewer than half are merged


class Listing(Value):
    """The document of an export: its collection, the width of its vectors, and the keys of its files."""

    collection: str
    dim: int
    files: tuple[str, ...]


def open_target(address: Address) -> ParquetTarget:
    """Open a folder or `s3://bucket/prefix`. Raises `BadConfig` for another address."""
    return ParquetTarget(open_store(address.url), address.name)


class ParquetTarget:
    """The Parquet files of one export, of which readers see those that its document lists."""

    def __init__(self, store: Store, name: str) -> None:
        self.label = store.url
        self._store, self._name, self._key = store, name, f"{name}.json"
        self._seen = self._read()  # the document as it was when this export began
        self._listed = self._parse(self._seen) if self._seen is not None else None
        self._collection, self._dim = "", 0
        self._files: tuple[str, ...] = ()
        self._written: list[str] = []
        self._touched: list[Int64] = []  # rows that were written or removed
        self._waiting: list[pl.DataFrame] = []  # rows to write, fewer than a file's

    def current(self) -> str | None:
        return self._listed.collection if self._listed else None

    def collections(self) -> Sequence[str]:
        return [self._collection]  # publishing removes the files of others

    def open(self, collection: str, dim: int) -> bool:
        self._collection, self._dim = collection, dim
        if self._listed is None or self._listed.collection != collection:
            return True
        if self._listed.dim != dim:
            raise other_width(self._key, self._listed.dim, dim)
        self._files = self._listed.files
        return False

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        for file in self._files:
            table = self._table(file, ["row_id", "content_hash"])
            yield table["row_id"].to_numpy(), table["content_hash"].to_numpy()

    def upsert(self, rows: Rows) -> None:
        self._touched.append(rows.row_ids)
        self._write(pl.DataFrame(rows.table()))

    def delete(self, row_ids: Int64) -> None:
        self._touched.append(row_ids)

    def finish(self) -> None:
        if self._touched:
            touched = np.sort(np.concatenate(self._touched))
            self._files = tuple(file for file in self._files if self._stays(file, touched))
            self._write(pl.DataFrame(), is_last=True)
        self._files = (*self._files, *self._written)
        self._touched, self._written = [], []

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        scores = np.empty((len(vectors), 0), np.float32)
        row_ids = np.empty((len(vectors), 0), np.int64)
        for file in self._files:
            table = self._table(file, ["row_id", "vector"])
            scores = np.hstack([scores, vectors @ table["vector"].to_numpy().T])
            row_ids = np.hstack([row_ids, np.tile(table["row_id"].to_numpy(), (len(vectors), 1))])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, row_ids = np.take_along_axis(scores, best, 1), np.take_along_axis(row_ids, best, 1)
        found: list[list[int]] = row_ids.tolist()
        return found

    def publish(self) -> None:
        listing = Listing(collection=self._collection, dim=self._dim, files=self._files)
        # What other exporters write from here on is not among these, so that it is not removed below.
        others = [key for key in self._store.list(f"{self._name}/") if key not in self._files]
        data = listing.model_dump_json(indent=1).encode()
        if data != self._seen and not self._store.compare_and_swap(self._key, data, self._seen):
            raise AliasConflict(f"{self.label}: another export replaced {self._key} meanwhile; run the command again")
        for key in others:
            self._store.delete(key)

    def drop(self, collection: str) -> None:
        """Do nothing: publishing removed the files of other collections."""

    def close(self) -> None:
        """Do nothing: the next export removes files that no document lists."""

    def _read(self) -> bytes | None:
        try:
            return self._store.get(self._key)
        except NotFound:
            return None

    def _parse(self, data: bytes) -> Listing:
        try:
            return Listing.model_validate_json(data)
        except ValidationError as error:
            raise TargetRefused(
                f"{self.label}/{self._key} is not the document of an export: {first_line(error)}; "
                "remove it, and everything is sent again"
            ) from error

    def _table(self, file: str, columns: list[str] | None = None) -> pl.DataFrame:
        try:
            return pl.read_parquet(self._store.local_path(file), columns=columns)
        except (NotFound, pl.exceptions.PolarsError, OSError) as error:
            raise TargetRefused(
                f"{self.label}/{file} cannot be read: {error}; remove {self._key}, and everything is sent again"
            ) from error

    def _stays(self, file: str, touched: Int64) -> bool:
        """Return whether a file may stay; of one that loses rows or is small, the other rows are written once more."""
        table = self._table(file)
        kept = table.filter(~pl.Series(positions_of(touched, table["row_id"].to_numpy())[1]))
        if len(kept) == len(table) >= FILE_ROWS // 2:
            return True
        self._write(kept)
        return False

    def _write(self, table: pl.DataFrame, is_last: bool = False) -> None:
        """Add rows to those that wait, and write as many as fill a file, or the last ones."""
        self._waiting += [table] if len(table) else []
        if sum(map(len, self._waiting)) < (1 if is_last else FILE_ROWS):
            return
        together = pl.concat(self._waiting).rechunk()
        full = [] if is_last else [together[:FILE_ROWS]]
        self._waiting = [] if is_last else [together[FILE_ROWS:]]
        for rows in full or together.iter_slices(FILE_ROWS):
            sink = io.BytesIO()
            rows.write_parquet(sink, compression="zstd")
            key = f"{self._name}/{self._collection}-{uuid.uuid4().hex[:16]}.parquet"
            self._store.put(key, sink.getvalue())
            self._written.append(key)
