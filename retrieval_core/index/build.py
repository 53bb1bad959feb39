"""Build the shards of an index from one trained template.

Rows are stored in ascending row id in every inverted list and in every flat index, and equal inputs give equal bytes.
Graph indexes (HNSW, NSG) are the exception: faiss links their rows in the order in which its threads finish.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.codes import add_rows
from retrieval_core.index.recipes import TRAIN_ITERATIONS, Recipe, n_lists, new_index, require_training_rows
from retrieval_core.index.shard_files import write_shard


def train_template(sample: Float32, recipe: Recipe, seed: int) -> bytes:
    """Return an empty index trained on `sample`, serialised: every shard starts as a copy of it.

    `sample` is (n, c) float32, random rows of the candidate vectors; of more than `recipe.train_rows`, a seeded subset
    is used. Raises `BadConfig` when there are too few rows for the recipe, `ShardCorrupt` for NaN or infinite values.
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
    """Write the files of one shard into `folder`, replacing existing ones.

    `row_ids` (n,) int64 are unique and not negative, in any order; `candidates` (n, c) float32 go into the index and
    `vectors` (n, d) float32 beside it; n may be 0. Raises `CatalogInvalid` for bad ids, `DimensionMismatch` for shapes
    that do not fit, `ShardCorrupt` for NaN or infinite values.
    """
    row_ids, candidates, vectors = valid_rows(row_ids, candidates, vectors)
    index = open_template(template)
    require_width(index, candidates)
    if (np.diff(row_ids) < 0).any():
        order = np.argsort(row_ids)
        row_ids, candidates, vectors = row_ids[order], candidates[order], vectors[order]
    add_rows(index, row_ids, candidates)
    write_shard(index, row_ids, vectors, folder)


def open_template(template: bytes) -> Any:
    """Return the empty faiss index that `train_template` serialised. Raises `ShardCorrupt` when it is unreadable."""
    import faiss

    try:
        return faiss.deserialize_index(np.frombuffer(template, np.uint8))
    except RuntimeError as error:
        raise ShardCorrupt(f"the index template cannot be read; train it again: {error}") from error


def require_width(index: Any, candidates: Float32) -> None:
    """Raise `DimensionMismatch` unless (n, c) `candidates` have the width of `index`."""
    if index.d != candidates.shape[1]:
        raise DimensionMismatch(
            f"candidate vectors have {candidates.shape[1]} dimensions, the template was trained on {index.d}; "
            "train the template on the same vectors"
        )


def valid_rows(row_ids: Int64, candidates: Float32, vectors: Float32) -> tuple[Int64, Float32, Float32]:
    """Return the three as contiguous int64, float32 and float32 arrays. Raises what `build_shard` says."""
    row_ids = valid_ids(row_ids)
    candidates, vectors = _finite_matrix(candidates, "candidate"), _finite_matrix(vectors, "full")
    if not len(row_ids) == len(candidates) == len(vectors):
        raise DimensionMismatch(
            f"a shard needs as many ids as vectors, got {len(row_ids)} ids, {len(candidates)} candidate vectors and "
            f"{len(vectors)} full vectors"
        )
    return row_ids, candidates, vectors


def valid_ids(row_ids: Int64) -> Int64:
    """Return the ids as (n,) int64, in the order given. Raises `CatalogInvalid` unless they are unique and >= 0."""
    ids = np.asarray(row_ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise CatalogInvalid(f"row ids are whole numbers in one dimension, got {ids.dtype} of shape {ids.shape}")
    ids = ids.astype(np.int64)
    if len(ids) and ids.min() < 0:
        raise CatalogInvalid(f"row id {ids.min()} is negative; ids are 63-bit hashes, and -1 marks an empty place")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        repeated = unique[counts > 1]
        raise CatalogInvalid(
            f"{len(repeated)} row ids occur more than once, e.g. {repeated[0]}; each item is indexed once"
        )
    return ids


def _subset(sample: Float32, n_rows: int, seed: int) -> Float32:
    if len(sample) <= n_rows:
        return sample
    return sample[np.sort(np.random.default_rng(seed).choice(len(sample), n_rows, replace=False))]


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
