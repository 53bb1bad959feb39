"""From a training config to the objective it names, checked against the items before any picture is read.

Importing this module imports torch.
"""

from __future__ import annotations

import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import (
    AnyTraining,
    ClassifyTraining,
    ContrastiveTraining,
    DistillTraining,
    MultilabelTraining,
    RotationTraining,
    SupconTraining,
    TripletTraining,
)
from retrieval_core.train.objectives.base import Objective


def build_objective(
    config: AnyTraining,
    embedder: ImageEmbedder,
    items: pl.DataFrame,
    teacher: Float32 | None = None,
) -> Objective:
    """The objective of `config` over the rows of `items` (product_id, category, labels, attributes, split).

    `teacher` is (n, d) float32, unit length, row by row those of `items`, for `distill` alone; NaN where the teacher
    has no vector. New layers start from `config.seed`. Raises `BadConfig` where the items cannot be learned from.
    """
    match config:
        case MultilabelTraining():
            from retrieval_core.train.objectives.multilabel import Multilabel

            return Multilabel(embedder, items, config)
        case RotationTraining():
            from retrieval_core.train.objectives.rotation import Rotation

            return Rotation(embedder, config)
        case ClassifyTraining():
            from retrieval_core.train.objectives.classify import Classify

            return Classify(embedder, items, config)
        case TripletTraining():
            from retrieval_core.train.objectives.triplet import Triplet

            return Triplet(embedder, items, config)
        case ContrastiveTraining():
            from retrieval_core.train.objectives.contrastive import Contrastive

            return Contrastive(embedder, items, config)
        case SupconTraining():
            from retrieval_core.train.objectives.supcon import Supcon

            return Supcon(embedder, items, config)
        case DistillTraining():
            from retrieval_core.train.objectives.distill import Distill

            if teacher is None:
                raise BadConfig("distill wants a teacher: the fingerprint of a vector set in this store")
            return Distill(embedder, items, config, teacher)
