"""Triplet training: each picture closer to an alike one than to an unlike one, by a margin that may grow.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor
from torch.nn.functional import normalize

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import Miner, TripletTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.metric import Distances, MetricObjective

MAX_TRIPLETS = 2**24  # examined in one block: about 100 MB
COLLAPSED_GAP = 0.05


class Mined(NamedTuple):
    """Mined triplets, each of the three (t,) int64 positions in the batch.

    `active_share` is the share of all triplets of the batch that violate the margin; None if it has no triplet.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    active_share: float | None


class Triplet(MetricObjective):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), Euclidean, on vectors of any or of unit length.

    FaceNet's loss (Schroff et al., CVPR 2015) without its unit sphere and its squares: the mean over the mined triplets
    that violate the margin. Scaling all vectors changes it in proportion to their mean d(a, p) - d(a, n). For `hard`
    triplets this mean is never negative: they pull all vectors into one point, where the loss equals the margin, unless
    training soon leaves no hard triplet. As they violate any margin, its size and growth do not change their gradient.
    With miner `all`, a larger margin adds triplets that push apart.

    Figures of an epoch: margin, and active_share, the mean share of a batch's triplets that violate it.
    """

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: TripletTraining) -> None:
        super().__init__(embedder, data, config)
        self._config = config
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Set the margin, which grows linearly and reaches its final value after `growth_epochs` epochs."""
        final = self._config.margin
        start = self._config.margin_start or final
        self.margin = start + (final - start) * min(epoch / self._config.growth_epochs, 1.0)

    def has_collapsed(self, distances: Distances) -> bool:
        """Return whether the spread is below 0.01, or unlike pictures are too close for the margin.

        Too close means nearer than the margin, and farther than alike pictures by less than 0.05 margins. A network
        whose vectors are short may start like this and recover.
        """
        unsolved = distances.unlike - distances.alike < COLLAPSED_GAP * self.margin
        return super().has_collapsed(distances) or (unsolved and distances.unlike < self.margin)

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors = super().outputs(pixels)
        return normalize(vectors) if self._config.unit_length else vectors

    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        distance = LpDistance(normalize_embeddings=self._config.unit_length)
        mined = mine(distance(vectors.detach()), alike, unlike, self.margin, self._config.miner)
        loss: Tensor = TripletMarginLoss(self.margin, distance=distance)(vectors, indices_tuple=mined[:3])
        figures = {"margin": self.margin}
        return loss, figures if mined.active_share is None else {**figures, "active_share": mined.active_share}


def mine(distances: Tensor, alike: Tensor, unlike: Tensor, margin: float, miner: Miner) -> Mined:
    """Return the triplets to learn from, given (b, b) float `distances` and (b, b) bool `alike` and `unlike`.

    Miner `all` takes every triplet that violates the margin; of these, `semihard` takes those whose negative is farther
    than the positive, and `hard` the others. The same as pytorch-metric-learning's TripletMarginMiner, which only
    supports classes, for any relation.
    """
    blocks: list[tuple[Tensor, Tensor, Tensor]] = []
    n_triplets = n_violating = 0
    step = max(1, MAX_TRIPLETS // len(distances) ** 2)
    for anchors in torch.arange(len(distances), device=distances.device).split(step):
        gap = distances[anchors][:, None, :] - distances[anchors][:, :, None]
        triplets = alike[anchors][:, :, None] & unlike[anchors][:, None, :]
        violating = triplets & (gap <= margin)
        n_triplets += int(triplets.sum())
        n_violating += int(violating.sum())
        anchor, positive, negative = torch.where(_chosen(violating, gap, miner))
        blocks.append((anchors[anchor], positive, negative))
    anchors, positives, negatives = (torch.cat(block) for block in zip(*blocks, strict=True))
    return Mined(anchors, positives, negatives, n_violating / n_triplets if n_triplets else None)


def _chosen(violating: Tensor, gap: Tensor, miner: Miner) -> Tensor:
    if miner == "all":
        return violating
    return violating & (gap > 0 if miner == "semihard" else gap <= 0)
