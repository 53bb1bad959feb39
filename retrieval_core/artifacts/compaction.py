"""Merge the small parts of a growing set, so that the number of parts that a run reads does not grow with its age.

Parts are in tiers by their number of rows, as in a log-structured merge tree: `FAN_IN` parts of one tier become one
part of a higher tier. So a row is rewritten at most four times, and n rows are in at most n / `FULL_ROWS` parts and 28
smaller ones. A merged part is a concatenation of pieces, which are parts as runs stored them, ordered by name. Its
metadata states the pieces, so that a set derived from it can be computed piece by piece, in the same batches and so to
the same bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.manifests import Part, Value
from retrieval_core.errors import ShardCorrupt

FAN_IN = 8
FULL_TIER = 4
FULL_ROWS = FAN_IN**FULL_TIER  # larger parts stay as they are
FULL_BYTES = 32 << 20  # larger parts stay as they are too, which bounds the memory that a merge of `FAN_IN` parts takes

_PIECES = b"vitrine.pieces"


class Pieces(Value):
    """What a part was merged from: the number of rows by piece, in order; `merged` names earlier merged parts."""

    n_rows: Mapping[str, int]
    merged: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The metadata that states them in a part."""
        return {_PIECES: self.model_dump_json().encode()}

    @property
    def replaced(self) -> set[str]:
        """The names of the parts whose rows are all in the merged part."""
        return {*self.n_rows, *self.merged}


def short_name(sha256: str) -> str:
    """Return the name of a part among the pieces of another: the first 16 hex digits of its checksum."""
    return sha256[:16]


def plan_merges(parts: Iterable[Part]) -> list[list[Part]]:
    """Return the groups of parts to merge, so that no tier below the highest keeps `FAN_IN` parts or more."""
    tiers: list[list[list[Part]]] = [[] for _ in range(FULL_TIER + 1)]
    for part in sorted(parts, key=lambda part: part.sha256):
        tiers[_tier([part])].append([part])
    for tier in tiers[:FULL_TIER]:
        while len(tier) >= FAN_IN:
            group = [part for _ in range(FAN_IN) for part in tier.pop(0)]
            tiers[_tier(group)].append(group)
    return [group for tier in tiers for group in tier if len(group) > 1]


def _tier(group: list[Part]) -> int:
    n_rows = sum(part.n_rows for part in group)
    if n_rows >= FULL_ROWS or sum(part.n_bytes for part in group) >= FULL_BYTES:
        return FULL_TIER
    return next(tier for tier in range(FULL_TIER) if n_rows < FAN_IN ** (tier + 1))


def merge_tables(paths: Mapping[str, Path]) -> pa.Table:
    """Return the rows of several local parts, by checksum, as one table that states its pieces, each of them once.

    Raises `ShardCorrupt`.
    """
    tables: dict[str, pa.Table] = {}
    merged: set[str] = set()
    for sha256, path in paths.items():
        table, pieces = pq.read_table(path), pieces_of(path)
        if pieces:
            merged |= {short_name(sha256), *pieces.merged}
        start = 0
        for name, n_rows in (pieces.n_rows if pieces else {short_name(sha256): len(table)}).items():
            tables[name] = table.slice(start, n_rows).replace_schema_metadata()
            start += n_rows
    tables = dict(sorted(tables.items()))
    joined = pa.concat_tables(tables.values()).combine_chunks()
    pieces = Pieces(n_rows={name: len(table) for name, table in tables.items()}, merged=tuple(sorted(merged)))
    return joined.replace_schema_metadata(pieces.metadata)


def pieces_of(path: Path) -> Pieces | None:
    """Return the pieces that a local part states, None for a part that was not merged. Raises `ShardCorrupt`."""
    try:
        stated = (pq.read_schema(path).metadata or {}).get(_PIECES)
        return Pieces.model_validate_json(stated) if stated else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardCorrupt(f"{path} does not state its pieces: {error}") from error


def transform_by_piece(transform: Callable[[Float32], Float32], vectors: Float32, pieces: Pieces | None) -> Float32:
    """Apply `transform` to the rows of each piece of a part on its own, (n, dim)."""
    ends = np.cumsum(list(pieces.n_rows.values()) if pieces else [len(vectors)])
    # Each block is a copy, so that it lies in memory as it did in the part of its own.
    return np.concatenate([transform(block.copy()) for block in np.split(vectors, ends[:-1])])
