"""The two files of a shard: `index.faiss`, which finds candidates, and `vectors.arrow`, which reranks them.

The index holds its int64 row ids itself. `vectors.arrow` holds the full vectors in ascending row id, uncompressed and
in one batch, so that it can be memory-mapped, and the size of the index file that belongs to it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.errors import ShardCorrupt

INDEX_FILE = "index.faiss"
VECTORS_FILE = "vectors.arrow"
INDEX_BYTES = b"index_bytes"  # metadata of vectors.arrow: the size that its index.faiss must have


class MappedVectors(NamedTuple):
    """A memory-mapped `vectors.arrow`."""

    row_ids: Int64  # (n,) ascending
    vectors: Float32  # (n, dim)
    n_index_bytes: int


def write_shard(index: Any, row_ids: Int64, vectors: Float32, folder: Path) -> None:
    """Write a faiss `index` and the full `vectors` (n, d) of its rows, both in ascending row id, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = _write_index(index, folder / INDEX_FILE)
    _write_vectors(row_ids, vectors, n_bytes, folder / VECTORS_FILE)


def map_vectors(path: Path) -> MappedVectors:
    """Memory-map a `vectors.arrow`. Raises `ShardCorrupt` for a file that is missing, damaged or something else."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        dim = reader.schema.field("vector").type.list_size
        if reader.num_record_batches != 1 or not reader.schema.equals(vectors_schema(dim)):
            columns = reader.schema.to_string(show_schema_metadata=False)
            raise ShardCorrupt(f"{path}: {reader.num_record_batches} batches of other columns than expected: {columns}")
        batch = reader.get_batch(0)
        row_ids = _mapped(batch.column("row_id"), np.int64, batch.num_rows)
        vectors = _mapped(batch.column("vector").values, np.float32, batch.num_rows * dim).reshape(-1, dim)
        n_index_bytes = int(reader.schema.metadata[INDEX_BYTES])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ShardCorrupt(
            f"{path} cannot be read as a shard's vectors; fetch or build the shard again: {error}"
        ) from error
    return MappedVectors(row_ids, vectors, n_index_bytes)


def map_index(path: Path, n_bytes: int, *, copy: bool = False) -> Any:
    """Memory-map the faiss index in a file of `n_bytes`, or read it into memory as a `copy` that may be changed.

    Raises `ShardCorrupt` for a file that is missing, of another size, or not an index.
    """
    import faiss

    try:
        # Check the size first: faiss can crash on a truncated file.
        if path.stat().st_size != n_bytes:
            raise ShardCorrupt(
                f"{path} has {path.stat().st_size} bytes, expected {n_bytes}; fetch or build the shard again"
            )
        # Not IO_FLAG_MMAP: it maps inverted lists only, and starts 32 threads in each search to prefetch them.
        return faiss.read_index(str(path), 0 if copy else faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError, MemoryError) as error:
        raise ShardCorrupt(
            f"{path} cannot be read as a faiss index; fetch or build the shard again: {error}"
        ) from error


def shard_row_ids(folder: Path) -> Int64:
    """Return (n,) int64, ascending: the rows whose full vectors a shard holds. Raises `ShardCorrupt`."""
    return map_vectors(folder / VECTORS_FILE).row_ids


def indexed_row_ids(folder: Path) -> Int64:
    """Return (n,) int64, ascending: the rows that a shard's index can find. Raises `ShardCorrupt`."""
    import faiss

    index = map_index(folder / INDEX_FILE, map_vectors(folder / VECTORS_FILE).n_index_bytes)
    if isinstance(index, faiss.IndexIDMap):
        return np.sort(faiss.vector_to_array(index.id_map))
    lists: Any = faiss.extract_index_ivf(index).invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    row_ids = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in enumerate(sizes) if size]
    return np.sort(np.concatenate([np.empty(0, np.int64), *row_ids]))


def positions_of(ascending: Int64, row_ids: Int64) -> tuple[Int64, Bool]:
    """Return the position of each of `row_ids` (any shape) in `ascending`, and whether it is there at all."""
    if len(ascending) == 0:
        return np.zeros(row_ids.shape, np.int64), np.zeros(row_ids.shape, bool)
    position = np.minimum(np.searchsorted(ascending, row_ids), len(ascending) - 1)
    return position, ascending[position] == row_ids


def vectors_schema(dim: int) -> pa.Schema:
    """Return the columns of `vectors.arrow`: row_id and vector, without nulls."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dim)
    return pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)])


def _mapped(column: Any, dtype: npt.DTypeLike, n: int) -> Any:
    """Return the values of an Arrow array without a copy. Its own `to_numpy` would import pandas, which takes 0.5 s."""
    return np.frombuffer(column.buffers()[1], dtype, n) if n else np.empty(0, dtype)


def _write_index(index: Any, path: Path) -> int:
    import faiss

    # Write a temporary file and rename it: a search may have the old file mapped, and overwriting it would crash it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    faiss.write_index(index, str(temporary))
    n_bytes = temporary.stat().st_size
    temporary.replace(path)
    return n_bytes


def _write_vectors(row_ids: Int64, vectors: Float32, n_index_bytes: int, path: Path) -> None:
    schema = vectors_schema(vectors.shape[1]).with_metadata({INDEX_BYTES: str(n_index_bytes)})
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type)
    batch = pa.record_batch([pa.array(row_ids), column], schema=schema)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    temporary.replace(path)
