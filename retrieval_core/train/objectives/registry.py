"""The table of objectives: which class trains for which config.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import (
    AnyTraining,
    AttributesTraining,
    CaptionsTraining,
    ClassifyTraining,
    ContrastiveTraining,
    DistillTraining,
    MarginTraining,
    MultilabelTraining,
    RotationTraining,
    SupconTraining,
    TripletTraining,
)
from retrieval_core.train.objectives.attributes import Attributes
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.captions import Captions
from retrieval_core.train.objectives.classify import Classify
from retrieval_core.train.objectives.contrastive import Contrastive
from retrieval_core.train.objectives.distill import Distill
from retrieval_core.train.objectives.margin import Margin
from retrieval_core.train.objectives.multilabel import Multilabel
from retrieval_core.train.objectives.rotation import Rotation
from retrieval_core.train.objectives.supcon import Supcon
from retrieval_core.train.objectives.triplet import Triplet

OBJECTIVES: dict[type[AnyTraining], Callable[[ImageEmbedder, TrainingData, Any], Objective]] = {
    MultilabelTraining: Multilabel,
    RotationTraining: Rotation,
    ClassifyTraining: Classify,
    AttributesTraining: Attributes,
    MarginTraining: Margin,
    TripletTraining: Triplet,
    ContrastiveTraining: Contrastive,
    SupconTraining: Supcon,
    CaptionsTraining: Captions,
    DistillTraining: Distill,
}


def build_objective(config: AnyTraining, embedder: ImageEmbedder, data: TrainingData) -> Objective:
    """Return the objective of `config`, its new layers initialised from `config.seed`.

    Raises `BadConfig` when it cannot learn from `data`.
    """
    return OBJECTIVES[type(config)](embedder, data, config)
