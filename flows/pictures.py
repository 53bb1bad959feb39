"""The pictures of a catalogue in each view asked for: what shows the product in them, and their vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.shards import each_shard
from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Value
from retrieval_core.config import NightlyConfig, View
from retrieval_core.settings import Settings
from tasks.embed import embed_shard, plan_vectors, seal_vector_set
from tasks.ingest import collect_truth_masks
from tasks.mask import detect_shard, fit_segmenter, mask_shard, plan_detections, plan_masks, seal_mask_set

Shards = Callable[..., list[Any]]  # `each_shard`, or one like it


class Masking(Value):
    """The segmenter or the detector of a run and its masks, all None where pictures stay as they are."""

    segmenter: Fitted | None = None
    detector: Ref | None = None
    masks: Ref | None = None
    n_masked: int = 0


class Embedding(Value):
    """A vector set and how it came about."""

    vectors: Ref
    n_embedded: int
    rejects: tuple[Reject, ...]


def mask_pictures(
    settings: Settings,
    source: str,
    catalog: Ref,
    detector: Ref | None,
    config: NightlyConfig,
    chosen: Ref | None = None,
    each: Shards = each_shard,
) -> Masking:
    """What shows the product in the pictures: a detector's boxes, else a segmenter's masks, else nothing.

    `chosen` is the catalogue of the pictures to look at where that is a part of the one to learn from; `each` makes the
    shards.
    """
    chosen = chosen or catalog
    if detector:
        return _detect(settings, chosen, detector, config, each)
    if not config.mask.enabled or config.embed.background == "raw":
        return Masking()
    truth = collect_truth_masks(settings, source, catalog)
    segmenter = fit_segmenter(settings, catalog, truth, config.mask, config.ingest)
    if segmenter is None:
        return Masking()
    plan = plan_masks(settings, chosen, segmenter.ref, config.mask)
    n_masked = sum(each(mask_shard, settings, plan, segmenter.ref, config.mask, config.ingest))
    return Masking(segmenter=segmenter, masks=seal_mask_set(settings, chosen, plan), n_masked=n_masked)


def embed_pictures(
    settings: Settings,
    catalog: Ref,
    backbone: Ref,
    masks: Ref | None,
    config: NightlyConfig,
    each: Shards = each_shard,
) -> dict[View, Embedding]:
    """One vector set for each view of the pictures, made by `each`; without masks there is only the raw one."""
    made: dict[View, Embedding] = {}
    for variant in config.embed.views(has_masks=masks is not None):
        worn = None if variant == "raw" else masks
        plan = plan_vectors(settings, catalog, backbone, worn, variant, config.embed, config.crop.margin)
        shared = (backbone, worn, variant, config.embed, config.ingest, config.crop.margin)
        outcomes = each(embed_shard, settings, plan, *shared)
        made[variant] = Embedding(
            vectors=seal_vector_set(settings, catalog, plan, backbone, variant),
            n_embedded=sum(outcome.n_rows for outcome in outcomes),
            rejects=tuple(reject for outcome in outcomes for reject in outcome.rejects),
        )
    return made


def _detect(settings: Settings, catalog: Ref, detector: Ref, config: NightlyConfig, each: Shards) -> Masking:
    plan = plan_detections(settings, catalog, detector, config.crop)
    n_masked = sum(each(detect_shard, settings, plan, detector, config.crop, config.ingest))
    return Masking(detector=detector, masks=seal_mask_set(settings, catalog, plan), n_masked=n_masked)
