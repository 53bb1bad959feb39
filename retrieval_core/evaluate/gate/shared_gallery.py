"""Two releases on the same ground: the queries that both have, looking for the items that both have.

A catalogue that grows makes every query harder, and one that shrinks makes it easier, whatever the models do: what is
new can only come between a query and what it found before. So a release is not judged by what else is on sale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.manifests import IndexSet, Ref, Release, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.measure.indexed_rows import Indexed, open_indexed
from retrieval_core.evaluate.measure.protocol import positions_in_gallery
from retrieval_core.evaluate.measure.search_setup import Bench, K
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.metrics.relevance import Truth, find_truth
from retrieval_core.metrics.retrieval import score
from retrieval_core.store.base import Store


class Ground(NamedTuple):
    """Tables of queries by item_id with their metrics, of both releases, over `n_gallery` items that both hold."""

    candidate: pl.DataFrame
    production: pl.DataFrame
    n_gallery: int


def share_ground(store: Store, release: Release, bench: Bench) -> Ground:
    """What the published search of `release` and that of the bench are worth to each other's common queries.

    Items whose picture changed are not common. Both are judged by the labels of the bench, and searched as people
    search them. Raises `NotFound` where a part of the release is gone, `ShardCorrupt` where one is damaged.
    """
    then = open_indexed(store, release)
    items = bench.items.with_row_index("place")
    both = items.join(then.items.select("row_id", "content_id"), on=["row_id", "content_id"], how="semi")
    is_common = np.zeros(len(items), np.bool_)
    is_common[both["place"].to_numpy()] = True
    protocol = bench.protocol
    queries, gallery = (rows[is_common[rows]] for rows in (protocol.queries, protocol.gallery))
    truth = find_truth(protocol.judgements.take(queries), protocol.judgements.take(gallery))
    asked, wanted = items[queries], items["row_id"].to_numpy()[gallery]
    depth = IndexSet.open(store, release.index).rerank_depth
    ours = _hits(bench.index, bench.vectors[queries], bench.candidates[queries], bench.rerank_depth, wanted)
    theirs = _hits(then.index, *_asked_then(store, release, then, asked), depth, wanted)
    return Ground(_scored(ours, truth, asked), _scored(theirs, truth, asked), len(gallery))


def _asked_then(store: Store, release: Release, then: Indexed, asked: pl.DataFrame) -> tuple[Float32, Float32]:
    """The queries' vectors in the release: full ones, and those that find candidates."""
    index = IndexSet.open(store, release.index)
    full = then.index.vectors_of(asked["row_id"].to_numpy())
    if index.parents["candidates"] == index.parents["vectors"]:
        return full, full
    if release.reducer is None:
        raise NotFound(f"release {release.fingerprint} names no reducer, which finds its candidates")
    source = VectorSet.open(store, release.vectors).family
    family = fingerprints.reduced_family(release.reducer.name, source, index.candidate_dim)
    key = f"{VectorSet.folder}/{family}/{index.parents['candidates']}"
    reduced = VectorSet.open(store, Ref(kind=VectorSet.__name__, key=key))
    return full, load_vectors(store, reduced, asked["content_id"].to_list())


def _hits(index: ShardedIndex, queries: Float32, candidates: Float32, rerank_depth: int, wanted: Int64) -> Int64:
    """(q, 10) positions in `wanted` of the first hits that are among these row ids, padded with -1."""
    if not len(wanted):
        return np.full((len(queries), K), -1, np.int64)
    # Others are found too: ask for enough that ten of the wanted are left.
    k = min(index.n_rows, K + 2 * K * index.n_rows // len(wanted))
    return positions_in_gallery(index.search(queries, candidates, k, rerank_depth)[1], wanted, K)


def _scored(positions: Int64, truth: Truth, asked: pl.DataFrame) -> pl.DataFrame:
    return score(positions, truth).per_query.with_columns(item_id=asked["item_id"])
