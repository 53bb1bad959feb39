"""Tables of many rows that a temporary file backs, and rows found by their keys, without a Python object for each.

A step that goes over a whole catalogue makes a batch of rows at a time and passes the batches on as a mapped table: a
data frame like any other, whose pages the kernel reads and drops as it needs the memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_core.arrays import Bool, Int64
from retrieval_core.errors import ShardCorrupt
from retrieval_core.store.files import write_errors

BATCH_ROWS = 1 << 15  # in memory at a time


def mapped(batches: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of batches, which have one schema, as a table in a mapped file that is already unlinked.

    A single batch is returned as it is. Raises `ValueError` without a batch.
    """
    remaining = iter(batches)
    first, second = next(remaining, None), next(remaining, None)
    if first is None:
        raise ValueError("no batch; expected at least one, which may be empty")
    if second is None:
        return first
    table = map_arrow(map(_compact, chain([first, second], remaining)))
    return from_arrow(table)


def map_arrow(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of Arrow tables, at least one, as `mapped` does.

    Raises `StoreNotWritable` where there is no room for the temporary file.
    """
    remaining = iter(tables)
    first, second = next(remaining), next(remaining, None)
    if second is None:
        return first
    with tempfile.NamedTemporaryFile(prefix="vitrine-rows-", suffix=".arrow") as file:
        with write_errors(Path(file.name)), pa.ipc.new_file(file.name, first.schema) as writer:
            for table in chain([first, second], remaining):
                writer.write_table(table)
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


def parquet_batches(file: Path | pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file in batches, with these columns in this order; an empty one if there are none.

    Raises `KeyError` for a column that is absent, and what Arrow raises for a damaged file.
    """
    opened = pq.ParquetFile(file, pre_buffer=False) if isinstance(file, Path) else file
    schema = opened.schema_arrow if columns is None else pa.schema(map(opened.schema_arrow.field, columns))
    # With more threads, pyarrow holds on to about 100 MB of decoded batches.
    for batch in opened.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
        yield pa.Table.from_batches([batch]).select(schema.names)
    if not opened.metadata.num_rows:
        yield schema.empty_table()
    if opened.metadata.num_rows > BATCH_ROWS:
        pa.default_memory_pool().release_unused()


def from_arrow(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as a data frame, in its chunks."""
    return pl.DataFrame(pl.from_arrow(table, rechunk=False))


def mapped_group(rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table, its texts mapped, which gives the same Parquet as one in memory.

    The pages of other columns depend on where these are divided.
    """
    table = map_arrow(batch.rechunk().to_arrow().cast(schema) for batch in in_batches(rows))
    columns = [column if pa.types.is_large_string(column.type) else column.combine_chunks() for column in table.columns]
    return pa.table(columns, schema=schema)


def _compact(batch: pl.DataFrame) -> pa.Table:
    """Return a batch as Arrow whose texts polars can map, without what the buffers of the batch hold beside them."""
    table = batch[np.arange(len(batch))].to_arrow()  # a slice of lists has the values of all rows
    return table.cast(pa.schema([field.with_type(_mappable(field.type)) for field in table.schema]))


def _mappable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string_view()
    if pa.types.is_large_list(kind):
        return pa.large_list(_mappable(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_mappable(field.type)) for field in kind])
    return kind


def in_batches(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of a table in batches; an empty one if there are none."""
    for start in range(0, max(len(table), 1), BATCH_ROWS):
        yield table[start : start + BATCH_ROWS]


def beside(table: pl.DataFrame, columns: pl.DataFrame) -> pl.DataFrame:
    """Return a table with more columns, divided as its own: polars copies a table whose columns are not."""
    ends = np.cumsum(table.to_series(0).chunk_lengths())
    parts = [columns[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return table.hstack(pl.concat(parts, rechunk=False))


def rows_at(table: pl.DataFrame, positions: Int64) -> pl.DataFrame:
    """Return the rows at these positions, in their order; `table[positions]` would first copy a mapped table."""
    ends = np.cumsum(table.to_series(0).chunk_lengths())
    if len(ends) == 1:
        return table[positions]
    order = np.argsort(positions, kind="stable")
    chunks = np.split(positions[order], np.searchsorted(positions[order], ends[:-1]))
    starts = [0, *ends[:-1]]
    parts = [
        table[start:end][chunk - start] for start, end, chunk in zip(starts, ends, chunks, strict=True) if len(chunk)
    ]
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return pl.concat([table.clear(), *parts], rechunk=True)[place]


def batches_at(table: pl.DataFrame, positions: Int64) -> Iterator[pl.DataFrame]:
    """Yield the rows at these positions, in their order, in batches; an empty one if there are none."""
    for start in range(0, max(len(positions), 1), BATCH_ROWS):
        yield rows_at(table, positions[start : start + BATCH_ROWS])


def rows_or_null(table: pl.DataFrame, positions: Int64) -> pl.DataFrame:
    """Return the rows at these positions, in their order, with only nulls where a position is -1."""
    if table.is_empty():
        return table.clear(len(positions))
    is_found = pl.lit(pl.Series(positions >= 0))
    return rows_at(table, np.maximum(positions, 0)).select(pl.when(is_found).then(pl.all()))


def sorted_by(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the rows in ascending order of a column, mapped; the table itself where they are."""
    if all(part.is_sorted() for part in _with_neighbours(table[column])):
        return table
    return mapped(batches_at(table, table[column].arg_sort().to_numpy()))


def _with_neighbours(column: pl.Series) -> Iterator[pl.Series]:
    """Yield the values of a column in batches that share one value with the next."""
    return (column[start : start + BATCH_ROWS + 1].rechunk() for start in range(0, len(column), BATCH_ROWS))


class KeyIndex:
    """Where keys are in a table, found by their hashes: 12 bytes a row beside the columns `keys`."""

    def __init__(self, keys: pl.DataFrame) -> None:
        hashes = _hashes(keys)
        order = np.argsort(hashes, kind="stable")
        self._keys, self._hashes, self._order = keys, hashes[order], order.astype(np.uint32)

    @property
    def is_unique(self) -> bool:
        """Whether each key is that of one row, as far as their hashes tell."""
        return not (self._hashes[1:] == self._hashes[:-1]).any()

    def first(self, wanted: pl.DataFrame) -> Int64:
        """Return the first position of each of the `wanted` keys, (n,), -1 where there is none; nulls are equal."""
        return np.concatenate([self._first(batch) for batch in in_batches(wanted)])

    def _first(self, wanted: pl.DataFrame) -> Int64:
        found = np.full(len(wanted), -1, np.int64)
        hashes = _hashes(wanted)
        at = np.searchsorted(self._hashes, hashes)
        unsure = np.arange(len(wanted))
        while True:
            unsure = unsure[at[unsure] < len(self._hashes)]
            unsure = unsure[self._hashes[at[unsure]] == hashes[unsure]]
            if not len(unsure):
                return found
            positions = self._order[at[unsure]].astype(np.int64)
            is_same = _equal_rows(rows_at(self._keys, positions), wanted[unsure])
            found[unsure[is_same]] = positions[is_same]
            unsure = unsure[~is_same]
            at[unsure] += 1


def first_with_key(keys: pl.DataFrame) -> Int64:
    """Return for each row, (n,), the position of the first row with the same keys; nulls are equal."""
    index = KeyIndex(keys)
    if index.is_unique:
        return np.arange(len(keys))
    return index.first(keys)


def unique_by(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the first row of each value of a column, in their order, mapped."""
    first = first_with_key(table.select(column))
    return mapped(batches_at(table, np.flatnonzero(first == np.arange(len(first)))))


class RowsByValue(NamedTuple):
    """The (m,) rows that have a value, those of equal values together, and where each value starts in them."""

    rows: Int64
    starts: Int64


def rows_by_value(table: pl.DataFrame, column: str) -> RowsByValue:
    """Return the rows of a table by the hashes of a column, without those where it is null."""
    rows = table[column].is_not_null().arg_true().to_numpy().astype(np.int64)
    hashes = _hashes(table.select(column))[rows]
    order = np.argsort(hashes, kind="stable")
    return RowsByValue(rows[order], np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]])))


def _hashes(keys: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.concatenate([batch.hash_rows().to_numpy() for batch in in_batches(keys)])


def _equal_rows(left: pl.DataFrame, right: pl.DataFrame) -> Bool:
    is_same = [left[name].eq_missing(right[name]).to_numpy() for name in left.columns]
    return np.asarray(np.logical_and.reduce(is_same))


class MissingIds:
    """The positions of content ids that are still missing, found by their hashes; 25 bytes an id."""

    def __init__(self, content_ids: pl.Series) -> None:
        hashes = content_ids.hash().to_numpy()
        self.content_ids = content_ids
        self.is_missing = np.ones(len(content_ids), np.bool_)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def take(self, stored: pl.Series) -> tuple[Int64, Int64]:
        """Return the missing positions whose ids are in `stored`, ascending, and where; they no longer are missing."""
        hashes = stored.hash().to_numpy()
        first = np.searchsorted(self._hashes, hashes, side="left")
        counts = np.searchsorted(self._hashes, hashes, side="right") - first
        rows = np.repeat(np.arange(len(stored)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = self._order[np.repeat(first, counts) + nth]
        is_same = self.content_ids.gather(positions).eq_missing(stored.gather(rows)).to_numpy()
        is_same = is_same & self.is_missing[positions]
        positions, at = np.unique(positions[is_same], return_index=True)
        self.is_missing[positions] = False
        return positions, rows[is_same][at]

    def check_none(self, key: str) -> None:
        """Check that the set of vectors at `key`, whose ids were taken, lacks none. Raises `ShardCorrupt`."""
        if self.is_missing.any():
            example = self.content_ids[int(self.is_missing.argmax())]
            raise ShardCorrupt(f"{key} lacks {self.is_missing.sum()} of the wanted vectors, e.g. {example}")
