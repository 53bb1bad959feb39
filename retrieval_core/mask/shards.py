"""Masks of a catalogue's pictures in shards: by a segmenter, or as the boxes that a detector finds."""

from __future__ import annotations

from functools import lru_cache

from retrieval_core.artifacts.fingerprints import detections_family, mask_family
from retrieval_core.artifacts.manifests import Detector, MaskSet, Ref, Segmenter
from retrieval_core.artifacts.parts import masks_bytes
from retrieval_core.artifacts.shards import (
    Target,
    WorkPlan,
    WorkShard,
    log_progress,
    plan_pictures,
    put_shard,
    shard_pictures,
)
from retrieval_core.config import CropConfig, IngestConfig, MaskConfig
from retrieval_core.mask import detect
from retrieval_core.mask.apply import Segmented, SegmenterEngine, segment
from retrieval_core.mask.train import ONNX_FILE
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store


def plan_masks(store: Store, catalog: Ref, segmenter: Ref, config: MaskConfig) -> WorkPlan:
    """Plan the shards of pictures that have no mask of this segmenter yet."""
    target = Target(folder=MaskSet.folder, family=mask_family(config, segmenter.name))
    return plan_pictures(store, [target], catalog, config.shard_rows)


def plan_detections(store: Store, catalog: Ref, detector: Ref, config: CropConfig) -> WorkPlan:
    """Plan the shards of pictures in which this detector has not looked for the product yet."""
    target = Target(folder=MaskSet.folder, family=detections_family(config, detector.name))
    return plan_pictures(store, [target], catalog, config.shard_rows)


def mask_shard(settings: Settings, shard: WorkShard, segmenter: Ref, config: MaskConfig, ingest: IngestConfig) -> int:
    """Mask the pictures of a shard and store them as one part; return the number of masks."""
    store = settings.open_store()
    onnx = store.local_path(Segmenter.open(store, segmenter).part(ONNX_FILE).key)
    engine = SegmenterEngine(onnx, config.size_px, settings.n_threads)
    pictures = shard_pictures(store, shard)
    report = log_progress(f"mask {shard.label}", len(pictures))
    return _put_masks(store, shard, segment(pictures, engine, config, settings.n_threads, ingest.max_pixels, report))


def detect_shard(settings: Settings, shard: WorkShard, detector: Ref, config: CropConfig, ingest: IngestConfig) -> int:
    """Find the product's box in the pictures of a shard and store the boxes as masks; return how many there are."""
    store = settings.open_store()
    pictures, engine = shard_pictures(store, shard), _detector_engine(settings, detector)
    report = log_progress(f"detect {shard.label}", len(pictures))
    return _put_masks(
        store, shard, detect.detect(pictures, engine, config, settings.n_threads, ingest.max_pixels, report)
    )


def _put_masks(store: Store, shard: WorkShard, done: Segmented) -> int:
    return put_shard(store, shard, shard.targets[0], done.content_ids, lambda: masks_bytes(*done))


@lru_cache(maxsize=1)
def _detector_engine(settings: Settings, detector: Ref) -> detect.DetectorEngine:
    store = settings.open_store()
    artifact = Detector.open(store, detector)
    part = artifact.part(detect.WEIGHTS_FILE)
    weights = store.local_path(part.key, part.sha256)
    return detect.DetectorEngine(artifact.model, weights, settings.torch_device, settings.n_threads)
