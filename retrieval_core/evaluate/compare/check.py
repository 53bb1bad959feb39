"""What would fail after hours of a comparison, found before anything is trained.

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
    """Raises where weights that a variant or a training starts from cannot be had, or are not of its network.

    `BadConfig`, `WeightsInvalid`, `WeightsUnavailable`. The weights that a training starts from are loaded to see.
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
        published = parse_weights(start.weights).kind in ("file", "pretrained")
        if Backbone.find(store, _fingerprint(start, store)) is None and published:
            load_backbone(start)


def _fingerprint(config: EmbedConfig, store: Store) -> str:
    """The backbone's, after a look at everything about it that needs no weights."""
    parse_weights(config.weights)
    named = backbone_names.named_backbone(store, config)
    if named:
        return named.fingerprint
    backbone_preprocess(config)
    return backbone_fingerprint(config)


def why_unlearnable(config: AnyTraining, items: pl.DataFrame, teacher: Float32 | None = None) -> str:
    """Why the rows of a catalogue cannot be learned from as `config` says, in one sentence; "" where they can.

    `teacher` is (n, d) float32, row by row those of `choose_items(items, config)`, for `distill` alone.
    """
    width = 8 if teacher is None else teacher.shape[1]
    # A stand-in for the network: an objective looks at the items and at the embedding's width only.
    stand_in = ImageEmbedder(get_card(config.backbone), nn.Identity(), nn.Linear(1, width))
    try:
        build_objective(config, stand_in, TrainingData(choose_items(items, config), teacher))
    except BadConfig as error:
        return str(error)
    return ""
