"""Pictures for the report: queries with their hits, and thumbnails of the items it names."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.artifacts.mapped_rows import rows_at
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.evaluate.measure.setup import Protocol
from retrieval_core.evaluate.report.schema import QueryGrid
from retrieval_core.evaluate.thumbnails import FROM_SOURCE, Thumbnail, item_picture
from retrieval_core.metrics.relevance import is_labelled, neighbour_iou, same_code

N_HITS = 5
THREADS = 4  # to decode, or to wait for the network
MIN_LABEL_IOU = 0.5  # for a hit to count as relevant, if neither products nor categories are known


def query_grids(
    items: pl.DataFrame,
    protocol: Protocol,
    positions: Int64,
    scores: Float32,
    n_grids: int,
    seed: int,
    pictures: PictureReader = FROM_SOURCE,
) -> tuple[QueryGrid, ...]:
    """Return randomly sampled queries with their first five hits; none if the gallery is empty.

    `positions` (q, k) are positions in the gallery, `scores` (q, k) cosines.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(positions))[:n_grids])
    return grids_of(items, protocol, positions, scores, chosen, pictures)


def grids_of(
    items: pl.DataFrame,
    protocol: Protocol,
    positions: Int64,
    scores: Float32,
    chosen: Int64,
    pictures: PictureReader = FROM_SOURCE,
) -> tuple[QueryGrid, ...]:
    """Return the chosen queries in their order; see `query_grids`."""
    if not len(protocol.gallery):
        return ()
    marks = hit_marks(protocol, positions[:, :N_HITS])
    grids = []
    for query in chosen:
        picture = item_picture(items, int(protocol.queries[query]), pictures=pictures)
        hits = [
            item_picture(items, int(protocol.gallery[position]), float(score), marks.of(int(query), slot), pictures)
            for slot, (position, score) in enumerate(zip(positions[query, :N_HITS], scores[query], strict=False))
            if position >= 0
        ]
        grids.append(QueryGrid(query=picture, hits=tuple(hits), note=marks.judged_by))
    return tuple(grids)


class Marks(NamedTuple):
    """Whether each hit (q, k) shares what the query is judged by, and whether that is known of both sides.

    `judged_by` names what that is, "" if there is nothing to judge by.
    """

    is_shared: Bool
    is_known: Bool
    judged_by: str

    def of(self, query: int, slot: int) -> bool | None:
        """Whether one hit is relevant; None if that is not known."""
        return bool(self.is_shared[query, slot]) if self.is_known[query, slot] else None


def hit_marks(protocol: Protocol, positions: Int64) -> Marks:
    """Judge hits, (q, k) positions in the gallery, by product, else by category, else by labels."""
    truth = protocol.truth
    for name, query_codes, gallery_codes in (
        ("same product", truth.queries.product, truth.gallery.product),
        ("same category", truth.queries.category, truth.gallery.category),
    ):
        if query_codes is not None and gallery_codes is not None:
            known = (query_codes >= 0)[:, None] & (gallery_codes >= 0)[positions]
            return Marks(same_code(query_codes, gallery_codes, positions), known, name)
    query_labels, gallery_labels = truth.queries.labels, truth.gallery.labels
    if query_labels is not None and gallery_labels is not None:
        known = is_labelled(query_labels)[:, None] & is_labelled(gallery_labels)[positions]
        is_alike = neighbour_iou(truth.queries, truth.gallery, positions) >= MIN_LABEL_IOU
        return Marks(is_alike, known, "half of the labels or more")
    none = np.zeros(positions.shape, np.bool_)
    return Marks(none, none, "")


def album(
    item_ids: Iterable[str], *tables: pl.DataFrame, pictures: PictureReader = FROM_SOURCE
) -> dict[str, Thumbnail]:
    """Return thumbnails by item id, each from the first table of items that has the item; unknown ids are left out."""
    requested, thumbnails = set(item_ids), dict[str, Thumbnail]()
    for items in tables:
        is_new = items["item_id"].is_in(list(requested - thumbnails.keys()))
        rows = rows_at(items, is_new.arg_true().to_numpy().astype(np.int64))
        with ThreadPoolExecutor(THREADS) as pool:
            drawn = pool.map(partial(item_picture, rows, pictures=pictures), range(len(rows)))
            thumbnails |= {thumbnail.item_id: thumbnail for thumbnail in drawn}
    return thumbnails
