"""Margin softmax: tell the products, or the categories, apart by the angle to one learned vector each.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, ProxyAnchorLoss
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import MarginTraining
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.metric import nearest
from retrieval_core.train.objectives.relations import SameClass, relate

Loss: TypeAlias = ArcFaceLoss | CosFaceLoss | ProxyAnchorLoss
SAMPLE_STREAM = 1  # sets the random numbers of the samples apart from those of the batches


class Margin(Objective):
    """ArcFace (Deng et al., CVPR 2019), CosFace (Wang et al., CVPR 2018) or Proxy-Anchor (Kim et al., CVPR 2020).

    All compare vectors of unit length, as a search does, with one learned centre for each class. With more classes than
    `sampled_classes`, a step compares with the classes of its batch and a random sample of the others (Partial FC, An
    et al., CVPR 2022), and only their centres have a gradient. `centres` are (n_classes, n_dims) for the whole vectors
    and for each slice, by the number of dimensions.

    The watched score, val_relevance@5, is the mean relevance (`Relation.relevance`) of the five validation pictures
    nearest to each one; validated products were not learned.
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
        self._n_classes, self._n_sampled = len(classes), config.sampled_classes or len(classes)
        self._losses = {dim: _build_loss(config, dim) for dim in (embedder.dim, *config.slices)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.centres = nn.ParameterDict(
                {str(dim): _draw_centres(loss, len(classes), dim) for dim, loss in self._losses.items()}
            )
        self.register_buffer("classes_of_rows", torch.from_numpy(np.searchsorted(classes, codes)), persistent=False)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        self._rng = np.random.default_rng((self._seed, epoch, SAMPLE_STREAM))

    def learnable(self, rows: Int64) -> Int64:
        return self._relation.partnered(rows)

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        vectors, classes = self.embedder(pixels), self.classes_of_rows[rows]
        sampled = self._sample(classes) if self._n_sampled < self._n_classes else None
        numbers = classes if sampled is None else torch.searchsorted(sampled, classes)

        def compare(part: Tensor) -> Tensor:
            centres: Tensor = self.centres[str(part.shape[1])]
            if sampled is not None:
                centres = embedding(sampled, centres, sparse=True)
            return _compare(self._losses[part.shape[1]], centres, part, numbers)

        # Half precision would round away the angles between near neighbours.
        with torch.autocast(vectors.device.type, enabled=False):
            return self.on_slices(vectors.float(), compare), {}

    def _sample(self, classes: Tensor) -> Tensor:
        own = np.unique(classes.cpu().numpy())
        return torch.from_numpy(sample_with(own, self._n_sampled, self._n_classes, self._rng)).to(classes.device)

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.embedder(pixels)
        return vectors

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        return {self.watched: float(self._relation.relevance(rows, nearest(outputs, self._seed)).mean())}


def sample_with(own: Int64, n_sampled: int, n_classes: int, rng: np.random.Generator) -> Int64:
    """Return `own`, ascending numbers below `n_classes`, and random others up to `n_sampled` in all, ascending.

    Every other number is equally likely. If `own` are more than `n_sampled`, they are the sample.
    """
    n_others = max(n_sampled - len(own), 0)
    others = rng.choice(n_classes - len(own), n_others, replace=False, shuffle=False)
    others += np.searchsorted(own - np.arange(len(own)), others, side="right")  # pass over `own`
    return np.sort(np.concatenate([own, others]))


def _build_loss(config: MarginTraining, dim: int) -> Loss:
    """Return a loss to call with centres by `_compare`; its own is a single one that is never used."""
    match config.loss:
        case "arcface":
            return ArcFaceLoss(1, dim, margin=math.degrees(config.margin), scale=config.scale)
        case "cosface":
            return CosFaceLoss(1, dim, margin=config.margin, scale=config.scale)
        case "proxy_anchor":
            return ProxyAnchorLoss(1, dim, margin=config.margin, alpha=config.scale)


def _draw_centres(loss: Loss, n_classes: int, dim: int) -> nn.Parameter:
    centres = nn.Parameter(torch.empty(n_classes, dim))
    loss.weight_init_func(centres)
    return centres


def _compare(loss: Loss, centres: Tensor, vectors: Tensor, numbers: Tensor) -> Tensor:
    """Return the loss of (b, dim) vectors of classes with these (b,) numbers among the (n, dim) centres."""
    loss.num_classes = len(centres)
    weights = {"proxies": centres} if isinstance(loss, ProxyAnchorLoss) else {"W": centres.t()}
    compared: Tensor = functional_call(loss, weights, (vectors, numbers))
    return compared
