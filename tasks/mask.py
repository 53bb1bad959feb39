"""Where the product is: train the segmenter where the source has masks and apply it, or find boxes with a detector."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.catalog_rows import HELD_OUT, load_items
from retrieval_core.artifacts.growing_sets import WorkPlan, WorkShard, plan_work, seal_view, shard_pictures
from retrieval_core.artifacts.manifests import Detector, Fitted, MaskSet, Ref, Segmenter
from retrieval_core.artifacts.parts import masks_bytes, put_part, put_part_file, read_masks
from retrieval_core.config import CropConfig, IngestConfig, MaskConfig
from retrieval_core.images import decode, fit
from retrieval_core.mask import detect
from retrieval_core.mask.apply import Segmented, SegmenterEngine, segment, square_of
from retrieval_core.mask.train import (
    ONNX_FILE,
    WEIGHTS_FILE,
    SegmentationData,
    save_segmenter,
    square_mask,
    train_segmenter,
)
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri
from tasks.stage import progress, stage


@stage("train segmenter")
def fit_segmenter(
    settings: Settings, catalog: Ref, truth: Ref | None, config: MaskConfig, ingest: IngestConfig
) -> Fitted | None:
    """The segmenter to use tonight: an earlier one while it serves, else one trained on the source's masks.

    None where there is neither.
    """
    store, logger = settings.open_store(), get_run_logger()
    name = fingerprints.segmenter_fingerprint(config, catalog.name)
    known = Segmenter.find(store, name) or _earlier_segmenter(store, catalog, config, truth is None)
    if known:
        return Fitted(ref=known.ref, trained=False)
    if truth is None:
        logger.warning(
            "the source has no masks and the store no segmenter: pictures are embedded with their background"
        )
        return None
    import torch  # here: most nights keep the segmenter, and it takes half a gigabyte

    train, val = _segmentation_data(store, catalog, truth, config, ingest)
    logger.info("training the U-Net on %d pictures, validating on %d", len(train.pixels), len(val.pixels))
    torch.set_num_threads(settings.n_threads)
    trained = train_segmenter(train, val, config, settings.torch_device, lambda epoch: logger.info("U-Net %s", epoch))
    with tempfile.TemporaryDirectory() as folder:
        save_segmenter(trained, config, Path(folder))
        parts = tuple(
            put_part_file(store, f"{Segmenter.folder}/{name}/{file}", Path(folder, file), 0)
            for file in (WEIGHTS_FILE, ONNX_FILE)
        )
    segmenter = Segmenter(
        fingerprint=name,
        config=fingerprints.segmenter_question(config),
        parents={"catalog": catalog.name, "truth": truth.name},
        parts=parts,
        counts={"train": len(train.pixels), "val": len(val.pixels)},
        val_iou=trained.val_iou,
        history=trained.history,
    ).seal(store)
    return Fitted(ref=segmenter.ref, trained=True)


def _earlier_segmenter(store: Store, catalog: Ref, config: MaskConfig, any_age: bool) -> Segmenter | None:
    release = releases.read_reference(store)
    if release is None or release.segmenter is None:
        return None
    earlier = Segmenter.open(store, release.segmenter)
    if any_age:
        return earlier
    items = load_items(store, catalog.name)
    serves = fingerprints.still_serves(store, earlier, fingerprints.segmenter_question(config), {}, config, items)
    return earlier if serves else None


def _segmentation_data(
    store: Store, catalog: Ref, truth: Ref, config: MaskConfig, ingest: IngestConfig
) -> tuple[SegmentationData, SegmentationData]:
    """Pictures and masks of the training split and of the held-out one, squashed to the U-Net's square."""
    items = load_items(store, catalog.name)
    items = items.filter((pl.col("status") == "ok") & pl.col("mask_id").is_not_null())
    masks = read_masks(store, MaskSet.open(store, truth), items["mask_id"])
    items = items.filter(pl.col("mask_id").is_in(list(masks)))  # some mask files may not have been readable
    how = square_of(config.size_px)
    report = progress("pictures for the U-Net", len(items))

    def load(rows: pl.DataFrame) -> SegmentationData:
        pixels = np.empty((len(rows), config.size_px, config.size_px, 3), np.uint8)
        targets = np.empty(pixels.shape[:3], np.bool_)
        for row, (uri, mask_id) in enumerate(rows.select("image_uri", "mask_id").iter_rows()):
            pixels[row] = fit(decode(read_uri(uri), max_pixels=ingest.max_pixels), how)
            targets[row] = square_mask(masks[mask_id].array(), config.size_px)
            report(1)
        return SegmentationData(pixels, targets)

    held_out = pl.col("split").is_in(HELD_OUT)
    return load(items.filter(~held_out)), load(items.filter(held_out))


