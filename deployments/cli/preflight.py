"""Checks before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval_core.settings import Settings
    from retrieval_core.store.base import Store


def check_before_run(config: Any, settings: Settings) -> None:
    """Find what would fail late before anything is read: a store that refuses writes, a cluster that is not there,
    weights that cannot be had.

    Raises `BadConfig`, `StoreNotWritable`, `WeightsInvalid`, `WeightsUnavailable`.
    """
    from flows.shards import check_runner
    from retrieval_core.artifacts.backbone_names import named_backbone
    from retrieval_core.artifacts.fingerprints import (
        classifier_fingerprint,
        detector_fingerprint,
    )
    from retrieval_core.artifacts.manifests import Backbone, Classifier, Detector
    from retrieval_core.embed.backbones import backbone_fingerprint, backbone_preprocess, load_backbone, parse_weights
    from retrieval_core.embed.classes import backbone_config, load_classifier
    from retrieval_core.mask.detect import load_detector

    weights = parse_weights(config.embed.weights)
    store = settings.open_store()
    if named_backbone(store, config.embed) is None:
        backbone_preprocess(config.embed)
    probe(store)
    check_runner(settings)
    if weights.kind in ("file", "pretrained") and Backbone.find(store, backbone_fingerprint(config.embed)) is None:
        load_backbone(config.embed)
    if config.detects and Detector.find(store, detector_fingerprint(config.crop)) is None:
        load_detector(config.crop)
    classifier = backbone_config(config.classify)
    if config.classify.enabled and named_backbone(store, classifier) is None:
        name = classifier_fingerprint(backbone_fingerprint(classifier))
        if Classifier.find(store, name) is None:
            load_classifier(config.classify)


def probe(store: Store) -> None:
    """Raises `StoreNotWritable`."""
    store.put("runs/_probe", b"")
    store.delete("runs/_probe")
