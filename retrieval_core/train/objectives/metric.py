"""The base of the metric learning objectives: batches, pairs, and a score for how well alike pictures find each other.

Importing this module imports torch.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.train.config import MetricTraining
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.relations import MIN_BATCH, relate

N_NEIGHBOURS = 5
COLLAPSED_SPREAD = 0.01
TIE_BREAK = 5e-4  # 16 products of two such numbers sum up to about 1e-6, the rounding error of a float32 cosine


class Distances(NamedTuple):
    """Mean Euclidean distance of alike and of unlike validation pictures, and the mean length of their vectors."""

    alike: float
    unlike: float
    length: float

    @property
    def spread(self) -> float:
        """The distance of unlike pictures as a share of a vector's length; near 0, all vectors almost coincide."""
        return self.unlike / self.length if self.length > 0 else 0.0


class MetricObjective(Objective):
    """Moves alike pictures together and unlike ones apart, by the loss that a subclass defines in `compare`.

    The watched score, val_relevance@5, is the mean relevance (`Relation.relevance`) of the five validation pictures
    nearest to each one by cosine, as in a search; it does not depend on a margin or a temperature.

    The other scores are means over batches of validation pictures: val_loss, alike_distance, unlike_distance and spread
    (`Distances`), and collapsed: 1 if `has_collapsed`, else 0.
    """

    watched: ClassVar[str] = "val_relevance@5"
    better: ClassVar[Literal["min", "max"]] = "max"

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: MetricTraining) -> None:
        super().__init__(embedder)
        if config.batch_size < MIN_BATCH:
            raise BadConfig(
                f"batch_size is {config.batch_size}, but pictures are compared within their batch; "
                f"set {MIN_BATCH} or more"
            )
        self._relation = relate(data, config)
        self._batch_size, self._seed, self.slices = config.batch_size, config.seed, config.slices

    @abstractmethod
    def compare(self, vectors: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of (b, dim) float32 vectors, not of unit length, and figures to average over the epoch.

        `alike` and `unlike` are (b, b) bool as in `Pairs`. The loss is 0 without any such pair.
        """

    def has_collapsed(self, distances: Distances) -> bool:
        """Return whether all vectors lie in one point: their spread is below 0.01."""
        return distances.spread < COLLAPSED_SPREAD

    def learnable(self, rows: Int64) -> Int64:
        return self._relation.partnered(rows)

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        return self._relation.batches(rows, size, rng)

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        vectors = self.embedder(pixels)
        # Half precision would round away the distances of near neighbours.
        with torch.autocast(vectors.device.type, enabled=False):
            alike, unlike = self._pairs(rows.cpu().numpy(), vectors.device)
            figures: dict[str, float] = {}

            def compare(part: Tensor) -> Tensor:
                loss, more = self.compare(part, alike, unlike)
                figures.update({name: value for name, value in more.items() if name not in figures})
                return loss

            return self.on_slices(vectors.float(), compare), figures

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.embedder(pixels)
        return vectors

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        val_loss, distances = self._loss_and_distances(outputs, rows)
        return {
            self.watched: float(self._relation.relevance(rows, nearest(outputs, self._seed)).mean()),
            "val_loss": val_loss,
            "alike_distance": distances.alike,
            "unlike_distance": distances.unlike,
            "spread": distances.spread,
            "collapsed": float(self.has_collapsed(distances)),
        }

    def _pairs(self, rows: Int64, device: torch.device) -> tuple[Tensor, Tensor]:
        alike, unlike = self._relation.pairs(rows)
        return torch.from_numpy(alike).to(device), torch.from_numpy(unlike).to(device)

    @torch.no_grad()
    def _loss_and_distances(self, outputs: Tensor, rows: Int64) -> tuple[float, Distances]:
        """Return the means over batches that are the same in every epoch."""
        device = next(self.parameters()).device
        position = np.empty(rows.max() + 1, np.int64)
        position[rows] = np.arange(len(rows))
        measured: list[tuple[float, ...]] = []
        for batch in self._relation.batches(rows, self._batch_size, np.random.default_rng(self._seed)):
            vectors = outputs[position[batch]].to(device)
            alike, unlike = self._pairs(batch, device)
            # Subtract the vectors: a matrix product would lose the small distances that reveal a collapse.
            distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
            loss, _ = self.compare(vectors, alike, unlike)
            apart = distances[unlike] if unlike.any() else distances
            means = (loss, distances[alike].mean(), apart.mean(), vectors.norm(dim=1).mean())
            measured.append(tuple(float(value) for value in means))
        val_loss, *mean_distances = (float(np.mean(values)) for values in zip(*measured, strict=True))
        return val_loss, Distances(*mean_distances)


def nearest(outputs: Tensor, seed: int) -> Int64:
    """Return the positions of the five nearest others to each of the (n, dim) vectors by cosine, (n, 5), -1 for none.

    Ties are broken at random by `seed`, so that vectors collapsed into one point score as chance does.
    """
    vectors, rng = unit_length(outputs.numpy()), np.random.default_rng(seed)
    # The products of these random coordinates break ties, in another way for each query, and change nothing else.
    queries, gallery = (np.hstack([vectors, TIE_BREAK * rng.normal(size=(len(vectors), 16))]) for _ in range(2))
    return exact_topk(queries, gallery, N_NEIGHBOURS, exclude=np.arange(len(vectors)))[1]
