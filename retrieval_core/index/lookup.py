"""Search a sharded index: candidates from every shard, merged, then reranked exactly in the full dimension.

Shards are memory-mapped and never changed, so an open index may be larger than memory and searched from many threads.
All shards start from one template, so the lists to visit are chosen once and visited in every shard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from retrieval_core.arrays import Float32, Float64, Int32, Int64
from retrieval_core.errors import BadConfig, DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.index.build import places_of
from retrieval_core.index.shard import Shard, open_shard, visiting
from retrieval_core.index.topk import Source, best_of, kept_candidates, query_blocks, search_sources

ID_BYTES = 8
# Of a fraction f of the rows, lists are visited f^-0.5 times as many. On product-like vectors (24 factors of variation,
# five views a product, 128-d; 50,000 rows in 256 lists) random halves to hundredths are then found with the recall@10
# of all rows or more (0.990 of all; 0.994, 0.998 and 0.994 of f = 0.5, 0.1 and 0.01); f^-0.25 loses up to 0.06.
WIDENING = 0.5


class Selection:
    """Rows that a search may find, made by `ShardedIndex.select` for that index; costly to make, so keep it.

    `n_rows` of them are in the index. `exact` says that they are few enough to be compared one by one, in the full
    dimension, which reads fewer bytes than visiting inverted lists would.
    """

    def __init__(self, index: ShardedIndex, places: Sequence[Int64], exact: bool) -> None:
        self.index = index
        self.places = tuple(places)  # by shard, ascending: where its rows stand there
        self.n_rows = sum(len(of_shard) for of_shard in places)
        self.exact = exact

    @cached_property
    def selectors(self) -> tuple[Any, ...]:
        """By shard, the faiss IDSelector that lets these rows through; None for all."""
        return tuple(_selector(shard, places) for shard, places in zip(self.index.shards, self.places, strict=True))

    @cached_property
    def share(self) -> Float64:
        """(n_lists,) how much of what each inverted list would hold of as many random rows it holds of these, up to 1.

        Rows of one category lie in few lists. A search that counts lists by their share visits as many of those as it
        would visit of all lists for random rows.
        """
        places = zip(self.index.list_of_rows, self.places, strict=True)
        held = _counts([of_rows[chosen] for of_rows, chosen in places], self.index.n_lists)
        expected = _counts(self.index.list_of_rows, self.index.n_lists) * (self.n_rows / self.index.n_rows)
        return np.minimum(held / np.maximum(expected, 1e-9), 1.0)


class ShardedIndex:
    """An open version of the index; `n_rows` rows of `dim` dimensions, found by their `candidate_dim` ones.

    `n_lists` inverted lists are held by every shard, 0 where the kind has none or keeps them to itself, and a query
    visits `nprobe` of them.
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
        """Map the shards in `folders`; `nprobe` 0 leaves the lists visited as the shards have it.

        Raises `ShardCorrupt` for a missing or damaged file or shards of several templates, and `DimensionMismatch` for
        a shard of other widths. Checksums are the store's to check: `Store.local_path` does before it hands out a path.
        """
        if nprobe < 0:
            raise BadConfig(f"nprobe is a number of inverted lists, 0 or more, got {nprobe}")
        shards = [open_shard(folder, dim, candidate_dim, nprobe) for folder in folders]
        _require_one_template(shards)
        return cls(shards, dim, candidate_dim)

    def search(
        self,
        queries: Float32,
        candidate_queries: Float32,
        k: int,
        rerank_depth: int,
        *,
        nprobe: int = 0,
        only: Selection | None = None,
    ) -> tuple[Float32, Int64]:
        """The `k` rows of the largest inner product with each query.

        `queries` (q, dim) and `candidate_queries` (q, candidate_dim) float32, unit length, are the same queries before
        and after the reducer. The `k * rerank_depth` best candidates (and what ties with the last) are scored in the
        full dimension; equal scores go by the lower row id, so the number of shards does not show (unless more than
        `topk.MAX_TIED` rows tie). `nprobe` 0 visits the lists that the index was opened with; `only` limits the search
        to a selection, of which more lists are visited the smaller it is. Returns (q, k) float32 scores, falling, and
        (q, k) int64 row ids, padded with -inf and -1 where there are fewer.

        Raises `DimensionMismatch` for other widths, `BadConfig` for k or depth below 1, for NaN or infinite queries and
        for another index's selection, `ShardCorrupt` when an index names a row its vectors lack.
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
        depth = min(k * rerank_depth, only.n_rows if only else self.n_rows)
        visited = self._lists_to_visit(nprobe, depth and (only.n_rows if only else self.n_rows))
        per_query = max(2 * depth + len(self.shards), self.n_lists if only else 0)
        for block in query_blocks(len(queries) if depth else 0, per_query):
            asked = _Asked(queries[block], candidate_queries[block], k, depth)
            found = self._compare(asked, only) if only and only.exact else self._search(asked, visited, only)
            scores[block], row_ids[block] = found
        return scores, row_ids

    def candidates(self, candidate_queries: Float32, k: int) -> tuple[Float32, Int64]:
        """The `k` best by the index's own scores, (q, k) scores and row ids as `search` gives, none of them reranked.

        `candidate_queries` is (q, candidate_dim) float32, unit length.
        """
        queries = _checked_queries(candidate_queries, self.candidate_dim, "candidate queries")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        row_ids = np.full((len(queries), k), -1, np.int64)
        depth = min(k, self.n_rows)
        for block in query_blocks(len(queries) if depth else 0, 2 * depth + len(self.shards)):
            n_queries = len(queries[block])
            sources = self._sources(queries[block], self._lists_to_visit(0, self.n_rows), None)
            found = search_sources(list(sources.values()), n_queries, depth)
            query, column = kept_candidates(found.scores, found.ids, depth)
            kept = found.ids[query, column], found.scores[query, column]
            scores[block], row_ids[block] = best_of(query, *kept, n_queries, k)
        return scores, row_ids

    def exact(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """What `search` would find if it missed nothing: every row compared in the full dimension."""
        queries = _checked_queries(queries, self.dim, "queries")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        row_ids = np.full((len(queries), k), -1, np.int64)
        everything = Selection(self, [np.arange(len(shard.row_ids)) for shard in self.shards], exact=True)
        for block in query_blocks(len(queries) if self.n_rows else 0, 2 * k):
            asked = _Asked(queries[block], queries[block], k, k)
            scores[block], row_ids[block] = self._compare(asked, everything)
        return scores, row_ids

    def select(self, row_ids: Int64) -> Selection:
        """What `search` takes as `only`: those of these rows, in any order, that are in the index."""
        wanted = np.unique(np.asarray(row_ids, np.int64))
        places = [_places_in(shard.row_ids, wanted) for shard in self.shards]
        n_rows = sum(len(of_shard) for of_shard in places)
        visited = self._lists_to_visit(0, n_rows)
        return Selection(self, places, exact=4 * n_rows * self.dim <= self._candidate_bytes(visited))

    @cached_property
    def list_of_rows(self) -> tuple[Int32, ...]:
        """By shard, (n,) int32, the inverted list that each row stands in; read on first use, 4 bytes a row."""
        return tuple(shard.list_of_rows() for shard in self.shards)

    def query_bytes(self, nprobe: int, rerank_depth: int, k: int = 10) -> int:
        """Bytes that a query is expected to read: centroids, codes and ids of the visited lists, reranked vectors."""
        reranked = min(k * rerank_depth, self.n_rows)
        return self._candidate_bytes(min(nprobe or self.nprobe, self.n_lists)) + 4 * self.dim * reranked

    def vectors_of(self, row_ids: Int64) -> Float32:
        """(n, dim) float32, the full vectors of these rows in the order asked. Raises `NotFound`."""
        row_ids = np.asarray(row_ids, np.int64)
        vectors = np.empty((len(row_ids), self.dim), np.float32)
        missing = np.ones(len(row_ids), bool)
        for shard in self.shards:
            place, here = places_of(shard.row_ids, row_ids)
            vectors[here] = shard.vectors[place[here]]
            missing &= ~here
        if missing.any():
            raise NotFound(f"{missing.sum()} of {len(row_ids)} rows are not in the index, e.g. {row_ids[missing][0]}")
        return vectors

    def row_ids(self) -> Int64:
        """(n_rows,) int64, ascending: every row of every shard. Raises `ShardCorrupt` where one has them unordered."""
        for shard in self.shards:
            if shard.row_ids[0] < 0 or (np.diff(shard.row_ids) <= 0).any():
                raise ShardCorrupt(f"{shard.folder}: row ids are not ascending; fetch or build it again")
        return np.sort(np.concatenate([np.empty(0, np.int64), *(shard.row_ids for shard in self.shards)]))

    def _search(self, asked: _Asked, nprobe: int, only: Selection | None) -> tuple[Float32, Int64]:
        """The best candidates of all shards, reranked; a selection that is met too rarely is sought in more lists."""
        sources = self._sources(asked.candidate_queries, nprobe, only)
        found = search_sources(list(sources.values()), len(asked.queries), asked.depth)
        query, column = kept_candidates(found.scores, found.ids, asked.depth)
        rows, ends = found.ids[query, column], np.searchsorted(found.source[column], np.arange(len(sources) + 1))
        exact = np.empty(len(rows), np.float32)
        for number, start, end in zip(sources, ends, ends[1:], strict=False):
            exact[start:end] = self.shards[number].exact_scores(asked.queries, query[start:end], rows[start:end])
        scores, row_ids = best_of(query, rows, exact, len(asked.queries), asked.k)
        return scores, row_ids

    def _sources(self, candidate_queries: Float32, nprobe: int, only: Selection | None) -> dict[int, Source]:
        """By shard, where to search; shards without a selected row are left out."""
        n_allowed = [len(of_shard) for of_shard in only.places] if only else [len(s.row_ids) for s in self.shards]
        numbers = [number for number, n in enumerate(n_allowed) if n]
        if self.n_lists and only is None:
            probe = self.shards[0].probe(candidate_queries, nprobe)
            parameters = visiting(probe)
            return {n: self.shards[n].list_source(probe, n_allowed[n], parameters) for n in numbers}
        if self.n_lists and only is not None:
            probe = self.shards[0].probe_for(candidate_queries, only.share, nprobe)
            chosen = {n: visiting(probe, only.selectors[n]) for n in numbers}
            return {n: self.shards[n].list_source(probe, n_allowed[n], chosen[n]) for n in numbers}
        places = only.places if only else (None,) * len(self.shards)
        return {n: self.shards[n].whole_source(candidate_queries, places[n]) for n in numbers}

    def _compare(self, asked: _Asked, only: Selection) -> tuple[Float32, Int64]:
        """The best of a selection by comparing all of its rows."""
        held = zip(self.shards, only.places, strict=True)
        found = [part for shard, places in held for part in shard.best_among(asked.queries, places, asked.k)]
        query, row_ids, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return best_of(query, row_ids, scores, len(asked.queries), asked.k)

    def _lists_to_visit(self, nprobe: int, n_allowed: int) -> int:
        """`nprobe`, 0 for the index's own, widened for a search that may find only `n_allowed` rows."""
        fraction = n_allowed / self.n_rows if n_allowed else 1.0
        return min(math.ceil((nprobe or self.nprobe) * fraction**-WIDENING), self.n_lists)

    def _candidate_bytes(self, nprobe: int) -> int:
        """Bytes that finding a query's candidates reads; without lists of its own an index counts as read whole."""
        if self.n_lists == 0:
            return sum(shard.n_index_bytes for shard in self.shards)
        lists = self.shards[0].lists
        visited_rows = self.n_rows * nprobe / self.n_lists
        return round(4 * lists.d * self.n_lists + visited_rows * (lists.code_size + ID_BYTES))


