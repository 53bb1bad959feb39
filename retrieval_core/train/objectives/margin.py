"""Margin softmax: tell the products, or the categories, apart by the angle to one learned vector each.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, ProxyAnchorLoss
from torch import Tensor, nn

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import MarginTraining
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.metric import nearest
from retrieval_core.train.objectives.relations import SameClass, relate


class Margin(Objective):
    """ArcFace (Deng et al., CVPR 2019), CosFace (Wang et al., CVPR 2018) or Proxy-Anchor (Kim et al., CVPR 2020).

    All compare vectors of unit length, as a search does. The watched score, val_relevance@5, is the mean relevance
    (`Relation.relevance`) of the five validation pictures nearest to each one; validated products were not learned.
    """

    watched: ClassVar[str] = "val_relevance@5"
    better: ClassVar[Literal["min", "max"]] = "max"
    classes_of_rows: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: MarginTraining) -> None:
        super().__init__(embedder)
        relation = relate(data, config)
        if not isinstance(relation, SameClass):
            raise BadConfig(
                "margin tells products or categories apart, and the catalogue has neither; train attributes"
            )
        self._relation, self.slices, self._seed = relation, config.slices, config.seed
        codes = relation.codes
        classes = np.unique(codes[data.is_trainable & (codes >= 0)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            dims = (embedder.dim, *config.slices)
            self.losses = nn.ModuleDict({str(dim): _build_loss(config, len(classes), dim) for dim in dims})
        self.register_buffer("classes_of_rows", torch.from_numpy(np.searchsorted(classes, codes)), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return self._relation.partnered(rows)

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        vectors, classes = self.embedder(pixels), self.classes_of_rows[rows]
        # Half precision would round away the angles between near neighbours.
        with torch.autocast(vectors.device.type, enabled=False):
            return self.on_slices(vectors.float(), lambda part: self.losses[str(part.shape[1])](part, classes)), {}

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.embedder(pixels)
        return vectors

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        return {self.watched: float(self._relation.relevance(rows, nearest(outputs, self._seed)).mean())}


def _build_loss(config: MarginTraining, n_classes: int, dim: int) -> ArcFaceLoss | CosFaceLoss | ProxyAnchorLoss:
    match config.loss:
        case "arcface":
            return ArcFaceLoss(n_classes, dim, margin=math.degrees(config.margin), scale=config.scale)
        case "cosface":
            return CosFaceLoss(n_classes, dim, margin=config.margin, scale=config.scale)
        case "proxy_anchor":
            return ProxyAnchorLoss(n_classes, dim, margin=config.margin, alpha=config.scale)
