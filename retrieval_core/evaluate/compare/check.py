"""Checks before anything is trained, of what would otherwise fail after hours of a comparison.

Importing this module imports torch.
"""

from __future__ import annotations

import polars as pl
from torch import nn

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import backbone_fingerprint, backbone_preprocess, load_backbone, parse_weights
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, model_of
from retrieval_core.store.base import Store
from retrieval_core.train.config import AnyTraining
from retrieval_core.train.inputs import start_config
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.split import choose_items


def check_weights(config: ComparisonConfig, store: Store) -> None:
    """Check that the weights of all variants and trainings are available and fit their networks.

    The initial weights of a training are loaded. Raises `BadConfig`, `WeightsInvalid` or `WeightsUnavailable`.
    """
    for variant in config.variants:
        if not model_of(variant.weights):
            _fingerprint(
                EmbedConfig(
                    backbone=variant.backbone,
                    weights=variant.weights,
                    size_px=variant.size_px,
                    framing=variant.framing,
                ),
                store,
            )
    starts = (start_config(model) for model in config.models.values() if not model_of(model.weights))
    for start in dict.fromkeys(starts):
        is_external = parse_weights(start.weights).kind in ("file", "pretrained")
        if Backbone.find(store, _fingerprint(start, store)) is None and is_external:
            load_backbone(start)


def _fingerprint(config: EmbedConfig, store: Store) -> str:
    """Return the fingerprint of a backbone after checking all of its config that needs no weights."""
    parse_weights(config.weights)
    named = backbone_names.named_backbone(store, config)
    if named:
        return named.fingerprint
    backbone_preprocess(config)
    return backbone_fingerprint(config)


def why_unlearnable(config: AnyTraining, items: pl.DataFrame, teacher: Float32 | None = None) -> str:
    """Return in one sentence why `config` cannot learn from the rows of a catalogue; "" if it can.

    `teacher` is (n, d) float32, one row for each of `choose_items(items, config)`; only `distill` needs it.
    """
    width = 8 if teacher is None else teacher.shape[1]
    # A stand-in for the network: an objective checks the items and the width of the embedding only.
    stand_in = ImageEmbedder(get_card(config.backbone), nn.Identity(), nn.Linear(1, width))
    try:
        build_objective(config, stand_in, TrainingData(choose_items(items, config), teacher))
    except BadConfig as error:
        return str(error)
    return ""
