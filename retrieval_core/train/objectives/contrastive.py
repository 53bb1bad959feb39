"""Siamese training: pull alike pairs of pictures together, push unlike pairs apart.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import ContrastiveTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.metric import MetricObjective


class Contrastive(MetricObjective):
    """d for alike pairs and max(0, margin - d) for unlike pairs, where d is the Euclidean distance of unit vectors.

    Contrastive loss (Hadsell et al., CVPR 2006) as in pytorch-metric-learning: distances are not squared, and the loss
    is the sum of two means, each over the pairs with a loss above 0. Half of the pairs of a batch are alike. Unit
    length is what a search compares, and makes the margin, of at most 2, mean the same for every network.
    """

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: ContrastiveTraining) -> None:
        super().__init__(embedder, data, config)
        self._loss = ContrastiveLoss(neg_margin=config.margin, distance=LpDistance(normalize_embeddings=True))

    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        loss: Tensor = self._loss(vectors, indices_tuple=balanced_pairs(alike, unlike))
        return loss, {}


def balanced_pairs(alike: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return as many alike pairs (a, p) as unlike pairs (b, n) of two (b, b) symmetric bool matrices.

    Each of a, p, b, n is (m,) int64, and no pair appears twice. All pairs of the rarer kind are taken; those of the
    other kind are spread evenly over the batch, which is in random order.
    """
    alike_pairs, unlike_pairs = (torch.nonzero(pairs.triu(1)) for pairs in (alike, unlike))
    n_pairs = min(len(alike_pairs), len(unlike_pairs))
    (a, p), (b, n) = (_evenly(pairs, n_pairs).unbind(1) for pairs in (alike_pairs, unlike_pairs))
    return a, p, b, n


def _evenly(pairs: Tensor, n: int) -> Tensor:
    return pairs[torch.arange(n, device=pairs.device) * len(pairs) // max(n, 1)]
