"""Pictures for the report: real queries with what was found, and masks as they were made."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.evaluate.report.schema import QueryGrid
from retrieval_core.evaluate.thumbnails import Thumbnail, item_picture
from retrieval_core.metrics.relevance import neighbour_iou, same_code

N_HITS = 5
THREADS = 4  # they decode, or wait for the network
ALIKE = 0.5  # label IoU from which a hit counts as alike, where nothing sharper is known


def query_grids(
    items: pl.DataFrame,
    protocol: Protocol,
    positions: Int64,
    scores: Float32,
    n_grids: int,
    seed: int,
) -> tuple[QueryGrid, ...]:
    """Randomly drawn queries, each with its first five hits: `positions` in the gallery and cosine `scores`, (q, k).

    None where there is no gallery to have hits in.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(positions))[:n_grids])
    return grids_of(items, protocol, positions, scores, chosen)


def grids_of(
    items: pl.DataFrame,
    protocol: Protocol,
    positions: Int64,
    scores: Float32,
    chosen: Int64,
) -> tuple[QueryGrid, ...]:
    """As `query_grids`, of the chosen queries, in their order."""
    if not len(protocol.gallery):
        return ()
    marks = hit_marks(protocol, positions[:, :N_HITS])
    grids = []
    for query in chosen:
        picture = item_picture(items, int(protocol.queries[query]))
        hits = [
            item_picture(items, int(protocol.gallery[position]), float(score), marks.of(int(query), slot))
            for slot, (position, score) in enumerate(zip(positions[query, :N_HITS], scores[query], strict=False))
            if position >= 0
        ]
        grids.append(QueryGrid(query=picture, hits=tuple(hits), note=marks.judged_by))
    return tuple(grids)


class Marks(NamedTuple):
    """Which hits, (q, k), share what a query is judged by, and of which that is `known`; none where nothing is."""

    shared: Bool
    known: Bool
    judged_by: str

    def of(self, query: int, slot: int) -> bool | None:
        """None where the query or the hit does not say what it would be judged by."""
        return bool(self.shared[query, slot]) if self.known[query, slot] else None


def hit_marks(protocol: Protocol, positions: Int64) -> Marks:
    """Judge hits, (q, k) positions in the gallery, by the sharpest thing that the catalogue says of its items."""
    truth = protocol.truth
    for name, query_codes, gallery_codes in (
        ("same product", truth.queries.product, truth.gallery.product),
        ("same category", truth.queries.category, truth.gallery.category),
    ):
        if query_codes is not None and gallery_codes is not None:
            known = (query_codes >= 0)[:, None] & (gallery_codes >= 0)[positions]
            return Marks(same_code(query_codes, gallery_codes, positions), known, name)
    if truth.queries.labels is not None and truth.gallery.labels is not None:
        asked, found = np.asarray(truth.queries.labels.any(axis=1)), np.asarray(truth.gallery.labels.any(axis=1))
        known = asked[:, None] & found[positions]
        alike = neighbour_iou(truth.queries, truth.gallery, positions) >= ALIKE
        return Marks(alike, known, "half of the labels or more")
    nothing = np.zeros(positions.shape, np.bool_)
    return Marks(nothing, nothing, "")


def album(wanted: Iterable[str], *tables: pl.DataFrame) -> dict[str, Thumbnail]:
    """Thumbnails by item id, of the first of the tables of items that has it; ids that none has are left out."""
    ids = pl.DataFrame({"item_id": list(dict.fromkeys(wanted))}, schema={"item_id": pl.String})
    found: dict[str, Thumbnail] = {}
    for items in tables:
        rows = items.join(ids, on="item_id", how="semi").filter(~pl.col("item_id").is_in(list(found)))
        with ThreadPoolExecutor(THREADS) as pool:
            shown = pool.map(partial(item_picture, rows), range(len(rows)))
            found |= {picture.item_id: picture for picture in shown}
    return found
