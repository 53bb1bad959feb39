"""An open shard: find candidates in its inverted lists or its whole index, and score them by its full vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int32, Int64
from retrieval_core.errors import DimensionMismatch, ShardCorrupt
from retrieval_core.index.codes import apply_transforms, inverted_lists
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, map_index, map_vectors, positions_of
from retrieval_core.index.topk import GATHER_BYTES, CandidateSource, kept_candidates, pair_scores


class Probe(NamedTuple):
    """Queries and the inverted lists to visit for each of them."""

    queries: Float32  # (q, c), transformed as the vectors in the lists are
    lists: Int64  # (q, nprobe), -1 for none
    closeness: Float32  # (q, nprobe) inner products with the centroids


class Shard(NamedTuple):
    """An open shard; its two files are memory-mapped."""

    folder: Path
    index: Any  # of faiss
    lists: Any  # the inverted-file index inside that holds the row ids, None for kinds without one
    row_ids: Int64  # (n,) ascending, mapped
    vectors: Float32  # (n, dim), mapped
    n_index_bytes: int

    def probe(self, candidate_queries: Float32, nprobe: int) -> Probe:
        """Choose the lists to visit in every shard of the same template."""
        queries = apply_transforms(self.index, candidate_queries)
        closeness, lists = self.lists.quantizer.search(queries, nprobe)
        return Probe(queries, lists, closeness)

    def probe_for(self, candidate_queries: Float32, share: Float64, nprobe: int) -> Probe:
        """Choose the nearest lists whose `share` (n_lists,) adds up to `nprobe`; the result is padded with -1.

        The share of a list is from 0, when it holds no row that the search may find and is skipped, to 1.
        """
        every = self.probe(candidate_queries, len(share))
        shares = share[every.lists]
        is_visited = (shares > 0) & (np.cumsum(shares, axis=1) - shares < nprobe)
        first = np.argsort(~is_visited, axis=1, kind="stable")[:, : int(is_visited.sum(axis=1).max(initial=1))]
        lists: Int64 = np.take_along_axis(np.where(is_visited, every.lists, -1), first, axis=1)
        closeness: Float32 = np.take_along_axis(every.closeness, first, axis=1)
        return Probe(every.queries, lists, closeness)

    def list_of_rows(self) -> Int32:
        """Return the (n,) int32 inverted list of each row, -1 for none. This reads every id of the index."""
        import faiss

        list_of_rows = np.full(len(self.row_ids), -1, np.int32)
        for number in range(self.lists.nlist):
            size = self.lists.get_list_size(number)
            if size:
                ids = faiss.rev_swig_ptr(self.lists.invlists.get_ids(number), size)
                position, is_present = positions_of(self.row_ids, ids)
                list_of_rows[position[is_present]] = number
        return list_of_rows

    def list_source(self, probe: Probe, n_rows: int, parameters: Any) -> CandidateSource:
        """Return the rows in the lists of `probe` that `search_parameters` let through, at most `n_rows`."""
        return CandidateSource(partial(_search_lists, self.lists, probe, parameters), n_rows)

    def whole_source(self, candidate_queries: Float32, allowed: Int64 | None = None) -> CandidateSource:
        """Return all rows, or those at positions `allowed`, for a kind whose lists cannot be chosen from outside."""
        if allowed is None:
            return CandidateSource(lambda rows, n: self.index.search(candidate_queries[rows], n), len(self.row_ids))
        search = partial(_search_allowed, self.index, candidate_queries, self.row_ids[allowed], len(self.row_ids))
        return CandidateSource(search, len(allowed))

    def exact_scores(self, queries: Float32, query: Int64, row_ids: Int64) -> Float32:
        """Return the (p,) inner products of queries[query] with the full vectors of `row_ids` (p,).

        Raises `ShardCorrupt` for a row whose vector is missing.
        """
        position, is_present = positions_of(self.row_ids, row_ids)
        if not is_present.all():
            raise ShardCorrupt(
                f"{self.folder / INDEX_FILE} names row {row_ids[~is_present][0]}, which {VECTORS_FILE} beside it "
                "lacks; build the shard again"
            )
        return pair_scores(queries, query, self.vectors, position)

    def best_among(self, queries: Float32, positions: Int64, k: int) -> Iterator[tuple[Int64, Int64, Float32]]:
        """Yield blocks of (query, row id, score): at least the best `k` of each query among the rows at `positions`."""
        n = max(1, GATHER_BYTES // (4 * queries.shape[1]))
        for start in range(0, len(positions), n):
            block = positions[start : start + n]
            vectors = self.vectors[block]
            rough = queries @ vectors.T
            query, column = kept_candidates(rough, np.broadcast_to(block, rough.shape), k)
            yield query, self.row_ids[block[column]], pair_scores(queries, query, vectors, column)


def search_parameters(probe: Probe, selector: Any = None) -> Any:
    """Return faiss's parameters to search the lists of `probe` for the rows that an IDSelector lets through."""
    import faiss

    parameters: Any = faiss.SearchParametersIVF
    return parameters(nprobe=probe.lists.shape[1], sel=selector)


