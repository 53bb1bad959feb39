"""Search a sharded index: candidates from every shard, merged, then reranked exactly in the full dimension.

Shards are memory-mapped and never changed, so an open index may be searched from many threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.index.build import INDEX_BYTES, INDEX_FILE, VECTORS_FILE, vectors_schema
from retrieval_core.index.topk import best_of, kept_candidates, pair_scores, query_blocks, search_past_ties

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class _Shard(NamedTuple):
    folder: Path
    index: Any
    row_ids: Int64  # (n,) ascending
    vectors: Float32  # (n, dim), mapped

    def places(self, row_ids: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Where each id stands in `vectors`, and whether it is here at all."""
        if len(self.row_ids) == 0:
            return np.zeros(len(row_ids), np.int64), np.zeros(len(row_ids), bool)
        place = np.minimum(np.searchsorted(self.row_ids, row_ids), len(self.row_ids) - 1)
        return place, self.row_ids[place] == row_ids


class ShardedIndex:
    """An open version of the index; `n_rows` rows of `dim` dimensions, found by their `candidate_dim` ones."""

    def __init__(self, shards: Sequence[_Shard], dim: int, candidate_dim: int) -> None:
        self._shards = tuple(shard for shard in shards if len(shard.row_ids))
        self.dim = dim
        self.candidate_dim = candidate_dim
        self.n_rows = sum(len(shard.row_ids) for shard in self._shards)

    @classmethod
    def open(cls, folders: Sequence[Path], dim: int, candidate_dim: int, nprobe: int) -> Self:
        """Map the shards in `folders`; `nprobe` 0 leaves the lists visited as the shards have it.

        Raises `ShardCorrupt` for a missing or damaged file and `DimensionMismatch` for a shard of other widths.
        Checksums are the store's to check: `Store.local_path` does, before it hands out a path.
        """
        if nprobe < 0:
            raise BadConfig(f"nprobe is a number of inverted lists, 0 or more, got {nprobe}")
        return cls([_open_shard(folder, dim, candidate_dim, nprobe) for folder in folders], dim, candidate_dim)

    def search(self, queries: Float32, candidate_queries: Float32, k: int, rerank_depth: int) -> tuple[Float32, Int64]:
        """The `k` rows of the largest inner product with each query.

        `queries` (q, dim) and `candidate_queries` (q, candidate_dim) float32, unit length, are the same queries before
        and after the reducer. The `k * rerank_depth` best candidates (and what ties with the last) are scored in the
        full dimension; equal scores go by the lower row id, so the number of shards does not show (unless more than
        `topk.MAX_TIED` rows tie). Returns (q, k) float32 scores, falling, and (q, k) int64 row ids, padded with -inf
        and -1 where the index holds fewer.

        Raises `DimensionMismatch` for other widths, `BadConfig` for k or depth below 1 and for NaN or infinite queries,
        `ShardCorrupt` when an index names a row its vectors lack.
        """
        if k < 1 or rerank_depth < 1:
            raise BadConfig(f"k and rerank_depth are at least 1, got k={k} and rerank_depth={rerank_depth}")
        queries = _checked_queries(queries, self.dim, "queries")
        candidate_queries = _checked_queries(candidate_queries, self.candidate_dim, "candidate queries")
        if len(queries) != len(candidate_queries):
            raise DimensionMismatch(
                f"{len(queries)} queries came with {len(candidate_queries)} candidate queries; "
                "pass each query in both widths"
            )
        scores = np.full((len(queries), k), -np.inf, np.float32)
        row_ids = np.full((len(queries), k), -1, np.int64)
        depth = min(k * rerank_depth, self.n_rows)
        for block in query_blocks(len(queries) if depth else 0, depth * len(self._shards)):
            found = self._search_block(queries[block], candidate_queries[block], k, depth)
            scores[block], row_ids[block] = found
        return scores, row_ids

    def vectors_of(self, row_ids: Int64) -> Float32:
        """(n, dim) float32, the full vectors of these rows in the order asked. Raises `NotFound`."""
        row_ids = np.asarray(row_ids, np.int64)
        vectors = np.empty((len(row_ids), self.dim), np.float32)
        missing = np.ones(len(row_ids), bool)
        for shard in self._shards:
            place, here = shard.places(row_ids)
            vectors[here] = shard.vectors[place[here]]
            missing &= ~here
        if missing.any():
            raise NotFound(f"{missing.sum()} of {len(row_ids)} rows are not in the index, e.g. {row_ids[missing][0]}")
        return vectors

    def row_ids(self) -> Int64:
        """(n_rows,) int64, ascending: every row of every shard."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(shard.row_ids for shard in self._shards)]))

    def _search_block(self, queries: Float32, candidate_queries: Float32, k: int, depth: int) -> tuple[Float32, Int64]:
        found = [search_past_ties(s.index.search, candidate_queries, depth, len(s.row_ids)) for s in self._shards]
        scores = np.concatenate([scores for scores, _ in found], axis=1)
        row_ids = np.concatenate([ids for _, ids in found], axis=1)
        shard_of_column = np.repeat(np.arange(len(found)), [ids.shape[1] for _, ids in found])
        query, column = kept_candidates(scores, row_ids, depth)
        rows = row_ids[query, column]
        exact = self._exact_scores(queries, query, rows, shard_of_column[column])
        return best_of(query, rows, exact, len(queries), k)

    def _exact_scores(self, queries: Float32, query: Int64, rows: Int64, shard_number: Int64) -> Float32:
        """(p,) inner products of queries[query] with the full vectors of `rows`, shard by shard."""
        exact = np.empty(len(rows), np.float32)
        for number, shard in enumerate(self._shards):
            of_shard = np.flatnonzero(shard_number == number)
            place, here = shard.places(rows[of_shard])
            if not here.all():
                raise ShardCorrupt(
                    f"{shard.folder / INDEX_FILE} names row {rows[of_shard][~here][0]}, which {VECTORS_FILE} beside it "
                    "lacks; build the shard again"
                )
            exact[of_shard] = pair_scores(queries, query[of_shard], shard.vectors, place)
        return exact


def _open_shard(folder: Path, dim: int, candidate_dim: int, nprobe: int) -> _Shard:
    row_ids, vectors, n_index_bytes = _map_vectors(folder / VECTORS_FILE)
    index = _map_index(folder / INDEX_FILE, n_index_bytes)
    if (vectors.shape[1], index.d) != (dim, candidate_dim):
        raise DimensionMismatch(
            f"{folder} holds {vectors.shape[1]}-d vectors found by {index.d}-d candidates, expected {dim} and "
            f"{candidate_dim}; open each index with its own manifest"
        )
    if index.ntotal != len(row_ids):
        raise ShardCorrupt(f"{folder} indexes {index.ntotal} rows and holds vectors of {len(row_ids)}; build it again")
    _prepare_lists(index, nprobe)
    return _Shard(folder, index, row_ids, vectors)


def _map_vectors(path: Path) -> tuple[Int64, Float32, int]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch, metadata = reader.get_batch(0), reader.schema.metadata or {}
        row_ids = batch.column("row_id").to_numpy(zero_copy_only=True)
        dim = batch.column("vector").type.list_size
        vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=True).reshape(len(row_ids), dim)
        n_index_bytes = int(metadata[INDEX_BYTES])
    except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise ShardCorrupt(f"{path} cannot be read as a shard's vectors; fetch or build it again: {error}") from error
    if reader.num_record_batches != 1 or not reader.schema.equals(vectors_schema(dim)):
        columns = reader.schema.to_string(show_schema_metadata=False)
        raise ShardCorrupt(f"{path} has {reader.num_record_batches} batches of other columns than expected: {columns}")
    if (np.diff(row_ids) <= 0).any() or (len(row_ids) and row_ids[0] < 0):
        raise ShardCorrupt(f"{path}: row ids are not ascending; fetch or build it again")
    return row_ids, vectors, n_index_bytes


def _map_index(path: Path, n_bytes: int) -> Any:
    import faiss

    try:
        # Before faiss sees the file: it can crash on a truncated one.
        if path.stat().st_size != n_bytes:
            raise ShardCorrupt(f"{path} has {path.stat().st_size} bytes, expected {n_bytes}; fetch or build it again")
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except (OSError, RuntimeError, MemoryError) as error:
        raise ShardCorrupt(f"{path} cannot be read as a faiss index; fetch or build it again: {error}") from error


def _prepare_lists(index: Any, nprobe: int) -> None:
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return
    ivf.nprobe = nprobe or ivf.nprobe
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        # faiss starts 32 threads per search to touch mapped lists ahead: ten times slower for a single query.
        lists.prefetch_nthread = 0


def _checked_queries(queries: Float32, dim: int, name: str) -> Float32:
    matrix = np.ascontiguousarray(queries, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise DimensionMismatch(
            f"{name} have shape {matrix.shape}, the index holds {dim}-d vectors and wants (q, {dim}); "
            "make queries with the release's own backbone, head and reducer"
        )
    if not np.isfinite(matrix).all():
        row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
        raise BadConfig(f"{name} hold NaN or infinity, the first in row {row}; nothing is near such a vector")
    return matrix
