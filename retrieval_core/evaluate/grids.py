"""Pictures for the report: real queries with what was found, and masks as they were made."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.artifacts import MaskSet
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.facts import Picture, QueryGrid
from retrieval_core.evaluate.protocol import Protocol
from retrieval_core.evaluate.relevance import neighbour_iou, same_code
from retrieval_core.images import apply_mask, crop_to_mask, decode, thumbnail
from retrieval_core.shards import read_masks
from retrieval_core.store import Store, read_uri

log = logging.getLogger(__name__)

THUMBNAIL_PX = 160
N_HITS = 5
THREADS = 4  # they decode, or wait for the network
ALIKE = 0.5  # label IoU from which a hit counts as alike, where nothing sharper is known


def query_grids(
    items: pl.DataFrame,
    protocol: Protocol,
    positions: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
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
    positions: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    chosen: npt.NDArray[np.int64],
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

    shared: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    judged_by: str

    def of(self, query: int, slot: int) -> bool | None:
        """None where the query or the hit does not say what it would be judged by."""
        return bool(self.shared[query, slot]) if self.known[query, slot] else None


def hit_marks(protocol: Protocol, positions: npt.NDArray[np.int64]) -> Marks:
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


def mask_examples(
    store: Store, items: pl.DataFrame, masks: MaskSet, config: NightlyConfig, n: int
) -> tuple[tuple[Picture, Picture], ...]:
    """Random pictures beside what is left of them: under their mask, or of their crop."""
    drawn = items.sample(min(n, len(items)), seed=config.evaluate.seed)
    rows = read_masks(store, masks, drawn["content_id"])
    pairs = []
    for row in drawn.iter_rows(named=True):
        mask = rows.get(row["content_id"])
        if mask is None:
            continue
        try:
            image = decode(read_uri(row["image_uri"]))
        except VitrineError as error:
            log.warning("no thumbnail of %s: %s", row["item_id"], error)
            continue
        caption = mask.reason or f"{mask.area:.0%} of the picture"
        before = Picture(item_id=row["item_id"], caption=row["item_id"], jpeg=jpeg_base64(image))
        cropped = config.embed.background == "crop"
        left = crop_to_mask(image, mask.array(), config.crop.margin) if cropped else apply_mask(image, mask.array())
        after = Picture(item_id=row["item_id"], caption=caption, jpeg=jpeg_base64(left))
        pairs.append((before, after))
    return tuple(pairs)


def item_picture(items: pl.DataFrame, row: int, score: float | None = None, mark: bool | None = None) -> Picture:
    """The thumbnail of one row, captioned by its category or else its labels; empty where the picture went away."""
    item = items.row(row, named=True)
    try:
        jpeg = jpeg_base64(decode(read_uri(item["image_uri"])))
    except VitrineError as error:  # a picture that went away since it was embedded leaves a gap, not a failed night
        log.warning("no thumbnail of %s: %s", item["item_id"], error)
        jpeg = ""
    words = item["category"] or ", ".join(item["labels"][:6])
    return Picture(item_id=item["item_id"], caption=words, jpeg=jpeg, score=score, mark=mark)


def album(wanted: Iterable[str], *tables: pl.DataFrame) -> dict[str, Picture]:
    """Thumbnails by item id, of the first of the tables of items that has it; ids that none has are left out."""
    ids = pl.DataFrame({"item_id": list(dict.fromkeys(wanted))}, schema={"item_id": pl.String})
    found: dict[str, Picture] = {}
    for items in tables:
        rows = items.join(ids, on="item_id", how="semi").filter(~pl.col("item_id").is_in(list(found)))
        with ThreadPoolExecutor(THREADS) as pool:
            shown = pool.map(partial(item_picture, rows), range(len(rows)))
            found |= {picture.item_id: picture for picture in shown}
    return found


def jpeg_base64(image: npt.NDArray[np.uint8]) -> str:
    """A thumbnail of an (h, w, 3) uint8 picture, as a page carries it."""
    return base64.b64encode(thumbnail(image, THUMBNAIL_PX)).decode("ascii")
