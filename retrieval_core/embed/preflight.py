"""Checks before a run that its backbone and classifier can be loaded; neither is exported or stored."""

from __future__ import annotations

from retrieval_core.artifacts.backbone_names import named_backbone
from retrieval_core.artifacts.fingerprints import classifier_fingerprint
from retrieval_core.artifacts.manifests import Backbone, Classifier
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig
from retrieval_core.embed.backbones import (
    backbone_fingerprint,
    backbone_preprocess,
    int8_fingerprint,
    load_backbone,
    parse_weights,
)
from retrieval_core.embed.classes import backbone_config, load_classifier
from retrieval_core.store.base import Store


def check_backbone(store: Store, config: EmbedConfig) -> str:
    """Check everything about a backbone that can be checked without loading its weights; return its fingerprint.

    Raises `BadConfig` for unknown names and wrong sizes, `WeightsInvalid` for a weights file that is absent.
    """
    parse_weights(config.weights)
    named = named_backbone(store, config)
    if named:
        return named.fingerprint
    backbone_preprocess(config)
    return backbone_fingerprint(config)


def check_weights(store: Store, config: EmbedConfig) -> None:
    """Check a backbone, and load its weights if they come from a file or a hub and are not in the store yet.

    Raises what `check_backbone` and `load_backbone` raise.
    """
    fingerprint = check_backbone(store, config)
    is_published = parse_weights(config.weights).kind in ("file", "pretrained")
    known = [fingerprint, int8_fingerprint(fingerprint)] if config.precision == "int8" else [fingerprint]
    if is_published and not any(Backbone.find(store, name) for name in known):
        load_backbone(config)


def check_classifier(store: Store, config: ClassifyConfig) -> None:
    """Load the classifier that the config enables, unless the store has it. Raises what `load_classifier` raises."""
    backbone = backbone_config(config)
    if config.enabled and named_backbone(store, backbone) is None:
        fingerprint = classifier_fingerprint(backbone_fingerprint(backbone))
        if Classifier.find(store, fingerprint) is None:
            load_classifier(config)
