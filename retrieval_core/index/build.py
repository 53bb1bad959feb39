"""Build the files of an index: one trained template, then one immutable folder per shard.

A shard folder holds `index.faiss`, which finds candidates and carries its int64 row ids inside, and `vectors.arrow`,
the full vectors sorted by row id for the exact rerank. Equal inputs give equal bytes (but for graph indexes, HNSW and
NSG, which faiss links in the order its threads happen to finish).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.recipes import Recipe, n_lists, new_index, require_training_rows

INDEX_FILE = "index.faiss"
VECTORS_FILE = "vectors.arrow"
INDEX_BYTES = b"index_bytes"  # metadata of vectors.arrow: the size its index.faiss must have

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


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
            faiss.extract_index_ivf(index).cp.seed = seed & 0x7FFFFFFF
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
    row_ids = _valid_ids(row_ids)
    candidates, vectors = _finite_matrix(candidates, "candidate"), _finite_matrix(vectors, "full")
    if not len(row_ids) == len(candidates) == len(vectors):
        raise DimensionMismatch(
            f"a shard wants as many ids as vectors, got {len(row_ids)} ids, {len(candidates)} candidate vectors and "
            f"{len(vectors)} full vectors"
        )
    order = np.argsort(row_ids)
    index = _filled_index(template, row_ids[order], candidates[order])
    folder.mkdir(parents=True, exist_ok=True)
    n_bytes = _write_index(index, folder / INDEX_FILE)
    _write_vectors(row_ids[order], vectors[order], n_bytes, folder / VECTORS_FILE)


def vectors_schema(dim: int) -> pa.Schema:
    """The columns of `vectors.arrow`: row_id and vector, without nulls."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dim)
    return pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("vector", vector, nullable=False)])


def _filled_index(template: bytes, row_ids: Int64, candidates: Float32) -> Any:
    import faiss

    try:
        index = faiss.deserialize_index(np.frombuffer(template, np.uint8))
    except RuntimeError as error:
        raise ShardCorrupt(f"the index template cannot be read; train it again: {error}") from error
    if index.d != candidates.shape[1]:
        raise DimensionMismatch(
            f"candidate vectors have {candidates.shape[1]} dimensions, the template was trained on {index.d}; "
            "train the template on the same vectors"
        )
    index.add_with_ids(candidates, row_ids)
    return index


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


def _valid_ids(row_ids: Int64) -> Int64:
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
