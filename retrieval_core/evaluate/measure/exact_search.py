"""Exact search for the queries: in each representation of the chain, and within the classes of a query first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int32, Int64
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.mapped_rows import in_batches
from retrieval_core.artifacts.parts import load_vectors, vectors_by_part
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.errors import DimensionMismatch
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.shard_files import positions_of
from retrieval_core.index.topk import best_of, kept_candidates, pair_scores
from retrieval_core.metrics.exact_knn import Blocks, exact_topk, exact_topk_of_blocks, joined_blocks, merge_topk
from retrieval_core.store.base import Store

WHOLE_BYTES = 256 * 2**20
Codes = tuple[Int64, Int64]
Step = Literal["", "mask", "crop", "head", "PCA", "ANN", "rerank"]


class Link(NamedTuple):
    """A representation of the chain and its metrics: one row a query, one column a metric.

    `step` is what leads to it from the link before, "" for the first.
    """

    name: str
    step: Step
    per_query: pl.DataFrame


def chain_names(variant: Variant, candidates: Variant | Reduced, available: Collection[str]) -> list[tuple[str, Step]]:
    """Return the available variants that lead to the published one and its candidates, each with the step to it.

    With `masked_boosted` published and `pca64` for the candidates: raw, masked, masked_boosted and pca64.
    """
    steps: list[tuple[str, Step]] = [("raw", "")]
    if variant.view != "raw":
        steps.append((variant.view, "crop" if variant.view == "crop" else "mask"))
    if variant.boosted:
        steps.append((str(variant), "head"))
    if candidates != variant:
        steps.append((str(candidates), "PCA"))
    present = [(name, step) for name, step in steps if name in available]
    return [(name, step if number else "") for number, (name, step) in enumerate(present)]


class Gallery(NamedTuple):
    """Vectors of one `family` and `dim`, in which the items with `query_ids` search among those with `gallery_ids`.

    `query_names` and `gallery_names` are their `item_names`, `gallery_contents` the content ids of the gallery.
    `load(ids)` returns the (n, dim) vectors of n ids in their order, `read(ids)` yields the same in blocks, by position
    in `ids`. With `codes`, (q,) of the queries and (n,) of the gallery, rows of a query's code are not found.
    """

    family: str
    dim: int
    query_ids: pl.Series
    gallery_ids: pl.Series
    query_names: Int64
    gallery_names: Int64
    gallery_contents: pl.Series
    load: Callable[[pl.Series], Float32]
    read: Callable[[pl.Series], Blocks]
    codes: Codes | None = None

    def queries(self) -> Float32:
        """Load the (q, dim) vectors of the queries."""
        return self.load(self.query_ids)

    def blocks(self) -> Blocks:
        """Read the vectors of the gallery by their positions in it."""
        return self.read(self.gallery_ids)

    def only(self, queries: Int64, gallery: Int64) -> Gallery:
        """Return the same with these of its queries and of its gallery alone."""
        return self._replace(
            query_ids=self.query_ids.gather(queries),
            gallery_ids=self.gallery_ids.gather(gallery),
            query_names=self.query_names[queries],
            gallery_names=self.gallery_names[gallery],
            gallery_contents=self.gallery_contents.gather(gallery),
            codes=(self.codes[0][queries], self.codes[1][gallery]) if self.codes else None,
        )

    def nearest(self, k: int) -> tuple[Float32, Int64]:
        """Return (q, k) inner products and positions in the gallery, as `exact_topk` does.

        Vectors are read once if all fit `WHOLE_BYTES`.
        """
        n_queries, ids = len(self.query_ids), pl.concat([self.query_ids, self.gallery_ids])
        if self.codes or 4 * self.dim * len(ids) > WHOLE_BYTES:
            return nearest_in_blocks(self.queries(), self.blocks(), k, self.codes)
        whole = self.load(ids)
        return exact_topk(whole[:n_queries], whole[n_queries:], k)


def nearest_in_blocks(queries: Float32, blocks: Blocks, k: int, codes: Codes | None) -> tuple[Float32, Int64]:
    """Return what `exact_topk_of_blocks` does; with `codes`, rows of a query's code are not found.

    The codes of the rows, (n,), are by their ids in the blocks.
    """
    if codes is None:
        return exact_topk_of_blocks(queries, blocks, k)
    hits = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    for ids, vectors in joined_blocks(blocks):
        rough: Float32 = queries @ vectors.T
        rough[codes[0][:, None] == codes[1][ids]] = -np.inf
        query, column = kept_candidates(rough, np.broadcast_to(ids, rough.shape), k)
        is_other = np.isfinite(rough[query, column])
        query, column = query[is_other], column[is_other]
        scores = pair_scores(queries, query, vectors, column)
        hits = merge_topk(hits, best_of(query, ids[column], scores, len(queries), k))
    return hits


def item_names(items: pl.DataFrame, *more: str) -> Int64:
    """Return a number from 0 for each item, (n,), which names its vector within a family, and its values of `more`."""
    named = items.select("item_id", "content_id", *more)
    hashes = [batch.select(pl.struct(pl.all()).hash() // 2).to_series() for batch in in_batches(named)]
    return pl.concat(hashes).cast(pl.Int64).to_numpy()


def stored_gallery(store: Store, vectors: VectorSet, items: pl.DataFrame, queries: Int64, gallery: Int64) -> Gallery:
    """Return rows of items as queries and as gallery in a vector set, which raises `ShardCorrupt`."""
    names, content_ids = item_names(items), items["content_id"]
    return Gallery(
        vectors.family,
        vectors.dim,
        content_ids.gather(queries),
        content_ids.gather(gallery),
        names[queries],
        names[gallery],
        content_ids.gather(gallery),
        load=partial(load_vectors, store, vectors),
        read=partial(vectors_by_part, store, vectors),
    )


def indexed_gallery(index: ShardedIndex, family: str, items: pl.DataFrame, queries: Int64, gallery: Int64) -> Gallery:
    """Return rows of items as queries and as gallery in an index, whose vectors, of a family, are mapped."""
    names, row_ids, content_ids = item_names(items), items["row_id"], items["content_id"]
    return Gallery(
        family,
        index.dim,
        row_ids.gather(queries),
        row_ids.gather(gallery),
        names[queries],
        names[gallery],
        content_ids.gather(gallery),
        load=lambda ids: index.vectors_of(ids.to_numpy()),
        read=lambda ids: blocks_of_rows(index, ids.to_numpy()),
    )


def blocks_of_rows(index: ShardedIndex, row_ids: Int64) -> Blocks:
    """Yield the vectors of those of (n,) `row_ids` that are in the index: (m,) ascending positions, and (m, dim)."""
    order = np.argsort(row_ids)
    for rows, vectors in index.blocks():
        place, is_wanted = positions_of(row_ids[order], rows)
        positions = order[place[is_wanted]]
        ascending = np.argsort(positions)
        yield positions[ascending], vectors[np.flatnonzero(is_wanted)[ascending]]


def classified_topk(
    queries: Float32, gallery: Callable[[], Blocks], query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """Return the `k` gallery rows nearest to each query, those of the query's classes before all others.

    `queries` (q, d) have unit length, and so have the vectors of the n gallery rows, of which `gallery()` yields blocks
    by position; `query_classes` (q, m) are the classes to look in, `gallery_class` (n,) the likeliest class of each
    item, -1 for none. Where fewer than k items belong to a query's classes, the nearest of the other items follow.
    Returns (q, k) inner products and (q, k) positions as `exact_topk` does; scores fall within the items of the
    classes, and again within the others.

    Raises what `exact_topk` raises, and `DimensionMismatch` where classes and queries do not fit.
    """
    if query_classes.ndim != 2 or len(query_classes) != len(queries) or gallery_class.ndim != 1:
        raise DimensionMismatch(
            f"classes of shape {query_classes.shape} for {len(queries)} queries and {gallery_class.shape} for the "
            f"gallery; expected ({len(queries)}, any) and (any,)"
        )
    nearest_scores, nearest = exact_topk_of_blocks(queries, gallery(), k)
    of_class = (gallery_class[nearest] if len(gallery_class) else nearest)[:, :, None] == query_classes[:, None, :]
    outside = (nearest >= 0) & ~((query_classes >= 0)[:, None, :] & of_class).any(axis=2)
    scores, positions = _topk_inside(queries, gallery(), query_classes, gallery_class, k)
    # The k nearest of the whole gallery hold enough of the other items to fill every free slot.
    free = positions < 0
    rank = np.cumsum(outside, axis=1)
    taken = outside & (rank <= free.sum(axis=1, keepdims=True))
    filled = free & (np.cumsum(free, axis=1) <= outside.sum(axis=1, keepdims=True))
    scores[filled], positions[filled] = nearest_scores[taken], nearest[taken]
    return scores, positions


def _topk_inside(
    queries: Float32, gallery: Blocks, query_classes: Int32, gallery_class: Int32, k: int
) -> tuple[Float32, Int64]:
    """Return the `k` best of each query among the items of its classes, padded with -inf and -1."""
    best = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    for positions, vectors in joined_blocks(gallery):
        classes = gallery_class[positions]
        for name in np.intersect1d(query_classes[query_classes >= 0], classes):
            rows, members = np.flatnonzero((query_classes == name).any(axis=1)), np.flatnonzero(classes == name)
            block = [(positions[members], vectors[members])]
            of_class = exact_topk_of_blocks(queries[rows], block, k)
            merged = merge_topk((best[0][rows], best[1][rows]), of_class)
            best[0][rows], best[1][rows] = merged
    return best
