"""Fit the segmenter on the source's own masks, or reuse an earlier one; export the detector once."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.artifacts.catalog_rows import (
    bounded_sample,
    inner_validation,
    load_items,
    product_unit,
    without_held_out,
)
from retrieval_core.artifacts.fingerprints import detector_fingerprint, segmenter_fingerprint, segmenter_question
from retrieval_core.artifacts.fitted import FitQuestion, fit_or_reuse
from retrieval_core.artifacts.manifests import Detector, Fitted, MaskSet, Ref, Segmenter
from retrieval_core.artifacts.parts import put_part_files, read_masks, read_table
from retrieval_core.artifacts.pictures import PictureReader, read_picture
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.config.stages import CropConfig, IngestConfig, MaskConfig
from retrieval_core.images import fit
from retrieval_core.mask import detect
from retrieval_core.mask.apply import square_of
from retrieval_core.mask.train import SegmentationData, save_segmenter, square_mask, train_segmenter
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

COLUMNS = ["item_id", "product_id", "image_uri", "content_id", "mask_id", "split", "status"]


def fit_segmenter(
    settings: Settings, catalog: Ref, truth: MaskSet | None, config: MaskConfig, ingest: IngestConfig
) -> Fitted | None:
    """Return the segmenter for a catalogue; None when the source has no masks and the store no segmenter.

    `truth` holds the source's own masks. Without them the segmenter of production serves, whatever has changed since.
    """
    store = settings.open_store()
    question = FitQuestion(
        fingerprint=segmenter_fingerprint(config, catalog.name),
        config=segmenter_question(config),
        parents={"catalog": catalog.name},
        refit_after_change=config.refit_after_change,
    )

    def fit_new() -> Segmenter | None:
        if truth is None:
            log.warning(
                "the source has no masks and the store no segmenter: pictures are embedded with their background"
            )
            return None
        return _train(settings, question, truth, config, ingest)

    return fit_or_reuse(store, Segmenter, question, fit_new, reuse_any=truth is None)


def export_detector(store: Store, config: CropConfig) -> Detector:
    """Return the frozen detector as an artifact; its weights are fetched once."""
    name = detector_fingerprint(config)
    existing = Detector.find(store, name)
    if existing:
        return existing
    network = detect.load_detector(config)
    parts = put_part_files(store, f"{Detector.folder}/{name}", lambda folder: detect.save_detector(network, folder))
    return Detector(fingerprint=name, config={"weights": config.weights}, parts=parts, model=config.detector).seal(
        store
    )


def _train(
    settings: Settings, question: FitQuestion, truth: MaskSet, config: MaskConfig, ingest: IngestConfig
) -> Segmenter:
    import torch  # takes half a gigabyte, and most runs reuse a segmenter

    store = settings.open_store()
    train, val = _training_data(store, question.parents["catalog"], truth, config, ingest)
    log.info("training the U-Net on %d pictures, validating on %d", len(train.pixels), len(val.pixels))
    torch.set_num_threads(settings.n_threads)
    trained = train_segmenter(train, val, config, settings.torch_device, lambda epoch: log.info("U-Net %s", epoch))
    folder = f"{Segmenter.folder}/{question.fingerprint}"
    return Segmenter(
        fingerprint=question.fingerprint,
        config=question.config,
        parents=question.parents | {"truth": truth.fingerprint},
        parts=put_part_files(store, folder, lambda local: save_segmenter(trained, config, local)),
        counts={"train": len(train.pixels), "val": len(val.pixels)},
        val_iou=trained.val_iou,
        history=trained.history,
    )


def _training_data(
    store: Store, catalog: str, truth: MaskSet, config: MaskConfig, ingest: IngestConfig
) -> tuple[SegmentationData, SegmentationData]:
    """Return pictures and masks to train and to validate on, squashed to the U-Net's square.

    Both are of the training split: the pictures that search is measured with choose no weights. Of more than
    `config.max_pictures`, a random sample is read.
    """
    items = load_items(store, catalog, COLUMNS)
    readable = pl.concat([read_table(store, part, ["content_id"])["content_id"] for part in truth.parts])
    # Some mask files may not have been readable.
    items = items.filter((pl.col("status") == "ok") & pl.col("mask_id").is_in(readable.implode()))
    items = items.with_columns(is_val=inner_validation(items, config.seed))
    pictures = without_held_out(items).unique("content_id", keep="first", maintain_order=True)
    items = bounded_sample(_with_validation(pictures), config.max_pictures, config.seed)
    masks = read_masks(store, truth, items["mask_id"])
    square = square_of(config.size_px)
    report, reader = log_progress("pictures for the U-Net", len(items)), PictureReader(store)

    def load(rows: pl.DataFrame) -> SegmentationData:
        pixels = _array_on_disk((len(rows), config.size_px, config.size_px, 3), np.uint8)
        targets = _array_on_disk(pixels.shape[:3], np.bool_)
        for row, picture in enumerate(reader.locate(rows)):
            pixels[row] = fit(read_picture(picture, ingest.max_pixels), square)
            targets[row] = square_mask(masks[rows["mask_id"][row]].array(), config.size_px)
            report(1)
        return SegmentationData(pixels, targets)

    return load(items.filter(~pl.col("is_val"))), load(items.filter("is_val"))


def _with_validation(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items, of which at least one product is validated on if there are two.

    Where each product has more than a tenth of the pictures, the inner validation is empty; the smallest is taken.
    """
    units = items.group_by(unit=product_unit()).len().sort("len", "unit")["unit"]
    if items["is_val"].any() or len(units) < 2:
        return items
    return items.with_columns(is_val=product_unit() == units[0])


def _array_on_disk(shape: tuple[int, ...], kind: type[np.uint8 | np.bool_]) -> npt.NDArray[Any]:
    """Return an array of zeros in a temporary file that is mapped and already unlinked."""
    if not shape[0]:
        return np.zeros(shape, kind)  # an empty file cannot be mapped
    with tempfile.TemporaryDirectory(prefix="vitrine-unet-") as folder:
        return np.asarray(np.lib.format.open_memmap(Path(folder) / "array.npy", "w+", kind, shape))
