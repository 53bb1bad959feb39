"""Compare two releases on the queries and the gallery items that both have.

A catalogue that grows makes every query harder, whatever the models do, because new items can only push down what a
query found before; one that shrinks makes it easier. So only what both releases hold is compared. The queries are drawn
from that, too, so that there are as many as there can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.anchors import find_report
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import IndexSet, Ref, Release, VectorSet
from retrieval_core.artifacts.mapped_rows import KeyIndex, batches_at, mapped, rows_at
from retrieval_core.artifacts.parts import load_vectors, read_kept
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.measure.exact_search import item_names
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems, open_indexed
from retrieval_core.evaluate.measure.setup import (
    HITS_FILE,
    HITS_SCHEMA,
    K,
    SearchSetup,
    choose_protocol,
    cluster_names,
    depth_as_for_ten,
    gallery_depth,
    positions_in_gallery,
)
from retrieval_core.index.shard_files import positions_of
from retrieval_core.metrics.relevance import Truth
from retrieval_core.metrics.retrieval import score
from retrieval_core.store.base import Store


class SharedGallery(NamedTuple):
    """One row a shared query (item_id, cluster, metrics) for either release, over the `n_gallery` items of both."""

    challenger: pl.DataFrame
    baseline: pl.DataFrame
    n_gallery: int


def search_shared_gallery(store: Store, release: Release, setup: SearchSetup, config: EvaluateConfig) -> SharedGallery:
    """Search a baseline `release` and the challenger's index with queries of items that both have.

    Items whose picture changed are not shared. Both are judged by the challenger's labels and searched as published.
    Raises `NotFound` where a part of the release was removed, `ShardCorrupt` where one is damaged.
    """
    baseline = open_indexed(store, release)
    key, items = ["item_id", "content_id"], setup.items.select("item_id", "content_id", "row_id", "product_id", "split")
    there = KeyIndex(baseline.items.select(key)).first(items.select(key))
    positions = np.flatnonzero(there >= 0)
    shared, held = mapped(batches_at(items, positions)), baseline.items["row_id"].to_numpy()[there[positions]]
    protocol = choose_protocol(shared, config, setup.protocol.judgements.only(positions))
    queries, in_baseline = positions[protocol.queries], pl.Series("baseline_row_id", held[protocol.queries])
    query_items = rows_at(shared, protocol.queries).with_columns(in_baseline)
    gallery_ids, baseline_ids = shared["row_id"].to_numpy()[protocol.gallery], held[protocol.gallery]
    new_hits = _hits(setup.index.n_rows, gallery_ids, len(queries), lambda k: setup.hits(queries, k)[1])
    old_hits = _hits(
        baseline.index.n_rows, baseline_ids, len(queries), lambda k: _ask(store, release, baseline, query_items, k)
    )
    return SharedGallery(
        _score(new_hits, protocol.truth, query_items),
        _score(old_hits, protocol.truth, query_items),
        n_gallery=len(gallery_ids),
    )


def _ask(store: Store, release: Release, baseline: IndexedItems, queries: pl.DataFrame, k: int) -> Int64:
    """Return the (q, k) row ids that a baseline finds for queries; what its own run has asked, its report has kept."""
    kept = read_kept(store, find_report(store, release), HITS_FILE, HITS_SCHEMA)
    kept = kept.filter(version=STAGE_VERSIONS["evaluate"], k=k).sort("name")
    found = np.array(kept["found"].to_list(), np.int64).reshape(-1, k)
    place, is_kept = positions_of(kept["name"].to_numpy(), item_names(queries))
    hits = np.empty((len(queries), k), np.int64)
    hits[is_kept] = found[place[is_kept]]
    new, depth = np.flatnonzero(~is_kept), IndexSet.open(store, release.index).rerank_depth
    if len(new):
        vectors = _query_vectors(store, release, baseline, queries[new])
        hits[new] = baseline.index.search(*vectors, k, depth_as_for_ten(depth, k))[1]
    return hits


def _query_vectors(
    store: Store, release: Release, baseline: IndexedItems, queries: pl.DataFrame
) -> tuple[Float32, Float32]:
    """Return the vectors of the queries in the baseline: the full ones, and those that find candidates."""
    index = IndexSet.open(store, release.index)
    full = baseline.index.vectors_of(queries["baseline_row_id"].to_numpy())
    if index.parents["candidates"] == index.parents["vectors"]:
        return full, full
    if release.reducer is None:
        raise NotFound(f"release {release.fingerprint} names no reducer, which its candidates need")
    source = VectorSet.open(store, release.vectors).family
    family = fingerprints.reduced_family(release.reducer.name, source, index.candidate_dim)
    key = f"{VectorSet.folder}/{family}/{index.parents['candidates']}"
    reduced = VectorSet.open(store, Ref(kind=VectorSet.__name__, key=key))
    return full, load_vectors(store, reduced, queries["content_id"].to_list())


def _hits(n_rows: int, gallery_ids: Int64, n_queries: int, search: Callable[[int], Int64]) -> Int64:
    """Return (q, 10) positions in `gallery_ids` of the first of them in the (q, k) row ids of `search(k)`, else -1."""
    if not len(gallery_ids):
        return np.full((n_queries, K), -1, np.int64)
    return positions_in_gallery(search(gallery_depth(n_rows, len(gallery_ids), K)), gallery_ids, K)


def _score(positions: Int64, truth: Truth, queries: pl.DataFrame) -> pl.DataFrame:
    return score(positions, truth).per_query.with_columns(queries["item_id"], cluster_names(queries))
