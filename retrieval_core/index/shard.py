"""One open shard: found by its inverted lists or its whole index, scored by its mapped vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int32, Int64
from retrieval_core.errors import DimensionMismatch, ShardCorrupt
from retrieval_core.index.build import INDEX_FILE, VECTORS_FILE, map_index, map_vectors, places_of
from retrieval_core.index.codes import own_lists, transformed
from retrieval_core.index.topk import GATHER_BYTES, Source, kept_candidates, pair_scores


class Probe(NamedTuple):
    """Queries on their way to inverted lists: (q, c) as the lists hold vectors, and the (q, nprobe) lists of each."""

    queries: Float32
    lists: Int64
    closeness: Float32


class Shard(NamedTuple):
    folder: Path
    index: Any
    lists: Any  # the inverted-file index inside, where it holds the row ids itself; else None
    row_ids: Int64  # (n,) ascending, mapped
    vectors: Float32  # (n, dim), mapped
    n_index_bytes: int

    def probe(self, candidate_queries: Float32, nprobe: int) -> Probe:
        """Choose the lists to visit, in this and in every shard of the same template."""
        queries = transformed(self.index, candidate_queries)
        closeness, lists = self.lists.quantizer.search(queries, nprobe)
        return Probe(queries, lists, closeness)

    def probe_for(self, candidate_queries: Float32, share: Float64, nprobe: int) -> Probe:
        """Choose the nearest lists whose `share` (n_lists,) sums up to `nprobe`; unused places are -1.

        The share of a list is 0 where it holds none of the wanted rows, so that it is passed over, and at most 1.
        """
        every = self.probe(candidate_queries, len(share))
        of_list = share[every.lists]
        visit = (of_list > 0) & (np.cumsum(of_list, axis=1) - of_list < nprobe)
        first = np.argsort(~visit, axis=1, kind="stable")[:, : int(visit.sum(axis=1).max(initial=1))]
        lists: Int64 = np.take_along_axis(np.where(visit, every.lists, -1), first, axis=1)
        closeness: Float32 = np.take_along_axis(every.closeness, first, axis=1)
        return Probe(every.queries, lists, closeness)

    def list_of_rows(self) -> Int32:
        """(n,) int32, the inverted list that each row stands in, -1 where in none. Reads every id of the index."""
        import faiss

        held = np.full(len(self.row_ids), -1, np.int32)
        for number in range(self.lists.nlist):
            size = self.lists.get_list_size(number)
            if size:
                ids = faiss.rev_swig_ptr(self.lists.invlists.get_ids(number), size)
                place, here = places_of(self.row_ids, ids)
                held[place[here]] = number
        return held

    def list_source(self, probe: Probe, n_rows: int, parameters: Any) -> Source:
        """The rows in the visited lists, `n_rows` at most, that the `visiting` parameters let through."""
        return Source(partial(_search_lists, self.lists, probe, parameters), n_rows)

    def whole_source(self, candidate_queries: Float32, allowed: Int64 | None = None) -> Source:
        """All rows, or those at the places `allowed`, for kinds whose lists cannot be visited from outside."""
        if allowed is None:
            return Source(lambda rows, n: self.index.search(candidate_queries[rows], n), len(self.row_ids))
        search = partial(_search_allowed, self.index, candidate_queries, self.row_ids[allowed], len(self.row_ids))
        return Source(search, len(allowed))

    def exact_scores(self, queries: Float32, query: Int64, row_ids: Int64) -> Float32:
        """(p,) inner products of queries[query] with the full vectors of these rows. Raises `ShardCorrupt`."""
        place, here = places_of(self.row_ids, row_ids)
        if not here.all():
            raise ShardCorrupt(
                f"{self.folder / INDEX_FILE} names row {row_ids[~here][0]}, which {VECTORS_FILE} beside it lacks; "
                "build the shard again"
            )
        return pair_scores(queries, query, self.vectors, place)

    def best_among(self, queries: Float32, places: Int64, k: int) -> Iterator[tuple[Int64, Int64, Float32]]:
        """(query, row id, score) of the best `k` of each query among the rows at `places`, and more, block by block."""
        n = max(1, GATHER_BYTES // (4 * queries.shape[1]))
        for start in range(0, len(places), n):
            block = places[start : start + n]
            vectors = self.vectors[block]
            rough = queries @ vectors.T
            query, column = kept_candidates(rough, np.broadcast_to(block, rough.shape), k)
            yield query, self.row_ids[block[column]], pair_scores(queries, query, vectors, column)


def visiting(probe: Probe, selector: Any = None) -> Any:
    """faiss's parameters for visiting the lists of `probe`, and there the rows that an IDSelector lets through."""
    import faiss

    parameters: Any = faiss.SearchParametersIVF
    return parameters(nprobe=probe.lists.shape[1], sel=selector)


def open_shard(folder: Path, dim: int, candidate_dim: int, nprobe: int) -> Shard:
    """Map a shard's two files; `nprobe` 0 leaves the lists visited as they are.

    Raises `ShardCorrupt` for a damaged file and `DimensionMismatch` for other widths.
    """
    row_ids, vectors, n_index_bytes = map_vectors(folder / VECTORS_FILE)
    index = map_index(folder / INDEX_FILE, n_index_bytes)
    if (vectors.shape[1], index.d) != (dim, candidate_dim):
        raise DimensionMismatch(
            f"{folder} holds {vectors.shape[1]}-d vectors found by {index.d}-d candidates, expected {dim} and "
            f"{candidate_dim}; build the index again"
        )
    _visit_inside(index, nprobe)
    return Shard(folder, index, own_lists(index), row_ids, vectors, n_index_bytes)


def _visit_inside(index: Any, nprobe: int) -> None:
    """Also where the lists lie too deep to be visited from outside."""
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is not None and nprobe:
        ivf.nprobe = nprobe


def _search_lists(lists: Any, probe: Probe, params: Any, rows: Int64, n: int) -> tuple[Float32, Int64]:
    import faiss

    # Over lists for one query, else over queries; of itself faiss would take one thread here. It only sets the pace, so
    # another thread may set it meanwhile.
    lists.parallel_mode = 1 if len(rows) == 1 else 3
    queries, numbers, closeness = probe if len(rows) == len(probe.queries) else (part[rows] for part in probe)
    scores, ids = np.empty((len(rows), n), np.float32), np.empty((len(rows), n), np.int64)
    pointers = [faiss.swig_ptr(array) for array in (numbers, closeness, scores, ids)]
    lists.search_preassigned_c(len(rows), faiss.swig_ptr(queries), n, *pointers, False, params)
    return scores, ids


def _search_allowed(
    index: Any, queries: Float32, allowed: Int64, n_rows: int, rows: Int64, n: int
) -> tuple[Float32, Int64]:
    """The best `n` rows with ids in `allowed`: more and more of all are asked for until that many are among them."""
    asked = min(n_rows, n * n_rows // len(allowed) + 1)
    while True:
        scores, ids = index.search(queries[rows], asked)
        fits = places_of(allowed, ids)[1]
        if asked == n_rows or fits.sum(axis=1).min(initial=n) >= n:
            break
        asked = min(n_rows, 2 * asked)
    first = np.argsort(~fits, axis=1, kind="stable")[:, :n]
    scores, ids = np.take_along_axis(scores, first, axis=1), np.take_along_axis(ids, first, axis=1)
    ids[~np.take_along_axis(fits, first, axis=1)] = -1
    return scores, ids
