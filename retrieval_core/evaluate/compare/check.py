"""Checks before anything is trained, of what would otherwise fail after hours of a comparison.

Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from torch import nn

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Ref, Value
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.preflight import check_backbone, check_weights
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, model_of
from retrieval_core.head.targets import build_targets
from retrieval_core.store.base import Store
from retrieval_core.train.captions import CaptionVectors, check_reads_text, number_captions, read_captions
from retrieval_core.train.config import AnyTraining, CaptionsTraining, DistillTraining
from retrieval_core.train.inputs import find_teacher, start_config, teacher_vectors
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.split import choose_items


class Unlearnable(Value):
    """What a catalogue cannot teach: the reasons by model, and the reason why no head can be trained, "" if one can."""

    models: dict[str, str] = {}
    head: str = ""


def check_comparison(store: Store, config: ComparisonConfig) -> None:
    """Check that the weights of all variants and trainings are available and fit their networks.

    The initial weights of a training are loaded. Raises `BadConfig`, `WeightsInvalid` or `WeightsUnavailable`.
    """
    for variant in config.variants:
        if not model_of(variant.weights):
            check_backbone(
                store,
                EmbedConfig(
                    backbone=variant.backbone,
                    weights=variant.weights,
                    size_px=variant.size_px,
                    framing=variant.framing,
                ),
            )
    published = [model for model in config.models.values() if not model_of(model.weights)]
    for start in dict.fromkeys(start_config(model) for model in published):
        check_weights(store, start)
    for model in published:
        if isinstance(model, CaptionsTraining):
            check_reads_text(store, model)


def find_unlearnable(store: Store, catalog: Ref, fields: Ref | None, config: ComparisonConfig) -> Unlearnable:
    """Return what of a comparison cannot be trained on a catalogue, whose items have these fields.

    Raises `BadConfig` for an unknown teacher.
    """
    items = load_items(store, catalog.name)
    reasons = {}
    for name, model in config.models.items():
        if name in config.teachers:
            continue  # its teacher are vectors of this very catalogue
        teacher = None
        if isinstance(model, DistillTraining):
            content_ids = choose_items(items, model)["content_id"].to_list()
            teacher = teacher_vectors(store, find_teacher(store, model.teacher), content_ids)
        captions = None
        if isinstance(model, CaptionsTraining):
            captions = read_captions(store, fields, model.text_fields).of(choose_items(items, model))
        reasons[name] = why_unlearnable(model, items, teacher, captions)
    tasks = build_targets(items.filter(items["status"] == "ok"), config.head.min_count).tasks
    return Unlearnable(
        models={name: reason for name, reason in reasons.items() if reason},
        head="" if tasks else "no label of the catalogue is frequent enough for a head to learn from",
    )


def why_unlearnable(
    config: AnyTraining, items: pl.DataFrame, teacher: Float32 | None = None, captions: pl.Series | None = None
) -> str:
    """Return in one sentence why `config` cannot learn from the rows of a catalogue; "" if it can.

    `teacher` is (n, d) float32, one row for each of `choose_items(items, config)`; only `distill` needs it. So are the
    (n,) `captions` of the objective `captions`, null for a row without one.
    """
    width = 8 if teacher is None else teacher.shape[1]
    read = None if captions is None else _stand_in_vectors(captions, width)
    # A stand-in for the network: an objective checks the items and the width of the embedding only.
    stand_in = ImageEmbedder(get_card(config.backbone), nn.Identity(), nn.Linear(1, width))
    try:
        build_objective(config, stand_in, TrainingData(choose_items(items, config), teacher, read))
    except BadConfig as error:
        return str(error)
    return ""


def _stand_in_vectors(captions: pl.Series, dim: int) -> CaptionVectors:
    """Return vectors of captions that no network has read: an objective checks which rows have one only."""
    texts, codes = number_captions(captions)
    return CaptionVectors(np.eye(len(texts), dim, dtype=np.float32), codes, 1.0)
