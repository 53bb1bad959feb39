"""Siamese training: pairs alike are pulled together, pairs unlike pushed apart.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import polars as pl
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import ContrastiveTraining
from retrieval_core.train.objectives.metric import MetricObjective


class Contrastive(MetricObjective):
    """d for pairs alike and max(0, margin - d) for pairs unlike, d the Euclidean distance of unit-length vectors.

    Contrastive loss (Hadsell et al., CVPR 2006) as pytorch-metric-learning has it: distances not squared, the two means
    over pairs that are not yet where they shall be, added. Half of a batch's pairs are alike. Unit length, as a search
    compares them: the margin, of at most 2, then means the same for every network.
    """

    def __init__(self, embedder: ImageEmbedder, items: pl.DataFrame, config: ContrastiveTraining) -> None:
        super().__init__(embedder, items, config)
        self._loss = ContrastiveLoss(neg_margin=config.margin, distance=LpDistance(normalize_embeddings=True))

    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        first, positive, second, negative = half_alike(alike, unlike)
        loss: Tensor = self._loss(vectors, indices_tuple=(first, positive, second, negative))
        return loss, {}


def half_alike(alike: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As many pairs alike (a, p) as unlike (a, n), each (m,) int64, no pair twice, of (b, b) symmetric bool matrices.

    All of the rarer kind; of the other evenly over the batch, which is in random order.
    """
    together, apart = (torch.nonzero(pairs.triu(1)) for pairs in (alike, unlike))
    n_pairs = min(len(together), len(apart))
    (a, p), (b, n) = (_evenly(pairs, n_pairs).unbind(1) for pairs in (together, apart))
    return a, p, b, n


def _evenly(pairs: Tensor, n: int) -> Tensor:
    return pairs[torch.arange(n, device=pairs.device) * len(pairs) // max(n, 1)]
