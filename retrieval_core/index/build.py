"""Build the files of an index: one trained template, then one immutable folder per shard.

A shard folder holds `index.faiss`, which finds candidates and carries its int64 row ids inside, and `vectors.arrow`,
the full vectors sorted by row id for the exact rerank. Rows stand in ascending row id in every inverted list and in
every flat index. Equal inputs give equal bytes (but for graph indexes, HNSW and NSG, which faiss links in the order its
threads happen to finish).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.codes import add_rows
from retrieval_core.index.recipes import TRAIN_ITERATIONS, Recipe, n_lists, new_index, require_training_rows

INDEX_FILE = "index.faiss"
VECTORS_FILE = "vectors.arrow"
INDEX_BYTES = b"index_bytes"  # metadata of vectors.arrow: the size its index.faiss must have


def train_template(sample: Float32, recipe: Recipe, seed: int) -> bytes:
    """An empty index trained on `sample`, serialised: the start of every shard.

    `sample` is (n, c) float32, random rows of the candidate vectors; of more than `recipe.train_rows` a seeded subset
    is taken. Raises `BadConfig` when they are too few for the recipe, `ShardCorrupt` for NaN or infinite values.
    """
    import faiss

    sample = _finite_matrix(sample, "sample")
    index = new_index(recipe.key, sample.shape[1])
    if not index.is_trained:
        sample = _subset(sample, recipe.train_rows, seed)
        nlist = n_lists(index)
        require_training_rows(recipe.key, nlist, len(sample))
        if nlist:
            clustering: Any = faiss.extract_index_ivf(index)
            clustering.cp.seed, clustering.cp.niter = seed & 0x7FFFFFFF, TRAIN_ITERATIONS
        try:
            index.train(sample)
        except RuntimeError as error:
            raise BadConfig(f"index.recipe {recipe.key!r} cannot train on {len(sample):,} rows: {error}") from error
    return bytes(faiss.serialize_index(index))


def build_shard(template: bytes, row_ids: Int64, candidates: Float32, vectors: Float32, folder: Path) -> None:
    """Write one shard into `folder`, replacing what was there file by file.

    `row_ids` (n,) int64, unique and not negative, in any order; `candidates` (n, c) float32 go into the index,
    `vectors` (n, d) float32 beside it; no rows are fine. Raises `CatalogInvalid` for bad ids, `DimensionMismatch` where
    the shapes do not fit, `ShardCorrupt` for NaN or infinite values.
    """
    row_ids, candidates, vectors = valid_rows(row_ids, candidates, vectors)
    index = open_template(template)
    require_width(index, candidates)
    if (np.diff(row_ids) < 0).any():
        order = np.argsort(row_ids)
        row_ids, candidates, vectors = row_ids[order], candidates[order], vectors[order]
    add_rows(index, row_ids, candidates)
    write_shard(index, row_ids, vectors, folder)


def shard_row_ids(folder: Path) -> Int64:
    """(n,) int64, ascending: the rows whose full vectors lie in a shard's folder. Raises `ShardCorrupt`."""
    return map_vectors(folder / VECTORS_FILE).row_ids


def indexed_row_ids(folder: Path) -> Int64:
    """(n,) int64, ascending: the rows that the index of a shard's folder can find. Raises `ShardCorrupt`."""
    import faiss

    index = map_index(folder / INDEX_FILE, map_vectors(folder / VECTORS_FILE).n_index_bytes)
    if isinstance(index, faiss.IndexIDMap):
        return np.sort(faiss.vector_to_array(index.id_map))
    lists: Any = faiss.extract_index_ivf(index).invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    held = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in enumerate(sizes) if size]
    return np.sort(np.concatenate([np.empty(0, np.int64), *held]))


