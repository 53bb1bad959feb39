"""Toward a teacher's vectors: each vector of the student, the similarities between them, or both.

Importing this module imports torch.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
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
from retrieval_core.train.objectives.base import Objective

MIN_MATCHED = 0.5
K = 5
VAL_BLOCK = 1024  # rows whose similarities are compared at once


class Distill(Objective):
    """A student whose vectors are to point where the teacher's do; `agreement@5` says how often both find the same.

    The teacher's vectors are (n, d) float32 of unit length, row by row those of the items, NaN where there is none.
    """

    teacher: Tensor

    def __init__(
        self,
        embedder: ImageEmbedder,
        items: pl.DataFrame,
        config: DistillTraining,
        teacher: Float32,
    ) -> None:
        super().__init__(embedder)
        self._known = np.asarray(~np.isnan(teacher).any(axis=1), np.bool_)
        if self._known.sum() < MIN_MATCHED * len(items):
            raise BadConfig(
                f"the teacher {config.teacher} has a vector of {self._known.sum()} of {len(items)} pictures; "
                "name a vector set of this catalogue, or embed the catalogue with the teacher first"
            )
        if config.loss != "relational" and embedder.dim != teacher.shape[1]:
            raise BadConfig(
                f"the student has {embedder.dim} dimensions, the teacher {config.teacher} {teacher.shape[1]}; "
                "set embedding_dim to 0, or loss to relational"
            )
        self._config = config
        # Only over a network that stands still: running statistics lag behind one that learns.
        if embedder.projection is not None and config.trained_layers == "projection":
            embedder.projection = StandardisedLinear(embedder.projection)
        # Not a part of the weights: checkpoints stay small.
        self.register_buffer("teacher", torch.from_numpy(teacher), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[self._known[rows]]

    def finish(self) -> None:
        """Fold the standardisation of the features into the projection that stays."""
        if isinstance(self.embedder.projection, StandardisedLinear):
            self.embedder.projection = self.embedder.projection.folded()

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        return self._distance(self.embedder(pixels), self.teacher[rows]), {}

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.embedder(pixels)

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """`val_loss`, the mean over blocks of rows, and `agreement@5`.

        That is the share of each picture's five nearest validation pictures under the teacher that are among its five
        nearest under the student, averaged over pictures.
        """
        truth = self.teacher.cpu()[torch.from_numpy(rows)]
        n_blocks = math.ceil(len(rows) / VAL_BLOCK)
        blocks = zip(outputs.tensor_split(n_blocks), truth.tensor_split(n_blocks), strict=True)
        val_loss = sum(float(self._distance(ours, theirs)) * len(ours) for ours, theirs in blocks) / len(rows)
        # Vectors that are not finite have no neighbours; the loop says that the training diverged.
        agreed = agreement(outputs.numpy(), truth.numpy(), K) if math.isfinite(val_loss) else 0.0
        return {"val_loss": val_loss, f"agreement@{K}": agreed}

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Similarities of half precision would be as coarse as what is left to learn.
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
    """Mean of 1 - cosine, 0 to 2, over (b, d) rows of unit length."""
    return (1 - (student * teacher).sum(dim=1)).mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of cosine similarities, 0 to 4, over the pairs of a batch.

    `student` is (b, d) and `teacher` (b, e), of unit length; 0 where b is 1. Relations between pictures instead of
    pictures: Park et al., Relational Knowledge Distillation, CVPR 2019, with similarities for their distances, as
    Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
    """
    difference = student @ student.T - teacher @ teacher.T
    n_pairs = len(student) * (len(student) - 1)
    return (difference - difference.diag().diag()).square().sum() / max(n_pairs, 1)


def agreement(student: Float32, teacher: Float32, k: int) -> float:
    """Share of the `k` nearest rows by cosine under (n, e) `teacher` that are so under (n, d) `student`: 0 to 1.

    A row is not its own neighbour; with n of at most `k` there are n - 1 neighbours, and a single row agrees.
    """
    k = min(k, len(student) - 1)
    if k < 1:
        return 1.0
    own = np.arange(len(student))
    ours, theirs = (exact_topk(rows, rows, k, exclude=own)[1] for rows in (unit_length(student), unit_length(teacher)))
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean())


class StandardisedLinear(nn.Linear):
    """A linear layer whose inputs are brought to mean 0 and variance 1 while it is trained.

    The features of a network are of any scale, and most of each is what all pictures have in common; a step that suits
    one network overshoots in another. `folded` is the same map as a plain layer. Who trains it asks for gradients.
    """

    def __init__(self, layer: nn.Linear) -> None:
        with torch.random.fork_rng(devices=[]):  # what is drawn here is written over
            super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict({"weight": layer.weight, "bias": _bias(layer)})
        self.norm = nn.BatchNorm1d(layer.in_features, affine=False)
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(self.norm(features), self.weight, self.bias)

    def folded(self) -> nn.Linear:
        """(n, in_features) to what this layer makes of them in eval mode, up to rounding."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise TypeError("a norm without running statistics cannot be folded")
        weight = self.weight.double() / (variance.double() + self.norm.eps).sqrt()
        layer = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features)
        layer.load_state_dict({"weight": weight.float(), "bias": (self.bias.double() - weight @ mean.double()).float()})
        return layer


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