def open_shard(folder: Path, dim: int, candidate_dim: int, nprobe: int) -> Shard:
    """Map a shard's two files; `nprobe` 0 keeps the number of visited lists that is stored in the index.

    Raises `ShardCorrupt` for a damaged file, `DimensionMismatch` for vectors of another width.
    """
    row_ids, vectors, n_index_bytes = map_vectors(folder / VECTORS_FILE)
    index = map_index(folder / INDEX_FILE, n_index_bytes)
    if (vectors.shape[1], index.d) != (dim, candidate_dim):
        raise DimensionMismatch(
            f"{folder} holds {vectors.shape[1]}-d vectors found by {index.d}-d candidates, expected {dim} and "
            f"{candidate_dim}; build the index again"
        )
    _set_nprobe(index, nprobe)
    return Shard(folder, index, inverted_lists(index), row_ids, vectors, n_index_bytes)


def require_one_template(shards: Sequence[Shard]) -> None:
    """Raise `ShardCorrupt` for shards of several templates."""
    # Compare the number of lists and the first centroid, which training on other rows always moves.
    first: Float32 | None = None
    for shard in shards:
        if shard.lists is not None:
            template = np.append(shard.lists.quantizer.reconstruct(0), np.float32(shard.lists.nlist))
            first = template if first is None else first
            if not np.array_equal(template, first):
                raise ShardCorrupt(
                    f"{shard.folder} was made from another template than the shards before it; build the index again"
                )


def _set_nprobe(index: Any, nprobe: int) -> None:
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)  # also finds lists that `inverted_lists` does not, inside a refine
    if ivf is not None and nprobe:
        ivf.nprobe = nprobe


def _search_lists(lists: Any, probe: Probe, params: Any, rows: Int64, n: int) -> tuple[Float32, Int64]:
    import faiss

    # Split the work over lists for a single query, else over queries; faiss's default is one thread here. This changes
    # only the speed, so it does no harm when another thread sets it meanwhile.
    lists.parallel_mode = 1 if len(rows) == 1 else 3
    queries, numbers, closeness = probe if len(rows) == len(probe.queries) else (part[rows] for part in probe)
    scores, ids = np.empty((len(rows), n), np.float32), np.empty((len(rows), n), np.int64)
    pointers = [faiss.swig_ptr(array) for array in (numbers, closeness, scores, ids)]
    lists.search_preassigned_c(len(rows), faiss.swig_ptr(queries), n, *pointers, False, params)
    return scores, ids


def _search_allowed(
    index: Any, queries: Float32, allowed: Int64, n_rows: int, rows: Int64, n: int
) -> tuple[Float32, Int64]:
    """Search for the best `n` rows with ids in `allowed`: fetch more and more rows until that many are among them."""
    depth = min(n_rows, n * n_rows // len(allowed) + 1)
    while True:
        scores, ids = index.search(queries[rows], depth)
        is_allowed = positions_of(allowed, ids)[1]
        if depth == n_rows or is_allowed.sum(axis=1).min(initial=n) >= n:
            break
        depth = min(n_rows, 2 * depth)
    first = np.argsort(~is_allowed, axis=1, kind="stable")[:, :n]
    scores, ids = np.take_along_axis(scores, first, axis=1), np.take_along_axis(ids, first, axis=1)
    ids[~np.take_along_axis(is_allowed, first, axis=1)] = -1
    return scores, ids