def vectors_schema(dim: int) -> pa.Schema:
    """The columns of `vectors.arrow`: row_id and vector, without nulls."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dim)
    return pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)])


class MappedVectors(NamedTuple):
    """An open `vectors.arrow`; nothing is read until it is used."""

    row_ids: Int64  # (n,) ascending
    vectors: Float32  # (n, dim)
    n_index_bytes: int


def places_of(ascending: Int64, row_ids: Int64) -> tuple[Int64, Bool]:
    """Where each of `row_ids` stands in `ascending`, and whether it is there at all."""
    if len(ascending) == 0:
        return np.zeros(len(row_ids), np.int64), np.zeros(len(row_ids), bool)
    place = np.minimum(np.searchsorted(ascending, row_ids), len(ascending) - 1)
    return place, ascending[place] == row_ids


def map_vectors(path: Path) -> MappedVectors:
    """Raises `ShardCorrupt` for a file that is missing, damaged or something else."""
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
        raise ShardCorrupt(f"{path} cannot be read as a shard's vectors; fetch or build it again: {error}") from error
    return MappedVectors(row_ids, vectors, n_index_bytes)


def map_index(path: Path, n_bytes: int, *, copy: bool = False) -> Any:
    """The faiss index in a file of `n_bytes`, mapped, or read whole as a `copy` that may be changed.

    Raises `ShardCorrupt` for a file that is missing, of another size, or no index.
    """
    import faiss

    try:
        # Before faiss sees the file: it can crash on a truncated one.
        if path.stat().st_size != n_bytes:
            raise ShardCorrupt(f"{path} has {path.stat().st_size} bytes, expected {n_bytes}; fetch or build it again")
        # Not IO_FLAG_MMAP, which maps inverted lists only, and starts 32 threads a search to touch them ahead.
        return faiss.read_index(str(path), 0 if copy else faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError, MemoryError) as error:
        raise ShardCorrupt(f"{path} cannot be read as a faiss index; fetch or build it again: {error}") from error


def open_template(template: bytes) -> Any:
    """The empty index of `train_template`. Raises `ShardCorrupt` where it cannot be read."""
    import faiss

    try:
        return faiss.deserialize_index(np.frombuffer(template, np.uint8))
    except RuntimeError as error:
        raise ShardCorrupt(f"the index template cannot be read; train it again: {error}") from error


def require_width(index: Any, candidates: Float32) -> None:
    """Raises `DimensionMismatch` where (n, c) `candidates` are of another width than `index`."""
    if index.d != candidates.shape[1]:
        raise DimensionMismatch(
            f"candidate vectors have {candidates.shape[1]} dimensions, the template was trained on {index.d}; "
            "train the template on the same vectors"
        )


def write_shard(index: Any, row_ids: Int64, vectors: Float32, folder: Path) -> None:
    """Write `index` and the full `vectors` (n, d) of its rows, both in ascending row id, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = _write_index(index, folder / INDEX_FILE)
    _write_vectors(row_ids, vectors, n_bytes, folder / VECTORS_FILE)


def valid_rows(row_ids: Int64, candidates: Float32, vectors: Float32) -> tuple[Int64, Float32, Float32]:
    """The three as contiguous int64, float32 and float32, checked as `build_shard` says."""
    row_ids = valid_ids(row_ids)
    candidates, vectors = _finite_matrix(candidates, "candidate"), _finite_matrix(vectors, "full")
    if not len(row_ids) == len(candidates) == len(vectors):
        raise DimensionMismatch(
            f"a shard wants as many ids as vectors, got {len(row_ids)} ids, {len(candidates)} candidate vectors and "
            f"{len(vectors)} full vectors"
        )
    return row_ids, candidates, vectors


def _mapped(column: Any, dtype: npt.DTypeLike, n: int) -> Any:
    """The values of an Arrow array without a copy; its own `to_numpy` would import pandas, half a second."""
    return np.frombuffer(column.buffers()[1], dtype, n) if n else np.empty(0, dtype)


def _write_index(index: Any, path: Path) -> int:
    import faiss

    # Beside, then renamed: a running search may have the old file mapped, and overwriting that kills its process.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    faiss.write_index(index, str(beside))
    n_bytes = beside.stat().st_size
    beside.replace(path)
    return n_bytes


def _write_vectors(row_ids: Int64, vectors: Float32, n_index_bytes: int, path: Path) -> None:
    schema = vectors_schema(vectors.shape[1]).with_metadata({INDEX_BYTES: str(n_index_bytes)})
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type)
    batch = pa.record_batch([pa.array(row_ids), column], schema=schema)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    beside.replace(path)


def _subset(sample: Float32, n_rows: int, seed: int) -> Float32:
    if len(sample) <= n_rows:
        return sample
    return sample[np.sort(np.random.default_rng(seed).choice(len(sample), n_rows, replace=False))]


def valid_ids(row_ids: Int64) -> Int64:
    """(n,) int64 in the order given. Raises `CatalogInvalid` unless they are whole, unique and not negative."""
    ids = np.asarray(row_ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise CatalogInvalid(f"row ids are whole numbers in one dimension, got {ids.dtype} of shape {ids.shape}")
    ids = ids.astype(np.int64)
    if len(ids) and ids.min() < 0:
        raise CatalogInvalid(f"row id {ids.min()} is negative; ids are 63-bit hashes, and -1 marks an empty place")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1]
        raise CatalogInvalid(f"{len(twice)} row ids occur more than once, e.g. {twice[0]}; each item is indexed once")
    return ids


def _finite_matrix(values: Float32, name: str) -> Float32:
    matrix = np.ascontiguousarray(values, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise DimensionMismatch(f"{name} vectors must be (n, dim), got shape {matrix.shape}")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ShardCorrupt(
            f"{bad.sum()} of {len(matrix)} {name} vectors hold NaN or infinity, the first in row {bad.argmax()}; "
            "embed those pictures again"
        )
    return matrix
