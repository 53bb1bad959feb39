"""Triplets: a picture shall be nearer to one alike than to one unlike it, by a margin that may grow.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import Miner, TripletTraining
from retrieval_core.train.objectives.metric import Distances, MetricObjective

MAX_TRIPLETS = 2**24  # looked at together: some 100 MB
COLLAPSED_GAP = 0.05


class Mined(NamedTuple):
    """Anchors, positives and negatives, (t,) int64 places in the batch, and the share of its triplets that violate.

    The share is None where the batch has no triplet at all.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    active_share: float | None


class Triplet(MetricObjective):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), Euclidean, on vectors that are not of unit length.

    FaceNet's loss (Schroff et al., CVPR 2015) without its sphere and its square: the mean over the mined triplets that
    violate the margin. Scaling all vectors changes it in proportion to their mean d(a, p) - d(a, n). That of `hard`
    triplets is never negative: they draw everything into one point, where the loss is the margin, unless there is soon
    none left; and since they violate any margin, its size or growth changes nothing of their gradient. The larger the
    margin, the more of the triplets that push apart are among `all`.

    Figures of an epoch: margin, and active_share, the mean share of a batch's triplets that violate it.
    """

    def __init__(self, embedder: ImageEmbedder, items: pl.DataFrame, config: TripletTraining) -> None:
        super().__init__(embedder, items, config)
        self._config = config
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Set the margin: it grows by the same step each epoch, and is whole after `growth_epochs`."""
        whole = self._config.margin
        start = self._config.margin_start or whole
        self.margin = start + (whole - start) * min(epoch / self._config.growth_epochs, 1.0)

    def has_collapsed(self, distances: Distances) -> bool:
        """As for any objective, or as the margin sees it: unlike pictures nearer than it, and hardly beyond alike ones.

        Hardly is by less than 0.05 of the margin. So does a network begin whose vectors are short, and leave it again.
        """
        unsolved = distances.unlike - distances.alike < COLLAPSED_GAP * self.margin
        return super().has_collapsed(distances) or (unsolved and distances.unlike < self.margin)

    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        distance = LpDistance(normalize_embeddings=False)
        mined = mine(distance(vectors.detach()), alike, unlike, self.margin, self._config.miner)
        loss: Tensor = TripletMarginLoss(self.margin, distance=distance)(vectors, indices_tuple=mined[:3])
        figures = {"margin": self.margin}
        return loss, figures if mined.active_share is None else {**figures, "active_share": mined.active_share}


def mine(distances: Tensor, alike: Tensor, unlike: Tensor, margin: float, miner: Miner) -> Mined:
    """The triplets to learn from among those of (b, b) `distances`, by (b, b) bool `alike` and `unlike`.

    All that violate the margin, or of these those whose negative is farther than the positive (`semihard`) or no
    farther (`hard`): pytorch-metric-learning's TripletMarginMiner, which knows classes alone, for any relation.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    n_triplets = n_violating = 0
    step = max(1, MAX_TRIPLETS // len(distances) ** 2)
    for anchors in torch.arange(len(distances), device=distances.device).split(step):
        gap = distances[anchors][:, None, :] - distances[anchors][:, :, None]
        triplets = alike[anchors][:, :, None] & unlike[anchors][:, None, :]
        violating = triplets & (gap <= margin)
        n_triplets += int(triplets.sum())
        n_violating += int(violating.sum())
        anchor, positive, negative = torch.where(_chosen(violating, gap, miner))
        found.append((anchors[anchor], positive, negative))
    anchors, positives, negatives = (torch.cat(part) for part in zip(*found, strict=True))
    return Mined(anchors, positives, negatives, n_violating / n_triplets if n_triplets else None)


def _chosen(violating: Tensor, gap: Tensor, miner: Miner) -> Tensor:
    if miner == "all":
        return violating
    return violating & (gap > 0 if miner == "semihard" else gap <= 0)