@stage("plan masks")
def plan_masks(settings: Settings, catalog: Ref, segmenter: Ref, config: MaskConfig) -> WorkPlan:
    """The shards of pictures that have no mask of this segmenter yet."""
    store = settings.open_store()
    family = fingerprints.mask_family(config, segmenter.name)
    return plan_work(store, MaskSet.folder, family, usable_pictures(store, catalog), config.shard_rows)


def usable_pictures(store: Store, catalog: Ref) -> pl.DataFrame:
    """content_id, image_uri and item_id of every catalogue row that is not in quarantine."""
    items = load_items(store, catalog.name)
    return items.filter(pl.col("status") == "ok").select("content_id", "image_uri", "item_id")


@stage("mask shard")
def mask_shard(settings: Settings, shard: WorkShard, segmenter: Ref, config: MaskConfig, ingest: IngestConfig) -> int:
    """Mask one shard of a plan; returns the number of masks stored."""
    store = settings.open_store()
    onnx = store.local_path(Segmenter.open(store, segmenter).part(ONNX_FILE).key)
    engine = SegmenterEngine(onnx, config.size_px, settings.n_threads)
    pictures = list(shard_pictures(store, shard).select("content_id", "image_uri").iter_rows())
    report = progress(f"mask {shard.place}", len(pictures))
    return _put_masks(store, shard, segment(pictures, engine, config, settings.n_threads, ingest.max_pixels, report))


def _put_masks(store: Store, shard: WorkShard, done: Segmented) -> int:
    if done.content_ids:
        data = masks_bytes(done.content_ids, done.masks, done.reasons)
        put_part(store, shard.part_key, data, len(done.content_ids))
    return len(done.content_ids)


@stage("prepare detector")
def prepare_detector(settings: Settings, config: CropConfig) -> Ref:
    """The frozen detector as an artifact: its weights, fetched once."""
    store = settings.open_store()
    name = fingerprints.detector_fingerprint(config)
    known = Detector.find(store, name)
    if known:
        return known.ref
    network = detect.load_detector(config)
    with tempfile.TemporaryDirectory() as folder:
        detect.save_detector(network, Path(folder))
        key = f"{Detector.folder}/{name}/{detect.WEIGHTS_FILE}"
        part = put_part_file(store, key, Path(folder, detect.WEIGHTS_FILE), 0)
    detector = Detector(fingerprint=name, config={"weights": config.weights}, parts=(part,), model=config.detector)
    return detector.seal(store).ref


@stage("plan detections")
def plan_detections(settings: Settings, catalog: Ref, detector: Ref, config: CropConfig) -> WorkPlan:
    """The shards of pictures in which this detector has not looked for the product yet."""
    store = settings.open_store()
    family = fingerprints.detections_family(config, detector.name)
    return plan_work(store, MaskSet.folder, family, usable_pictures(store, catalog), config.shard_rows)


@stage("detect shard")
def detect_shard(settings: Settings, shard: WorkShard, detector: Ref, config: CropConfig, ingest: IngestConfig) -> int:
    """Find the product's box in one shard of a plan; returns the number of boxes stored, as masks."""
    store = settings.open_store()
    pictures = list(shard_pictures(store, shard).select("content_id", "image_uri").iter_rows())
    engine = _detector_engine(settings, detector)
    report = progress(f"detect {shard.place}", len(pictures))
    done = detect.detect(pictures, engine, config, settings.n_threads, ingest.max_pixels, report)
    return _put_masks(store, shard, done)


@lru_cache(maxsize=1)
def _detector_engine(settings: Settings, detector: Ref) -> detect.DetectorEngine:
    store = settings.open_store()
    artifact = Detector.open(store, detector)
    part = artifact.part(detect.WEIGHTS_FILE)
    weights = store.local_path(part.key, part.sha256)
    return detect.DetectorEngine(artifact.model, weights, settings.torch_device, settings.n_threads)


@stage("seal masks")
def seal_mask_set(settings: Settings, catalog: Ref, plan: WorkPlan) -> Ref:
    """The masks of this catalogue, or the boxes found in it, as one set."""
    store = settings.open_store()
    return seal_view(store, MaskSet, plan.family, catalog.name, usable_pictures(store, catalog)["content_id"]).ref