class _Asked(NamedTuple):
    queries: Float32
    candidate_queries: Float32
    k: int
    depth: int


def _require_one_template(shards: Sequence[Shard]) -> None:
    """By the number of lists and the first centroid: training on other rows moves every one."""
    first: Float32 | None = None
    for shard in shards:
        if shard.lists is not None:
            sign = np.append(shard.lists.quantizer.reconstruct(0), np.float32(shard.lists.nlist))
            first = sign if first is None else first
            if not np.array_equal(sign, first):
                raise ShardCorrupt(
                    f"{shard.folder} was made from another template than the shards before it; build again"
                )


def _places_in(ascending: Int64, wanted: Int64) -> Int64:
    """Where those of `wanted` (ascending too) that are in `ascending` stand there."""
    if len(wanted) > len(ascending):
        return np.flatnonzero(places_of(wanted, ascending)[1])
    place, here = places_of(ascending, wanted)
    return place[here]


def _selector(shard: Shard, places: Int64) -> Any:
    import faiss

    if len(places) == len(shard.row_ids):
        return None
    if len(places) <= len(shard.row_ids) / 2:
        return faiss.IDSelectorBatch(shard.row_ids[places])
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(np.delete(shard.row_ids, places)))  # the smaller table


def _counts(lists: Sequence[Int32], n_lists: int) -> Int64:
    numbers = np.concatenate(lists)
    return np.bincount(numbers[numbers >= 0], minlength=n_lists)


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
