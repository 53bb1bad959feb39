"""How many masks are distrusted and why, with examples to look at."""

from __future__ import annotations

import logging

import polars as pl

from retrieval_core.artifacts.manifests import MaskSet, Value
from retrieval_core.artifacts.parts import read_masks, read_table
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.evaluate.thumbnails import Thumbnail, jpeg_base64
from retrieval_core.images import apply_mask, crop_to_mask, decode
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

N_MASK_EXAMPLES = 8


class MaskFacts(Value):
    """The masks of a catalogue: how many were distrusted, so that the raw picture was embedded instead, and why."""

    n_masks: int = 0
    n_fallback: int = 0
    reasons: dict[str, int] = {}
    examples: tuple[tuple[Thumbnail, Thumbnail], ...] = ()

    @property
    def fallback_rate(self) -> float:
        return self.n_fallback / self.n_masks if self.n_masks else 0.0


def mask_examples(
    store: Store, items: pl.DataFrame, masks: MaskSet, config: NightlyConfig, n: int
) -> tuple[tuple[Thumbnail, Thumbnail], ...]:
    """Return random pictures, each before and after masking or cropping."""
    drawn = items.sample(min(n, len(items)), seed=config.evaluate.seed)
    rows = read_masks(store, masks, drawn["content_id"])
    pairs, pictures = [], PictureReader(store)
    for row in drawn.iter_rows(named=True):
        mask = rows.get(row["content_id"])
        if mask is None:
            continue
        try:
            image = decode(pictures.read(row))
        except VitrineError as error:
            log.warning("no thumbnail of %s: %s", row["item_id"], error)
            continue
        caption = mask.reason or f"{mask.area:.0%} of the picture"
        before = Thumbnail(item_id=row["item_id"], caption=row["item_id"], jpeg=jpeg_base64(image))
        cropped = config.embed.background == "crop"
        view = crop_to_mask(image, mask.array(), config.crop.margin) if cropped else apply_mask(image, mask.array())
        after = Thumbnail(item_id=row["item_id"], caption=caption, jpeg=jpeg_base64(view))
        pairs.append((before, after))
    return tuple(pairs)


def measure_masks(store: Store, outputs: RunOutputs, items: pl.DataFrame, config: NightlyConfig) -> MaskFacts:
    if outputs.masks is None:
        return MaskFacts()
    masks = MaskSet.open(store, outputs.masks)
    reasons = pl.concat([read_table(store, part, ["content_id", "reason"]) for part in masks.parts])
    reasons = reasons.filter(pl.col("content_id").is_in(items["content_id"].implode()))
    distrusted = reasons.filter(pl.col("reason") != "")["reason"]
    # A reason contains its figure; count by kind of reason.
    kinds = distrusted.str.replace_all(r"\s*[\d.]+%", "").value_counts(sort=True)
    return MaskFacts(
        n_masks=len(reasons),
        n_fallback=len(distrusted),
        reasons=dict(kinds.iter_rows()),
        examples=mask_examples(store, items, masks, config, N_MASK_EXAMPLES),
    )
