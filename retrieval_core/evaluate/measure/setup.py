"""The search that is measured: the index, the vectors it was built from, the queries and the gallery."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64, UInt64
from retrieval_core.artifacts.catalog_rows import HELD_OUT, linked_groups, validation_rows
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.mapped_rows import batches_at, mapped, rows_at
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.measure.exact_search import indexed_gallery, item_names
from retrieval_core.evaluate.measure.kept_searches import KeptSearches
from retrieval_core.evaluate.measure.row_vectors import RowVectors
from retrieval_core.evaluate.thumbnails import FROM_SOURCE
from retrieval_core.index.lookup import RowSelection, ShardedIndex
from retrieval_core.metrics.relevance import Judgements, Truth, encode, find_truth


class Protocol(NamedTuple):
    """Rows of the items table, ascending and disjoint: `queries` (q,) and `gallery` (g,); and which hits are right.

    `clusters` (q,) are equal for queries that depend on each other: those of one cluster name (`cluster_names`).
    """

    queries: Int64
    gallery: Int64
    truth: Truth
    judgements: Judgements
    clusters: Int64


def choose_protocol(items: pl.DataFrame, config: EvaluateConfig, judgements: Judgements | None = None) -> Protocol:
    """Draw up to `config.queries` queries from the held-out rows of `items`, as `draw_protocol` does.

    The gallery is the split of that name if the source has one.
    """
    is_gallery = items["split"] == "gallery"
    gallery = is_gallery if is_gallery.any() else None
    return draw_protocol(items, items["split"].is_in(HELD_OUT), gallery, config.queries, config.seed, judgements)


def draw_protocol(
    items: pl.DataFrame,
    can_query: pl.Series,
    gallery: pl.Series | None,
    n_queries: int,
    seed: int,
    judgements: Judgements | None = None,
) -> Protocol:
    """Draw up to `n_queries` queries from the rows of `items` that `can_query`, a mask.

    Without a mask `gallery` the gallery is every row that is not a query. If all files of a product may query, at most
    half of them do, so that the others can be found. A file is a query once, and no row with it is in the gallery.
    Files are drawn by their hashes, so that most queries stay when others come and go. `judgements` are those of the
    items, which are encoded where they are not known.
    """
    named = items.select("content_id", "product_id")
    candidates = named.with_row_index("row").filter(can_query)
    shuffled = candidates.sort(pl.col("content_id").hash(seed), maintain_order=True)
    shuffled = shuffled.unique("content_id", keep="first", maintain_order=True)
    if gallery is None:
        files = shuffled["content_id"].implode()
        found = named.filter(~can_query, ~pl.col("content_id").is_in(files))["product_id"].drop_nulls().unique()
        is_free = pl.col("product_id").is_null() | pl.col("product_id").is_in(found.implode())
        rank = pl.int_range(pl.len()).over("product_id")
        shuffled = shuffled.filter(is_free | (rank < pl.max_horizontal(pl.len().over("product_id") // 2, 1)))
    queries = np.sort(shuffled["row"].to_numpy().astype(np.int64)[:n_queries])
    in_gallery = ~items["content_id"].is_in(items["content_id"].gather(queries).to_list()).to_numpy()
    if gallery is not None:
        in_gallery &= gallery.to_numpy()
    rows = np.flatnonzero(in_gallery).astype(np.int64)
    judgements = encode(items) if judgements is None else judgements
    truth = find_truth(judgements.take(queries), judgements.take(rows))
    return Protocol(queries, rows, truth, judgements, cluster_codes(rows_at(named, queries)))


class Validation(NamedTuple):
    """Training rows, and the protocol of the validation rows among them as queries; no query of the report is in it."""

    items: pl.DataFrame
    protocol: Protocol


def draw_validation(
    items: pl.DataFrame, n_queries: int, max_rows: int, seed: int, judgements: Judgements | None = None
) -> Validation:
    """Draw up to `n_queries` of the `inner_validation` rows of `items` as queries among the other training rows.

    Of more than `max_rows` rows about as many are drawn, by whole groups of linked rows, always the same ones. Groups
    with a held-out picture are left out. `judgements` are as in `draw_protocol`.
    """
    groups = linked_groups(items, seed)
    is_held_out = items["split"].is_in(HELD_OUT).fill_null(False).to_numpy()
    # The low bits, because the inner validation depends on the high ones.
    is_drawn = (groups & 0xFFFFFFFF) < min(1, max_rows / max(len(items), 1)) * 2**32
    is_used = is_drawn & ~np.isin(groups, groups[is_held_out])
    is_query = pl.Series(validation_rows(items, groups)[is_used])
    used = mapped(batches_at(items, np.flatnonzero(is_used)))
    known = judgements.only(is_used) if judgements else None
    return Validation(used, draw_protocol(used, is_query, None, n_queries, seed, known))


def cluster_names(items: pl.DataFrame) -> pl.Series:
    """Return what makes queries depend on each other: the product, or the picture of an item without a product."""
    names = pl.coalesce("product:" + pl.col("product_id"), "picture:" + pl.col("content_id"))
    return items.select(cluster=names).to_series()


def cluster_codes(items: pl.DataFrame) -> Int64:
    """Return (n,) numbers that are equal for items of one cluster name."""
    return cluster_names(items).rank("dense").to_numpy().astype(np.int64)


def gallery_depth(n_rows: int, n_gallery: int, k: int) -> int:
    """Return how many hits to ask of an index for so that `k` of the gallery remain; at least 1, at most `n_rows`.

    Queries and other rows are in the index too: of uniformly mixed hits this leaves twice as many as needed, or a few
    more, so that galleries of about one size are searched alike.
    """
    depth, step = k + 2 * k * n_rows // max(n_gallery, 1), max(k // 2, 1)
    return max(min(n_rows, -(-depth // step) * step), 1)


def depth_as_for_ten(rerank_depth: int, k: int) -> float:
    """Return the depth at which a search for `k` reranks as many candidates as one for ten at `rerank_depth`, or k."""
    return max(1.0, rerank_depth * K / k)


def positions_in_gallery(row_ids: Int64, gallery_row_ids: Int64, k: int) -> Int64:
    """Keep the first k hits of each query that lie in the gallery.

    `row_ids` (q, m) are the hits, nearest first. Returns (q, k) positions in the gallery, padded with -1.
    """
    order = np.argsort(gallery_row_ids, kind="stable")
    ordered = gallery_row_ids[order]
    slots = np.minimum(np.searchsorted(ordered, row_ids), max(len(ordered) - 1, 0))
    is_inside = ordered[slots] == row_ids if len(ordered) else np.zeros(row_ids.shape, np.bool_)
    positions = np.full((len(row_ids), k), -1, np.int64)
    rank = np.cumsum(is_inside, axis=1) - 1
    rows, columns = np.nonzero(is_inside & (rank < k))
    positions[rows, rank[rows, columns]] = order[slots[rows, columns]]
    return positions


K = 10
N_HITS = 3 * K + 1  # leave ten of a row's neighbours after itself and other pictures of its product are dropped
ASKED_AT_ONCE = 4_096
SHARE_RERANKED = 0.75  # finds 0.993 of what all do, and as many of the categories that are wrong on purpose
MAX_ASKED = 10_000  # rows that search the index in an analysis; in a larger catalogue those with the lowest hashes
SPLITMIX64_INCREMENT = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
HITS_FILE = "hits.parquet"  # what a later run need not ask of this release's index again
HITS_SCHEMA = {"version": pl.Int64(), "k": pl.Int64(), "name": pl.Int64(), "found": pl.List(pl.Int64())}


class Remembered:
    """The `k` nearest of rows, as `find(rows)` returns their (q, k) scores and ids; each row is asked once."""

    def __init__(self, find: Callable[[Int64], tuple[Float32, Int64]], k: int) -> None:
        self._find = find
        self._rows = np.empty(0, np.int64)
        self._scores, self._ids = np.empty((0, k), np.float32), np.empty((0, k), np.int64)

    def first(self, rows: Int64, k: int) -> tuple[Float32, Int64]:
        """Return the first (q, k) scores and ids of each of these rows."""
        new = np.setdiff1d(rows, self._rows)
        if len(new):
            scores, ids = self._find(new)
            order = np.argsort(np.concatenate([self._rows, new]))
            self._rows = np.concatenate([self._rows, new])[order]
            self._scores = np.concatenate([self._scores, scores])[order]
            self._ids = np.concatenate([self._ids, ids])[order]
        place = np.searchsorted(self._rows, rows)
        return self._scores[place, :k], self._ids[place, :k]

    def all(self) -> tuple[Int64, Int64]:
        """Return all (q,) rows that were asked, ascending, and the (q, k) ids of their nearest."""
        return self._rows, self._ids


@dataclass(frozen=True, eq=False)
class SearchSetup:
    """An index with what it was built from: `vectors` (dim) and `candidates` (candidate_dim) of all `items`.

    `family` is that of the vectors; `kept` remembers the exact searches.
    """

    items: pl.DataFrame
    protocol: Protocol
    vectors: RowVectors
    candidates: RowVectors
    index: ShardedIndex
    rerank_depth: int
    pictures: PictureReader = FROM_SOURCE
    family: str = ""
    kept: KeptSearches = field(default_factory=KeptSearches)
    _found: dict[int, Remembered] = field(default_factory=dict, init=False, repr=False)

    def hits(self, rows: Int64, k: int) -> tuple[Float32, Int64]:
        """Return the (q, k) scores and row ids found among the candidates of a search for ten, or k if these are more.

        What was asked is not searched again.
        """
        depth = depth_as_for_ten(self.rerank_depth, k)
        found = self._found.setdefault(k, Remembered(lambda asked: self.find(asked, k, rerank_depth=depth), k))
        return found.first(rows, k)

    def asked(self) -> pl.DataFrame:
        """Return what `hits` has found (`HITS_SCHEMA`), for later runs that compare with this release."""
        tables = [pl.DataFrame(schema=HITS_SCHEMA)]
        for k, found in self._found.items():
            rows, ids = found.all()
            columns = [
                [STAGE_VERSIONS["evaluate"]] * len(rows),
                [k] * len(rows),
                item_names(rows_at(self.items.select("item_id", "content_id"), rows)),
                ids.tolist(),
            ]
            tables.append(pl.DataFrame(columns, HITS_SCHEMA, orient="col"))
        return pl.concat(tables)

    def find(
        self, rows: Int64, k: int = K, *, nprobe: int = 0, rerank_depth: float = 0, only: RowSelection | None = None
    ) -> tuple[Float32, Int64]:
        """Search for q rows of `items`; return (q, k) scores and row ids. Depths of 0 are those that are published."""
        depth = rerank_depth or self.rerank_depth
        return self.index.search(self.vectors[rows], self.candidates[rows], k, depth, nprobe=nprobe, only=only)

    def exact(self, name: str, queries: Int64, gallery: Int64) -> tuple[Float32, Int64]:
        """Return the (q, 10) scores and positions in `gallery` of the nearest, by exact search among rows of `items`.

        `name` says what the gallery is.
        """
        return self.kept.nearest(name, indexed_gallery(self.index, self.family, self.items, queries, gallery), K)


class Neighbours(NamedTuple):
    """What the published search finds for q `rows` of the items, ascending, each by its own vectors.

    `positions` (q, k) are the rows of the items that are found, nearest first and mostly the row itself among them, -1
    where there are fewer; `scores` (q, k) are their cosines, -inf there.
    """

    rows: Int64
    positions: Int64
    scores: Float32


def find_neighbours(setup: SearchSetup, seed: int) -> Neighbours:
    """Search for up to `MAX_ASKED` rows, drawn by their hashes, reranking `SHARE_RERANKED` of a search for ten."""
    items, row_ids = setup.items, setup.items["row_id"].to_numpy()
    rows = np.sort(np.argsort(hash_rows(row_ids, seed), kind="stable")[:MAX_ASKED])
    k = min(N_HITS if items["product_id"].is_not_null().any() else K + 1, len(items))
    scores, positions = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    for start in range(0, len(rows), ASKED_AT_ONCE):
        block = slice(start, start + ASKED_AT_ONCE)
        depth = max(1.0, SHARE_RERANKED * depth_as_for_ten(setup.rerank_depth, k))
        scores[block], hits = setup.find(rows[block], k, rerank_depth=depth)
        positions[block] = positions_in_gallery(hits, row_ids, k)
    return Neighbours(rows, positions, scores)


def single_query_ms(find: Callable[[Int64], object], rows: Int64) -> Float64:
    """Call `find` with one row at a time; return the milliseconds of each call, (len(rows),)."""
    elapsed_ms = np.empty(len(rows))
    for i in range(len(rows)):
        started = time.perf_counter()
        find(rows[i : i + 1])
        elapsed_ms[i] = 1e3 * (time.perf_counter() - started)
    return elapsed_ms


def hash_rows(row_ids: Int64, seed: int) -> UInt64:
    """Return a hash of each row id and the seed, (n,), evenly distributed: a row keeps its value in every run.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). It is independent of the hash that assigns rows to shards.
    """
    bits = row_ids.astype(np.uint64) + np.uint64(SPLITMIX64_INCREMENT * (seed + 1) % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
