"""Seal a frozen backbone or classifier as an artifact, once."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np

from retrieval_core.artifacts.backbone_names import frozen_backbones, named_backbone
from retrieval_core.artifacts.fingerprints import classifier_fingerprint
from retrieval_core.artifacts.manifests import Backbone, Classifier, Ref
from retrieval_core.artifacts.parts import put_part_files
from retrieval_core.artifacts.pictures import PictureReader, read_picture, usable_pictures
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig, IngestConfig
from retrieval_core.embed.backbones import (
    backbone_fingerprint,
    backbone_preprocess,
    describe,
    int8_fingerprint,
    load_backbone,
    parse_weights,
    save_backbone,
)
from retrieval_core.embed.classes import backbone_config, load_classifier, save_classifier
from retrieval_core.embed.int8 import calibrate
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.images import RGB, Preprocess, fit
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

PIXEL_SAMPLE_ROWS = 2_000
CALIBRATION_ROWS = 200


def export_backbone(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> Backbone:
    """Return the frozen backbone as an artifact: the one of the store that the config names, else a published one.

    A backbone that is fitted on pixels, or calibrated for int8, is so on a random sample of the catalogue's pictures.
    Later nights take it as it is, although the catalogue has changed.
    """
    named = named_backbone(store, config)
    name = named.fingerprint if named else backbone_fingerprint(config)
    if config.precision != "int8":
        return named or Backbone.find(store, name) or _export(store, catalog, config, ingest, name)
    if named and named.config.get("precision") == "int8":
        return named
    int8_name = int8_fingerprint(name)
    existing = Backbone.find(store, int8_name)
    if existing:
        return existing
    exact = named or Backbone.find(store, name) or _export(store, catalog, config, ingest, name)
    return _calibrated(store, catalog, exact, ingest, int8_name)


def _export(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig, name: str) -> Backbone:
    """Load the frozen backbone that the config names and seal it as `name`."""
    log.info("exporting %s with weights %s", config.backbone, config.weights)
    loaded = load_backbone(config, lambda: _fit_sample(store, catalog, config, ingest))
    published = {"sha256": loaded.weights_sha256, "revision": loaded.revision} if loaded.weights_sha256 else {}
    if published and not config.sha256:
        _check_unchanged(store, config.backbone, loaded.weights_sha256)
    return Backbone(
        fingerprint=name,
        config={"weights": config.weights, **published},
        parts=put_part_files(store, f"{Backbone.folder}/{name}", lambda folder: save_backbone(loaded, folder)),
        card=config.backbone,
        dim=loaded.module.dim,
        size_px=loaded.preprocess.size_px,
        has_text=loaded.has_text,
    ).seal(store)


def _calibrated(store: Store, catalog: Ref, exact: Backbone, ingest: IngestConfig, name: str) -> Backbone:
    """Seal a copy of a backbone that was calibrated for int8 as `name`."""

    def save(folder: Path) -> None:
        shutil.copytree(exact.local_folder(store), folder, dirs_exist_ok=True)
        pixels = _pixel_sample(store, catalog, describe(folder).preprocess, ingest, CALIBRATION_ROWS, seed=0)
        log.info("int8 is at a cosine of %.4f from float32 on %d pictures", calibrate(folder, pixels), len(pixels))

    log.info("calibrating %s %s for int8", exact.card, exact.fingerprint[:12])
    update = {
        "fingerprint": name,
        "config": {**exact.config, "precision": "int8"},
        "parents": {**exact.parents, "exact": exact.fingerprint},
        "parts": put_part_files(store, f"{Backbone.folder}/{name}", save),
    }
    return exact.model_copy(update=update).seal(store)


def export_classifier(store: Store, config: ClassifyConfig) -> Classifier:
    """Return the frozen classifier as an artifact: a published one, or that of a backbone trained to classify.

    Raises `BadConfig` for a backbone that was not trained to classify raw pictures.
    """
    backbone = backbone_config(config)
    trained = named_backbone(store, backbone)
    name = classifier_fingerprint(trained.fingerprint if trained else backbone_fingerprint(backbone))
    existing = Classifier.find(store, name)
    if existing:
        return existing
    log.info("exporting the classifier of %s with weights %s", config.backbone, config.weights)
    loaded = load_classifier(config, _trained_classifier(store, trained) if trained else None)
    return Classifier(
        fingerprint=name,
        config={"weights": config.weights},
        parents={"backbone": trained.fingerprint} if trained else {},
        parts=put_part_files(store, f"{Classifier.folder}/{name}", lambda folder: save_classifier(loaded, folder)),
        card=config.backbone,
        size_px=loaded.backbone.preprocess.size_px,
        n_classes=len(loaded.names),
    ).seal(store)


def _check_unchanged(store: Store, card: str, sha256: str) -> None:
    """Raise `WeightsInvalid` where the store has pretrained weights of this card that were read from another file."""
    for backbone in frozen_backbones(store, card):
        earlier = backbone.config.get("sha256", sha256)
        if backbone.config.get("weights") == "pretrained" and earlier != sha256:
            raise WeightsInvalid(
                f"the published weights of {card} have changed: their sha256 is {sha256}, but backbone "
                f"{backbone.fingerprint[:12]} of this store has those of {earlier}; take the new ones by "
                f"--set embed.sha256={sha256}, or give the earlier file as --set embed.weights=file:PATH"
            )


def _fit_sample(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> RGB:
    seed = int(parse_weights(config.weights).value or 0)
    return _pixel_sample(store, catalog, backbone_preprocess(config), ingest, PIXEL_SAMPLE_ROWS, seed)


def _pixel_sample(
    store: Store, catalog: Ref, preprocess: Preprocess, ingest: IngestConfig, n_rows: int, seed: int
) -> RGB:
    pictures = usable_pictures(store, catalog).sort("item_id")
    sample = pictures.sample(min(len(pictures), n_rows), seed=seed, shuffle=False)
    located = PictureReader(store).locate(sample)
    return np.stack([fit(read_picture(picture, ingest.max_pixels), preprocess) for picture in located])


def _trained_classifier(store: Store, trained: Backbone) -> Path:
    """A local folder with the parts of a backbone that was trained to classify raw pictures."""
    expected = "give classify.weights a backbone trained to classify raw pictures"
    if trained.objective != "classify":
        raise BadConfig(
            f"backbone {trained.fingerprint[:12]} was trained for {trained.objective or 'nothing'}; {expected}"
        )
    if "masks" in trained.parents:
        raise BadConfig(f"backbone {trained.fingerprint[:12]} was trained on pictures without background; {expected}")
    return trained.local_folder(store)
