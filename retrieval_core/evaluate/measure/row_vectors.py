"""The vectors of the rows of a catalogue, most of which stay on disk until they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from retrieval_core.arrays import Float32, Int64
from retrieval_core.index.shard_files import positions_of


class RowVectors(Protocol):
    """The vectors of n rows: `vectors[rows]` are the (m, dim) float32 vectors of (m,) rows, as of a numpy array."""

    def __getitem__(self, rows: Int64, /) -> Float32: ...


class StoredVectors:
    """The vectors of n rows: those of the `kept` rows, ascending, are in memory, others are read when they are needed.

    `read(rows)` returns the (m, dim) vectors of (m,) rows.
    """

    def __init__(self, kept: Int64, read: Callable[[Int64], Float32]) -> None:
        self._kept, self._vectors, self._read = kept, read(kept), read

    def __getitem__(self, rows: Int64, /) -> Float32:
        position, is_kept = positions_of(self._kept, rows)
        return self._vectors[position] if is_kept.all() else self._read(rows)
