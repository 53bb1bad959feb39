"""Seal a frozen backbone or classifier as an artifact, once."""

from __future__ import annotations

import logging
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
    load_backbone,
    parse_weights,
    save_backbone,
)
from retrieval_core.embed.classes import backbone_config, load_classifier, save_classifier
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.images import RGB, fit
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

PIXEL_SAMPLE_ROWS = 2_000


def export_backbone(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> Backbone:
    """Return the frozen backbone as an artifact: the one of the store that the config names, else a published one.

    A backbone that is fitted on pixels is fitted on a random sample of the catalogue's pictures.
    """
    named = named_backbone(store, config)
    if named:
        return named
    name = backbone_fingerprint(config)
    existing = Backbone.find(store, name)
    if existing:
        return existing
    log.info("exporting %s with weights %s", config.backbone, config.weights)
    loaded = load_backbone(config, lambda: _pixel_sample(store, catalog, config, ingest))
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


def _pixel_sample(store: Store, catalog: Ref, config: EmbedConfig, ingest: IngestConfig) -> RGB:
    pictures = usable_pictures(store, catalog).sort("item_id")
    seed = int(parse_weights(config.weights).value or 0)
    sample = pictures.sample(min(len(pictures), PIXEL_SAMPLE_ROWS), seed=seed, shuffle=False)
    preprocess = backbone_preprocess(config)
    located = PictureReader(store).locate(sample)
    pixels = [fit(read_picture(picture, ingest.max_pixels), preprocess) for picture in located]
    return np.stack(pixels)


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
