"""Exact searches in shards that other machines make: plan those of a search, make one, merge what they found.

A shard compares the queries of a search with the rows of its gallery that lie in some parts of a set of vectors:

    vectors/FAMILY/plans/SEARCH/queries.parquet       the vectors of the queries
    vectors/FAMILY/plans/SEARCH/rows-0003.parquet     where the rows of shard 3 are
    vectors/FAMILY/plans/SEARCH/found-0003.parquet    the nearest of these to each query

A search is named by everything that it compares, so that a run which was killed finds the shards that it has made. The
next vacuum removes all of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Part, Ref, Value, VectorSet, fingerprint
from retrieval_core.artifacts.mapped_rows import MissingIds
from retrieval_core.artifacts.parts import read_id_column, read_unsealed, read_vectors, table_bytes
from retrieval_core.artifacts.shards import PART_SHARD_ROWS, group_parts
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.measure.exact_search import Gallery, nearest_in_blocks
from retrieval_core.index.topk import best_of
from retrieval_core.metrics.exact_knn import Blocks
from retrieval_core.store.base import Store

VERSION = 1  # raise it where a shard finds something else, or writes it in another way
CODE = "code"  # column of the queries and the rows of a search in which rows of a query's code are no neighbours

log = logging.getLogger(__name__)


class SearchShard(Value):
    """One shard of an exact search, for the `depth` nearest of each query in the parts of `source` that its rows name.

    `folder` holds the search in the store. `number` counts from 0.
    """

    source: Ref
    folder: str
    depth: int
    number: int
    n_shards: int

    @property
    def rows_key(self) -> str:
        return f"{self.folder}/rows-{self.number:04}.parquet"

    @property
    def found_key(self) -> str:
        return f"{self.folder}/found-{self.number:04}.parquet"


class Machines(NamedTuple):
    """Other machines that make shards: `run(shards)` returns when all are made, or raises what one raised.

    A search that compares fewer than `min_pairs` pairs of a query and a row is done sooner than a shard is sent. A
    shard reads at most `shard_rows` rows, unless one part alone has more.
    """

    run: Callable[[Sequence[SearchShard]], object]
    min_pairs: int = 1 << 28
    shard_rows: int = PART_SHARD_ROWS


class ShardedSearch:
    """Exact search among rows of some sets of vectors, on other machines where it is long."""

    def __init__(self, store: Store, sets: Iterable[VectorSet], machines: Machines) -> None:
        self._store, self._machines = store, machines
        self._sets = {vectors.family: vectors for vectors in sets}

    def nearest(self, gallery: Gallery, k: int) -> tuple[Float32, Int64]:
        """Return what `gallery.nearest(k)` does. Raises `ShardCorrupt`, and what a shard raises."""
        vectors, n_queries = self._sets.get(gallery.family), len(gallery.query_ids)
        if vectors is None or n_queries * len(gallery.gallery_ids) < self._machines.min_pairs:
            return gallery.nearest(k)
        shards = plan_search(self._store, vectors, gallery, k, self._machines.shard_rows)
        absent = [shard for shard in shards if not _is_made(self._store, shard)]
        log.info("exact search of %d queries: %d of %d shards", n_queries, len(absent), len(shards))
        if absent:
            self._machines.run(absent)
        return merge_found(self._store, shards, n_queries, k)


def plan_search(
    store: Store, vectors: VectorSet, gallery: Gallery, depth: int, shard_rows: int = PART_SHARD_ROWS
) -> list[SearchShard]:
    """Store and return the shards of a search for the `depth` nearest in a gallery, all of which is in a set.

    Raises `ShardCorrupt` where the set lacks a row.
    """
    rows = _rows_by_part(store, vectors, gallery)
    groups = list(group_parts(rows, vectors.parts, shard_rows))
    queries = {"vector": pl.Series(values=gallery.queries(), dtype=pl.Array(pl.Float32, gallery.dim))}
    if gallery.codes:
        queries[CODE] = pl.Series(gallery.codes[0])
    tables = [table_bytes(pl.DataFrame(queries))]
    tables += [table_bytes(pl.concat([rows[number] for number in group]).sort("position")) for group in groups]
    digests = [hashlib.sha256(table).hexdigest() for table in tables]
    name = fingerprint("search", VERSION, [depth, *digests], [part.key for part in vectors.parts])
    shards = [
        SearchShard(
            source=vectors.ref,
            folder=f"{VectorSet.folder}/{vectors.family}/plans/{name}",
            depth=depth,
            number=number,
            n_shards=len(groups),
        )
        for number in range(len(groups))
    ]
    keys = [f"{shards[0].folder}/queries.parquet", *(shard.rows_key for shard in shards)] if shards else []
    for key, table in zip(keys, tables, strict=False):
        store.put(key, table)
    return shards


def _rows_by_part(store: Store, vectors: VectorSet, gallery: Gallery) -> dict[int, pl.DataFrame]:
    """Return the rows of the gallery that parts of a set have: part, row there, position in the gallery, code."""
    missing, tables = MissingIds(gallery.gallery_contents), dict[int, pl.DataFrame]()
    for number, part in enumerate(vectors.parts):
        positions, rows = missing.take(read_id_column(store.local_path(part.key, part.sha256)))
        if not len(positions):
            continue
        table = {"part": np.full(len(rows), number, np.int32), "row": rows.astype(np.int32), "position": positions}
        if gallery.codes:
            table[CODE] = gallery.codes[1][positions]
        tables[number] = pl.DataFrame(table)
    missing.check_none(vectors.key)
    return tables


def search_shard(store: Store, shard: SearchShard) -> None:
    """Store what one shard of a search finds. Raises `NotFound`, and `ShardCorrupt` where something is damaged."""
    queries = read_unsealed(store, f"{shard.folder}/queries.parquet")
    rows = read_unsealed(store, shard.rows_key)
    codes = (queries[CODE].to_numpy(), rows[CODE].to_numpy()) if CODE in rows.columns else None
    blocks = _blocks(store, VectorSet.open(store, shard.source).parts, rows)
    scores, found = nearest_in_blocks(queries["vector"].to_numpy(), blocks, shard.depth, codes)
    query, column = np.nonzero(found >= 0)
    table = {
        "query": query.astype(np.int32),
        "position": rows["position"].to_numpy()[found[query, column]],
        "score": scores[query, column],
    }
    store.put_if_absent(shard.found_key, table_bytes(pl.DataFrame(table)))


def _blocks(store: Store, parts: Sequence[Part], rows: pl.DataFrame) -> Blocks:
    """Yield the vectors of the rows of a shard, a part at a time, by their places in `rows`."""
    numbers = rows["part"].to_numpy()
    for number in np.unique(numbers).tolist():
        places, part = np.flatnonzero(numbers == number), parts[number]
        vectors = read_vectors(store.local_path(part.key, part.sha256))[1]
        yield places, vectors[rows["row"].to_numpy()[places]]


def merge_found(store: Store, shards: Iterable[SearchShard], n_queries: int, depth: int) -> tuple[Float32, Int64]:
    """Return the (q, depth) scores and positions of the nearest in all shards of a search, as `exact_topk` does.

    Raises `NotFound` where a shard is not made, `ShardCorrupt` where one is damaged.
    """
    scores, positions = np.full((n_queries, depth), -np.inf, np.float32), np.full((n_queries, depth), -1, np.int64)
    for shard in shards:
        more = read_unsealed(store, shard.found_key)
        more = more.filter(pl.Series(more["score"].to_numpy() >= scores[more["query"].to_numpy(), -1]))
        query, column = np.nonzero(positions >= 0)
        scores, positions = best_of(
            np.concatenate([query, more["query"].to_numpy()]),
            np.concatenate([positions[query, column], more["position"].to_numpy()]),
            np.concatenate([scores[query, column], more["score"].to_numpy()]),
            n_queries,
            depth,
        )
    return scores, positions


def _is_made(store: Store, shard: SearchShard) -> bool:
    """Return whether a shard was made before; what it found is deleted where that is damaged."""
    try:
        read_unsealed(store, shard.found_key)
    except NotFound:
        return False
    except ShardCorrupt as error:
        log.warning("%s; it is made again", error)
        store.delete(shard.found_key)
        return False
    return True
