"""Search a sharded index: merge the candidates of all shards, then rerank them exactly in the full dimension.

Shards are memory-mapped and immutable, so an open index may be larger than memory and searched by many threads. All
shards start from one template, so the lists to visit are chosen once and visited in every shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from retrieval_core.arrays import Bool, Float32, Float64, Int32, Int64
from retrieval_core.artifacts.manifests import IndexSet
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.index.shard import Probe, Shard, open_shard, require_one_template, search_parameters
from retrieval_core.index.shard_files import positions_of
from retrieval_core.index.topk import (
    CandidateSource,
    among_best,
    best_of,
    kept_candidates,
    query_blocks,
    search_sources,
)
from retrieval_core.store.base import Store

ID_BYTES = 8
BLOCK_ROWS = 32_768  # vectors compared at a time: 64 MiB at 512 dimensions
SHARD_THREADS = 8  # they hash, or wait for the network
# A search among a fraction f of the rows visits f^-WIDENING times as many lists. Measured on product-like vectors (24
# factors of variation, five views a product, 128-d; 50,000 rows in 256 lists): recall@10 is 0.990 among all rows, and
# 0.994, 0.998 and 0.994 among random fractions of 0.5, 0.1 and 0.01; an exponent of 0.25 loses up to 0.06.
WIDENING = 0.5
# Selected rows far from the query (trousers nearest to a shoe) are all about equally far: their order by candidate
# scores says little, and they lie in any of their lists. A search among selected rows therefore looks at more lists and
# candidates than tuning chose. Where these hold a better hit, all selected rows are compared (`benchmarks.filters`).
MORE_LISTS = 3
MORE_CANDIDATES = 4
# Many searches with a filter end in the comparison of all its rows, so it is done at once up to twice the bytes.
MAX_COMPARED = 2


class RowSelection:
    """The rows that a search may find, made by `ShardedIndex.select` for that index. It is costly to make: reuse it.

    `n_rows` counts those that are in the index. `is_exact` says that they are so few that every search compares each of
    them in the full dimension, because visiting inverted lists would not read far fewer bytes.
    """

    def __init__(self, index: ShardedIndex, positions: Sequence[Int64], is_exact: bool) -> None:
        self.index = index
        self.positions = tuple(positions)  # by shard, ascending
        self.n_rows = sum(len(of_shard) for of_shard in positions)
        self.is_exact = is_exact

    @cached_property
    def selectors(self) -> tuple[Any, ...]:
        """The faiss IDSelector of these rows in each shard, None where all rows of the shard are selected."""
        return tuple(_selector(*held) for held in zip(self.index.shards, self.positions, strict=True))

    @cached_property
    def share(self) -> Float64:
        """(n_lists,) number of these rows in each list over that expected of as many random rows, at most 1.

        The rows of one category lie in few lists. Counting each visited list by its share makes a search visit as much
        of them as it would of all lists for random rows.
        """
        of_shards = zip(self.index.list_of_rows, self.positions, strict=True)
        held = _counts([list_of_rows[positions] for list_of_rows, positions in of_shards], self.index.n_lists)
        expected = _counts(self.index.list_of_rows, self.index.n_lists) * (self.n_rows / self.index.n_rows)
        return np.minimum(held / np.maximum(expected, 1e-9), 1.0)


class ShardedIndex:
    """An open version of the index: `n_rows` rows of `dim` dimensions, whose candidates have `candidate_dim`.

    Every shard has `n_lists` inverted lists, of which a query visits `nprobe`; both are 0 for a kind without lists, or
    with lists that cannot be chosen from outside.
    """

    def __init__(self, shards: Sequence[Shard], dim: int, candidate_dim: int) -> None:
        self.shards = tuple(shard for shard in shards if len(shard.row_ids))
        self.dim = dim
        self.candidate_dim = candidate_dim
        self.n_rows = sum(len(shard.row_ids) for shard in self.shards)
        lists = self.shards[0].lists if self.shards else None
        self.n_lists = int(lists.nlist) if lists is not None else 0
        self.nprobe = min(int(lists.nprobe), self.n_lists) if lists is not None else 0

    @classmethod
    def open(cls, folders: Sequence[Path], dim: int, candidate_dim: int, nprobe: int) -> Self:
        """Map the shards in `folders`; `nprobe` 0 keeps the number of visited lists stored in the shards.

        Raises `ShardCorrupt` for a missing or damaged file or shards of several templates, `DimensionMismatch` for a
        shard of other widths, `BadConfig` for a negative nprobe. Checksums are checked by `Store.local_path`.
        """
        if nprobe < 0:
            raise BadConfig(f"nprobe is a number of inverted lists, 0 or more, got {nprobe}")
        shards = [open_shard(folder, dim, candidate_dim, nprobe) for folder in folders]
        require_one_template(shards)
        return cls(shards, dim, candidate_dim)

    def search(
        self,
        queries: Float32,
        candidate_queries: Float32,
        k: int,
        rerank_depth: float,
        *,
        nprobe: int = 0,
        only: RowSelection | None = None,
    ) -> tuple[Float32, Int64]:
        """Return the `k` rows with the largest inner product with each query.

        `queries` (q, dim) and `candidate_queries` (q, candidate_dim) float32, unit length, are the same queries before
        and after the reducer. The `k * rerank_depth` best candidates, and those that tie with the last, are scored in
        the full dimension. Equal scores go by the lower row id, so that the result does not depend on the number of
        shards (unless more than `topk.MAX_TIED` rows tie). `nprobe` 0 visits as many lists as the index was opened
        with; `only` limits the search to a selection: its rows are compared exactly where they are few, or where
        looking at more lists and candidates finds better hits. Returns (q, k) float32 scores, falling, and (q, k) int64
        row ids, padded with -inf and -1 where there are fewer.

        Raises `DimensionMismatch` for other widths, `BadConfig` for k or rerank_depth below 1, NaN or infinite queries
        or another index's selection, `ShardCorrupt` when an index names a row whose vector is missing.
        """
        if k < 1 or rerank_depth < 1 or nprobe < 0:
            raise BadConfig(
                f"k and rerank_depth are at least 1 and nprobe at least 0, got {k}, {rerank_depth} and {nprobe}"
            )
        queries = _checked_queries(queries, self.dim, "queries")
        candidate_queries = _checked_queries(candidate_queries, self.candidate_dim, "candidate queries")
        if len(queries) != len(candidate_queries):
            raise DimensionMismatch(
                f"{len(queries)} queries came with {len(candidate_queries)} candidate queries; "
                "pass each query in both widths"
            )
        if only is not None and only.index is not self:
            raise BadConfig("the selection was made by another index; make it with this one's select")
        only = only if only is not None and only.n_rows < self.n_rows else None
        scores = np.full((len(queries), k), -np.inf, np.float32)
        row_ids = np.full((len(queries), k), -1, np.int64)
        n_allowed = only.n_rows if only else self.n_rows
        depth = min(round(k * rerank_depth), n_allowed)
        visited = self._lists_to_visit(nprobe, n_allowed)
        per_query = max(2 * MORE_CANDIDATES * depth, self.n_lists) if only else 2 * depth
        for block in query_blocks(len(queries) if depth else 0, per_query + len(self.shards)):
            batch = _QueryBlock(queries[block], candidate_queries[block], k, depth)
            hits = self._search_selected(batch, visited, only) if only else self._search(batch, visited)
            scores[block], row_ids[block] = hits
        return scores, row_ids

    def candidates(self, candidate_queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Return the `k` best by the index's own scores, without a rerank: (q, k) scores and row ids as in `search`.

        `candidate_queries` is (q, candidate_dim) float32, unit length.
        """
        n_queries, depth = len(candidate_queries), min(k, self.n_rows)
        return best_of(*self._kept(candidate_queries, depth, 0), n_queries, k)

    def reranked(self, candidate_queries: Float32, depth: int, nprobe: int) -> tuple[Int64, Int64]:
        """Return what a search reranks of the best `depth` candidates: (p,) numbers of queries, and row ids."""
        query, row_ids, _ = self._kept(candidate_queries, min(depth, self.n_rows), nprobe)
        return query, row_ids

    def exact(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Return what `search` returns, but compare every row in the full dimension, so that no hit is missed."""
        queries = _checked_queries(queries, self.dim, "queries")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        row_ids = np.full((len(queries), k), -1, np.int64)
        every_row = RowSelection(self, [np.arange(len(shard.row_ids)) for shard in self.shards], is_exact=True)
        for block in query_blocks(len(queries) if self.n_rows else 0, 2 * k):
            batch = _QueryBlock(queries[block], queries[block], k, k)
            scores[block], row_ids[block] = self._compare(batch, every_row)
        return scores, row_ids

    def select(self, row_ids: Int64) -> RowSelection:
        """Return a selection for `search`: those of `row_ids`, in any order, that are in the index."""
        selected = np.unique(np.asarray(row_ids, np.int64))
        positions = [_present_positions(shard.row_ids, selected) for shard in self.shards]
        n_rows = sum(len(of_shard) for of_shard in positions)
        visited = min(MORE_LISTS * self._lists_to_visit(0, n_rows), self.n_lists)
        n_bytes = 4 * n_rows * self.dim
        return RowSelection(self, positions, is_exact=n_bytes <= MAX_COMPARED * self._candidate_bytes(visited))

    @cached_property
    def list_of_rows(self) -> tuple[Int32, ...]:
        """The (n,) int32 inverted list of each row, by shard. Reads every id on first use; keeps 4 bytes a row."""
        return tuple(shard.list_of_rows() for shard in self.shards)

    def query_bytes(self, nprobe: int, rerank_depth: int, k: int = 10) -> int:
        """Return the bytes that a query is expected to read: centroids, codes and ids of visited lists, vectors."""
        reranked = min(k * rerank_depth, self.n_rows)
        return self._candidate_bytes(min(nprobe or self.nprobe, self.n_lists)) + 4 * self.dim * reranked

    def vectors_of(self, row_ids: Int64) -> Float32:
        """Return the (n, dim) float32 full vectors of these rows, in their order. Raises `NotFound`."""
        row_ids = np.asarray(row_ids, np.int64)
        vectors = np.empty((len(row_ids), self.dim), np.float32)
        missing = np.ones(len(row_ids), bool)
        for shard in self.shards:
            position, is_present = positions_of(shard.row_ids, row_ids)
            if is_present.all():  # one shard has all: nothing need be copied twice
                return np.asarray(shard.vectors[position])
            vectors[is_present] = shard.vectors[position[is_present]]
            missing &= ~is_present
        if missing.any():
            raise NotFound(f"{missing.sum()} of {len(row_ids)} rows are not in the index, e.g. {row_ids[missing][0]}")
        return vectors

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield all rows in blocks: (n,) ascending row ids and their (n, dim) vectors, mapped."""
        for shard in self.shards:
            for start in range(0, len(shard.row_ids), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                yield shard.row_ids[block], shard.vectors[block]

    def row_ids(self) -> Int64:
        """Return (n_rows,) int64, ascending: every row. Raises `ShardCorrupt` for a shard whose rows are not sorted."""
        for shard in self.shards:
            if shard.row_ids[0] < 0 or (np.diff(shard.row_ids) <= 0).any():
                raise ShardCorrupt(f"{shard.folder}: row ids are not ascending; fetch or build the shard again")
        return np.sort(np.concatenate([np.empty(0, np.int64), *(shard.row_ids for shard in self.shards)]))

    def _search(self, batch: _QueryBlock, nprobe: int) -> tuple[Float32, Int64]:
        """Rerank the best candidates of all shards."""
        ranked = self._rerank(batch, batch.depth, self._probe(batch.candidate_queries, nprobe))
        return best_of(ranked.query, ranked.row_ids, ranked.scores, len(batch.queries), batch.k)

    def _search_selected(self, batch: _QueryBlock, nprobe: int, only: RowSelection) -> tuple[Float32, Int64]:
        """Search with more effort than asked for; compare all selected rows for the queries that gain by it."""
        if only.is_exact:
            return self._compare(batch, only)
        n_queries, k = len(batch.queries), batch.k
        probe = self._probe(batch.candidate_queries, MORE_LISTS * nprobe, only)
        ranked = self._rerank(batch, min(MORE_CANDIDATES * batch.depth, only.n_rows), probe, only)
        scores, row_ids = best_of(ranked.query, ranked.row_ids, ranked.scores, n_queries, k)
        is_near = ranked.is_near
        if probe is not None:
            fewer = self.shards[0].probe_for(batch.candidate_queries, only.share, nprobe)
            has_all = (probe.lists >= 0).sum(axis=1) == np.count_nonzero(only.share)  # no list is left out
            is_near = is_near & (has_all[ranked.query] | self._is_in_lists(ranked, fewer))
        near = ranked.query[is_near], ranked.row_ids[is_near], ranked.scores[is_near]
        is_open = (best_of(*near, n_queries, k)[1] != row_ids).any(axis=1) | (row_ids[:, min(k, only.n_rows) - 1] < 0)
        if is_open.any():
            rest = batch._replace(queries=batch.queries[is_open], candidate_queries=batch.candidate_queries[is_open])
            scores[is_open], row_ids[is_open] = self._compare(rest, only)
        return scores, row_ids

    def _kept(self, candidate_queries: Float32, depth: int, nprobe: int) -> tuple[Int64, Int64, Float32]:
        """Return the best `depth` candidates of each query, and those that tie: (p,) queries, row ids and scores."""
        queries = _checked_queries(candidate_queries, self.candidate_dim, "candidate queries")
        nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        parts = [nothing]
        for block in query_blocks(len(queries) if depth else 0, 2 * depth + len(self.shards)):
            probe = self._probe(queries[block], self._lists_to_visit(nprobe, self.n_rows))
            sources = list(self._sources(queries[block], probe).values())
            found = search_sources(sources, len(queries[block]), depth)
            query, column = kept_candidates(found.scores, found.ids, depth)
            parts.append((block.start + query, found.ids[query, column], found.scores[query, column]))
        numbers, row_ids, scores = zip(*parts, strict=True)
        return np.concatenate(numbers), np.concatenate(row_ids), np.concatenate(scores)

    def _rerank(self, batch: _QueryBlock, depth: int, probe: Probe | None, only: RowSelection | None = None) -> _Ranked:
        """Score the best `depth` candidates of each query in the full dimension."""
        sources = self._sources(batch.candidate_queries, probe, only)
        candidates = search_sources(list(sources.values()), len(batch.queries), depth)
        query, column = kept_candidates(candidates.scores, candidates.ids, depth)
        rows = candidates.ids[query, column]
        ends = np.searchsorted(candidates.source[column], np.arange(len(sources) + 1))
        exact = np.empty(len(rows), np.float32)
        for number, start, end in zip(sources, ends, ends[1:], strict=False):
            exact[start:end] = self.shards[number].exact_scores(batch.queries, query[start:end], rows[start:end])
        return _Ranked(query, rows, exact, among_best(candidates.scores, batch.depth)[query, column])

    def _probe(self, queries: Float32, nprobe: int, only: RowSelection | None = None) -> Probe | None:
        """Choose the lists that each query visits; None for a kind without lists."""
        if not self.n_lists:
            return None
        return self.shards[0].probe_for(queries, only.share, nprobe) if only else self.shards[0].probe(queries, nprobe)

    def _is_in_lists(self, ranked: _Ranked, probe: Probe) -> Bool:
        """Return (p,) whether the row of each pair lies in a list that `probe` visits for its query."""
        is_visited = np.zeros((len(probe.lists), self.n_lists + 1), bool)  # the last column is that of -1, no list
        np.put_along_axis(is_visited, probe.lists, True, axis=1)
        is_visited[:, -1] = False
        lists = np.full(len(ranked.row_ids), -1, np.int32)
        for shard, list_of_rows in zip(self.shards, self.list_of_rows, strict=True):
            position, is_present = positions_of(shard.row_ids, ranked.row_ids)
            lists[is_present] = list_of_rows[position[is_present]]
        return is_visited[ranked.query, lists]

    def _sources(
        self, queries: Float32, probe: Probe | None, only: RowSelection | None = None
    ) -> dict[int, CandidateSource]:
        """Return where to search, by the number of the shard; shards without a selected row are left out."""
        n_allowed = [len(of_shard) for of_shard in only.positions] if only else [len(s.row_ids) for s in self.shards]
        numbers = [number for number, n in enumerate(n_allowed) if n]
        if probe is None:
            positions = only.positions if only else (None,) * len(self.shards)
            return {n: self.shards[n].whole_source(queries, positions[n]) for n in numbers}
        every = search_parameters(probe)
        by_shard = {n: search_parameters(probe, only.selectors[n]) if only else every for n in numbers}
        return {n: self.shards[n].list_source(probe, n_allowed[n], by_shard[n]) for n in numbers}

    def _compare(self, batch: _QueryBlock, only: RowSelection) -> tuple[Float32, Int64]:
        """Find the best rows of a selection by comparing all of them."""
        of_shards = zip(self.shards, only.positions, strict=True)
        parts = [part for shard, rows in of_shards for part in shard.best_among(batch.queries, rows, batch.k)]
        query, row_ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return best_of(query, row_ids, scores, len(batch.queries), batch.k)

    def _lists_to_visit(self, nprobe: int, n_allowed: int) -> int:
        """Return `nprobe` (0 means the index's own) widened for a search among only `n_allowed` rows."""
        fraction = n_allowed / self.n_rows if n_allowed else 1.0
        return min(math.ceil((nprobe or self.nprobe) * fraction**-WIDENING), self.n_lists)

    def _candidate_bytes(self, nprobe: int) -> int:
        """Return the bytes that finding a query's candidates reads; an index without lists counts as read whole."""
        if self.n_lists == 0:
            return sum(shard.n_index_bytes for shard in self.shards)
        lists = self.shards[0].lists
        visited_rows = self.n_rows * nprobe / self.n_lists
        return round(4 * lists.d * self.n_lists + visited_rows * (lists.code_size + ID_BYTES))


class _QueryBlock(NamedTuple):
    queries: Float32
    candidate_queries: Float32
    k: int
    depth: int


class _Ranked(NamedTuple):
    """Candidates of queries, p of them together, with their exact scores.

    `is_near` says which are among the `_QueryBlock.depth` best of their query by their candidate scores.
    """

    query: Int64
    row_ids: Int64
    scores: Float32
    is_near: Bool


def _present_positions(ascending: Int64, row_ids: Int64) -> Int64:
    """Return the positions in `ascending` of those `row_ids`, ascending too, that are in it."""
    if len(row_ids) > len(ascending):
        return np.flatnonzero(positions_of(row_ids, ascending)[1])
    position, is_present = positions_of(ascending, row_ids)
    return position[is_present]


def _selector(shard: Shard, positions: Int64) -> Any:
    import faiss

    if len(positions) == len(shard.row_ids):
        return None
    if len(positions) <= len(shard.row_ids) / 2:
        return faiss.IDSelectorBatch(shard.row_ids[positions])
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(np.delete(shard.row_ids, positions)))  # the smaller table


def _counts(lists: Sequence[Int32], n_lists: int) -> Int64:
    numbers = np.concatenate(lists)
    return np.bincount(numbers[numbers >= 0], minlength=n_lists)


def _checked_queries(queries: Float32, dim: int, name: str) -> Float32:
    matrix = np.ascontiguousarray(queries, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise DimensionMismatch(
            f"{name} have shape {matrix.shape}, the index holds {dim}-d vectors and expects (q, {dim}); "
            "make queries with the release's own backbone, head and reducer"
        )
    if not np.isfinite(matrix).all():
        row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
        raise BadConfig(f"{name} hold NaN or infinity, the first in row {row}; nothing is near such a vector")
    return matrix


def open_index(store: Store, index: IndexSet) -> ShardedIndex:
    """Map every shard of a version, each checked against its checksum. Raises `ShardCorrupt`, `NotFound`."""
    return ShardedIndex.open(shard_folders(store, index), index.dim, index.candidate_dim, index.nprobe)


def shard_folders(store: Store, index: IndexSet) -> list[Path]:
    """Return a local folder for each shard of a version, in order, its files checked against their checksums."""
    with ThreadPoolExecutor(SHARD_THREADS) as pool:
        paths = list(pool.map(lambda part: store.local_path(part.key, part.sha256), index.parts))
    return list(dict.fromkeys(path.parent for path in paths))
