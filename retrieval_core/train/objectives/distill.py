"""Distillation: match a teacher's vectors, the similarities between them, or both.

Importing this module imports torch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import normalize

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.train.config import DistillTraining
from retrieval_core.train.objectives.base import Objective, TrainingData

MIN_MATCHED = 0.5  # share of the pictures for which the teacher must have a vector
K = 5
VAL_BLOCK = 1024  # validation rows whose pairwise similarities are compared in one matrix


class Distill(Objective):
    """A student trained so that its vectors point in the directions of the teacher's.

    Pictures without a teacher's vector are ignored. `agreement@5` scores how often student and teacher find the same
    neighbours.
    """

    teacher: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: DistillTraining) -> None:
        super().__init__(embedder)
        teacher = data.teacher
        if teacher is None:
            raise BadConfig("distill needs a teacher: set teacher to the fingerprint of a vector set in this store")
        self._has_teacher = np.asarray(~np.isnan(teacher).any(axis=1), np.bool_)
        if self._has_teacher.sum() < MIN_MATCHED * len(teacher):
            raise BadConfig(
                f"the teacher {config.teacher} has a vector of {self._has_teacher.sum()} of {len(teacher)} pictures; "
                "name a vector set of this catalogue, or embed the catalogue with the teacher first"
            )
        if config.loss != "relational" and embedder.dim != teacher.shape[1]:
            raise BadConfig(
                f"the student has {embedder.dim} dimensions, the teacher {config.teacher} {teacher.shape[1]}; "
                "set embedding_dim to 0, or loss to relational"
            )
        self._config = config
        # Only on top of a frozen network: running statistics lag behind one that is being trained.
        if embedder.projection is not None and config.trained_layers == "projection":
            embedder.projection = StandardisedLinear(embedder.projection)
        # Not persistent, so that checkpoints stay small.
        self.register_buffer("teacher", torch.from_numpy(teacher), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[self._has_teacher[rows]]

    def finish(self) -> None:
        """Fold the standardisation of the features into the projection that is kept."""
        if isinstance(self.embedder.projection, StandardisedLinear):
            self.embedder.projection = self.embedder.projection.folded()

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        return self._distance(self.embedder(pixels), self.teacher[rows]), {}

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.embedder(pixels)

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return `val_loss`, computed in blocks of `VAL_BLOCK` rows, and `agreement@5` of all rows (`agreement`)."""
        teacher = self.teacher.cpu()[torch.from_numpy(rows)]
        n_blocks = math.ceil(len(rows) / VAL_BLOCK)
        blocks = zip(outputs.tensor_split(n_blocks), teacher.tensor_split(n_blocks), strict=True)
        val_loss = sum(float(self._distance(*block)) * len(block[0]) for block in blocks) / len(rows)
        # Vectors that are not finite have no neighbours; the loop then reports that the training diverged.
        agreed = agreement(outputs.numpy(), teacher.numpy(), K) if math.isfinite(val_loss) else 0.0
        return {"val_loss": val_loss, f"agreement@{K}": agreed}

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        # In half precision, rounding errors would be as large as the differences left to learn.
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = normalize(student.float()), normalize(teacher)
            match self._config.loss:
                case "cosine":
                    return cosine_loss(student, teacher)
                case "relational":
                    return relational_loss(student, teacher)
                case "both":
                    weight = self._config.relational_weight
                    return cosine_loss(student, teacher) + weight * relational_loss(student, teacher)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cosine, 0 to 2, over (b, d) rows of unit length."""
    return (1 - (student * teacher).sum(dim=1)).mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of cosine similarities, 0 to 4, over the pairs of a batch.

    `student` is (b, d) and `teacher` (b, e), of unit length; the loss is 0 when b is 1. It matches relations between
    pictures instead of vectors, as Park et al., Relational Knowledge Distillation, CVPR 2019, but with similarities in
    place of distances, as Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
    """
    difference = student @ student.T - teacher @ teacher.T
    n_pairs = len(student) * (len(student) - 1)
    return (difference - difference.diag().diag()).square().sum() / max(n_pairs, 1)


def agreement(student: Float32, teacher: Float32, k: int) -> float:
    """Return the share, 0 to 1, of each row's `k` nearest under (n, e) `teacher` that are so under (n, d) `student`.

    Nearest by cosine, averaged over rows. A row is not its own neighbour; n - 1 neighbours are compared if n is at most
    `k`, and a single row agrees.
    """
    k = min(k, len(student) - 1)
    if k < 1:
        return 1.0
    neighbours = [
        exact_topk(rows, rows, k, exclude=np.arange(len(rows)))[1] for rows in map(unit_length, (student, teacher))
    ]
    return float((neighbours[0][:, :, None] == neighbours[1][:, None, :]).any(axis=2).mean())


class StandardisedLinear(nn.Linear):
    """A linear layer that standardises its inputs to mean 0 and variance 1 while it is trained.

    The scale of a network's features is arbitrary, and most of each feature is common to all pictures, so that a
    learning rate that suits one network is too large for another. The layer is created without gradients; `folded`
    returns the equivalent plain layer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        with torch.random.fork_rng(devices=[]):  # these initial weights are overwritten
            super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict({"weight": layer.weight, "bias": _bias(layer)})
        self.norm = nn.BatchNorm1d(layer.in_features, affine=False)
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(self.norm(features), self.weight, self.bias)

    def folded(self) -> nn.Linear:
        """Return a plain layer that computes what this layer does in eval mode, up to rounding."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise TypeError("a norm without running statistics cannot be folded")
        weight = self.weight.double() / (variance.double() + self.norm.eps).sqrt()
        layer = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features)
        layer.load_state_dict({"weight": weight.float(), "bias": (self.bias.double() - weight @ mean.double()).float()})
        return layer


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
