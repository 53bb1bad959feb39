"""Where the product is: a segmenter fitted on the source's masks, or a detector of boxes, and the masks they give."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Fitted, MaskSet, Ref
from retrieval_core.artifacts.shards import WorkPlan, WorkShard, seal_pictures
from retrieval_core.config import CropConfig, IngestConfig, MaskConfig
from retrieval_core.mask import fit, shards
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("train segmenter")
def fit_segmenter(
    settings: Settings, catalog: Ref, truth: Ref | None, config: MaskConfig, ingest: IngestConfig
) -> Fitted | None:
    """Return the segmenter for a catalogue, fitted on the masks `truth`; None when there can be none."""
    truth_masks = MaskSet.open(settings.open_store(), truth) if truth else None
    return fit.fit_segmenter(settings, catalog, truth_masks, config, ingest)


@stage("plan masks")
def plan_masks(settings: Settings, catalog: Ref, segmenter: Ref, config: MaskConfig) -> WorkPlan:
    """Plan the shards of pictures that have no mask of this segmenter yet."""
    return shards.plan_masks(settings.open_store(), catalog, segmenter, config)


@stage("mask shard")
def mask_shard(settings: Settings, shard: WorkShard, segmenter: Ref, config: MaskConfig, ingest: IngestConfig) -> int:
    """Mask one shard of a plan; return the number of masks stored."""
    return shards.mask_shard(settings, shard, segmenter, config, ingest)


@stage("prepare detector")
def prepare_detector(settings: Settings, config: CropConfig) -> Ref:
    """Return the frozen detector as an artifact; its weights are fetched once."""
    return fit.export_detector(settings.open_store(), config).ref


@stage("plan detections")
def plan_detections(settings: Settings, catalog: Ref, detector: Ref, config: CropConfig) -> WorkPlan:
    """Plan the shards of pictures in which this detector has not looked for the product yet."""
    return shards.plan_detections(settings.open_store(), catalog, detector, config)


@stage("detect shard")
def detect_shard(settings: Settings, shard: WorkShard, detector: Ref, config: CropConfig, ingest: IngestConfig) -> int:
    """Find the product's box in one shard of a plan; return the number of boxes stored, as masks."""
    return shards.detect_shard(settings, shard, detector, config, ingest)


@stage("seal masks")
def seal_mask_set(settings: Settings, catalog: Ref, plan: WorkPlan) -> Ref:
    """Seal the masks of this catalogue, or the boxes found in it, as one set."""
    return seal_pictures(settings.open_store(), MaskSet, plan.targets[0].family, catalog).ref
