"""Read the pictures of a source, mask them, and embed them in each view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.shards import each_shard, in_shards
from retrieval_core.artifacts.manifests import Fitted, Ref, Reject, Release, Value
from retrieval_core.config import IngestConfig, NightlyConfig, View
from retrieval_core.ingest.catalog import IngestOutcome, IngestPlan
from retrieval_core.ingest.change import Change
from retrieval_core.settings import Settings
from tasks.embed import embed_shard, plan_vectors, seal_vector_set
from tasks.ingest import collect_truth_masks, plan_change, plan_source, read_shard, seal_catalog
from tasks.mask import detect_shard, fit_segmenter, mask_shard, plan_detections, plan_masks, seal_mask_set

RunShards = Callable[..., list[Any]]  # `each_shard`, or a function with the same parameters


class Masking(Value):
    """The segmenter or the detector of a run and its masks, all None when pictures are embedded as they are."""

    segmenter: Fitted | None = None
    detector: Ref | None = None
    masks: Ref | None = None
    n_masked: int = 0


class Embedding(Value):
    """The vectors of one view, how many of them this run made, and the pictures that were refused."""

    view: View
    vectors: Ref
    n_embedded: int
    rejects: tuple[Reject, ...]


def snapshot_catalog(settings: Settings, source: str, config: IngestConfig) -> IngestOutcome:
    """Read what changed in the source and seal its catalogue."""
    return _read_planned(settings, plan_source(settings, source, config), config)


def update_catalog(
    settings: Settings, source: str, base: Release, change: Change, config: IngestConfig
) -> IngestOutcome:
    """Read the items that a change names and seal the catalogue `base` with them."""
    return _read_planned(settings, plan_change(settings, source, base, change, config), config)


def _read_planned(settings: Settings, plan: IngestPlan, config: IngestConfig) -> IngestOutcome:
    in_shards(read_shard, settings, plan.split(), config)
    return seal_catalog(settings, plan, config)


def mask_pictures(
    settings: Settings,
    source: str,
    catalog: Ref,
    detector: Ref | None,
    config: NightlyConfig,
    selected: Ref | None = None,
    run_shards: RunShards = each_shard,
) -> Masking:
    """Mask pictures by the boxes of a detector if there is one, else by a segmenter if the config and the store allow.

    `selected` is a part of `catalog` whose pictures to mask; the segmenter is fitted on all of `catalog`.
    """
    selected = selected or catalog
    if detector:
        plan = plan_detections(settings, selected, detector, config.crop)
        n_masked = sum(run_shards(detect_shard, settings, plan, detector, config.crop, config.ingest))
        return Masking(detector=detector, masks=seal_mask_set(settings, selected, plan), n_masked=n_masked)
    if not config.mask.enabled or config.embed.background == "raw":
        return Masking()
    truth = collect_truth_masks(settings, source, catalog)
    segmenter = fit_segmenter(settings, catalog, truth, config.mask, config.ingest)
    if segmenter is None:
        return Masking()
    plan = plan_masks(settings, selected, segmenter.ref, config.mask)
    n_masked = sum(run_shards(mask_shard, settings, plan, segmenter.ref, config.mask, config.ingest))
    return Masking(segmenter=segmenter, masks=seal_mask_set(settings, selected, plan), n_masked=n_masked)


def embed_pictures(
    settings: Settings,
    catalog: Ref,
    backbone: Ref,
    masks: Ref | None,
    config: NightlyConfig,
    run_shards: RunShards = each_shard,
) -> list[Embedding]:
    """Embed the pictures in each view of the config; without masks in the raw one only."""
    embeddings = []
    for view in config.embed.views(has_masks=masks is not None):
        view_masks = None if view == "raw" else masks
        plan = plan_vectors(settings, catalog, backbone, view_masks, view, config.embed, config.crop.margin)
        shared = (backbone, view_masks, view, config.embed, config.ingest, config.crop.margin)
        outcomes = run_shards(embed_shard, settings, plan, *shared)
        embedding = Embedding(
            view=view,
            vectors=seal_vector_set(settings, catalog, plan, backbone, view),
            n_embedded=sum(outcome.n_rows for outcome in outcomes),
            rejects=tuple(reject for outcome in outcomes for reject in outcome.rejects),
        )
        embeddings.append(embedding)
    return embeddings
