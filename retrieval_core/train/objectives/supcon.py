"""Supervised contrastive training: unlike triplets, it does not collapse into one point.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import SupconTraining
from retrieval_core.train.objectives.base import TrainingData, padded
from retrieval_core.train.objectives.metric import MetricObjective


class Supcon(MetricObjective):
    """The mean log-likelihood of each picture's alike ones among all others of a batch (Khosla et al., NeurIPS 2020).

    Computes L_out of the paper from cosines divided by a temperature, on a projection (linear, ReLU, linear) of the
    embedding that is dropped after training. Pictures that are neither alike nor unlike an anchor are left out of its
    denominator. As every pair counts relative to the others, moving all pictures into one point gains nothing.
    """

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: SupconTraining) -> None:
        super().__init__(embedder, data, config)
        if config.trained_layers == "projection" and embedder.projection is None:
            raise BadConfig("trained_layers is projection, but the embedder has none; set embedding_dim, or train all")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.head = nn.Sequential(
                nn.Linear(embedder.dim, embedder.dim), nn.ReLU(), nn.Linear(embedder.dim, config.projection_dim)
            )
        self._loss = SupConLoss(temperature=config.temperature)

    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        pairs = (*torch.where(alike), *torch.where(unlike))
        loss: Tensor = self._loss(self.head(padded(vectors, self.embedder.dim)), indices_tuple=pairs)
        return loss, {}
