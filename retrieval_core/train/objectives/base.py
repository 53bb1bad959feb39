"""The interface of an objective: a loss over a batch and a score over the validation pictures.

Importing this module imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.head.targets import UNKNOWN, Targets, build_targets
from retrieval_core.train.captions import CaptionVectors


class TrainingData(NamedTuple):
    """The n catalogue rows of a training; rows that are held out for the evaluation are among them.

    `items` has the columns product_id, category, labels, attributes and split. `teacher` is (n, d) float32 of unit
    length, NaN where the teacher has no vector of the picture; only the objective `distill` reads it. `captions` are
    those of the n rows; only the objective `captions` reads them.
    """

    items: pl.DataFrame
    teacher: Float32 | None = None
    captions: CaptionVectors | None = None

    @property
    def is_trainable(self) -> Bool:
        """(n,) bool: False for rows whose split holds them out."""
        return ~self.items["split"].is_in(HELD_OUT).fill_null(False).to_numpy()

    @property
    def trainable_items(self) -> pl.DataFrame:
        """The rows that are not held out."""
        return self.items.filter(self.is_trainable)

    def targets(self, min_count: int) -> Targets:
        """Return the targets that `build_targets` finds in the trainable rows, spread over all n rows.

        Held-out rows have no target and do not count towards `min_count`.
        """
        targets = build_targets(self.trainable_items, min_count)
        n_items, rows = len(self.items), np.flatnonzero(self.is_trainable)
        single = {name: np.full(n_items, UNKNOWN, np.int64) for name in targets.single}
        for name, codes in targets.single.items():
            single[name][rows] = codes
        if targets.multi is None:
            return targets._replace(single=single)
        multi = np.full((n_items, targets.multi.shape[1]), np.nan, np.float32)
        multi[rows] = targets.multi
        return targets._replace(single=single, multi=multi)


class Objective(nn.Module, ABC):
    """An embedder, the layers that are trained on top of it, and the loss that trains both.

    A subclass is built as `Subclass(embedder, data, config)` and raises `BadConfig` there when it cannot learn from the
    `TrainingData`, before any picture is read. `rows` always are row numbers of `data.items`. `watched` names the score
    that decides when the learning rate falls, when training stops, and which epoch's weights are kept. An objective
    that `starts_trained` has layers that the initial weights already fit: its scores before training are reported, and
    an average with the initial weights includes a projection.
    """

    watched: ClassVar[str] = "val_loss"
    better: ClassVar[Literal["min", "max"]] = "min"
    starts_trained: ClassVar[bool] = False
    slices: tuple[int, ...] = ()

    def __init__(self, embedder: ImageEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def learnable(self, rows: Int64) -> Int64:
        """Return those of `rows` that can be learned from; by default all."""
        return rows

    def watchable(self, train: Int64, val: Int64) -> Int64:
        """Return those of the `val` rows that can be scored after training on `train`; by default the learnable."""
        return self.learnable(val)

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Return the batches of one epoch, each (b,) rows.

        By default every row appears once, in random order; a last batch of a single row is dropped.
        """
        shuffled = rng.permutation(rows)
        parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        return [part for part in parts if len(part) > 1]

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for epoch `epoch`, counted from 0; by default do nothing."""

    def on_slices(self, vectors: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of `loss` over the (b, dim) vectors and over their leading `slices` dimensions.

        Vectors trained so can be cut off to a slice (Matryoshka representations, Kusupati et al., NeurIPS 2022).
        """
        parts = [vectors, *(vectors[:, :n_dims] for n_dims in self.slices)]
        return torch.stack([loss(part) for part in parts]).mean()

    @abstractmethod
    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of (b, s, s, 3) uint8 pixels of (b,) rows, and figures to average over the epoch."""

    @abstractmethod
    def outputs(self, pixels: Tensor) -> Tensor:
        """Return the (b, m) float32 outputs for (b, s, s, 3) uint8 validation pixels, for `score`."""

    @abstractmethod
    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return the scores of all (n, m) float32 outputs on the CPU of the (n,) validation rows, with `watched`."""

    def finish(self) -> None:
        """Complete the training after the best epoch's weights were restored; by default do nothing."""

    def layers(self) -> dict[str, Tensor]:
        """Return trained layers to save beside the embedder, such as a classifier's weights; by default none."""
        return {}

    def classes(self) -> list[str]:
        """Return the names of the classes that `layers` predicts, in order; by default none."""
        return []


class LinearObjective(Objective):
    """An embedder under a linear layer of `n_outputs`, initialised from `seed` without touching torch's generator."""

    def __init__(self, embedder: ImageEmbedder, n_outputs: int, seed: int) -> None:
        super().__init__(embedder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = nn.Linear(embedder.dim, n_outputs)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return (b, n_outputs) logits of (b, s, s, 3) uint8 pixels."""
        logits: Tensor = self.classifier(self.embedder(pixels))
        return logits

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels)

    def layers(self) -> dict[str, Tensor]:
        """Return `weight` (n_outputs, dim) and `bias` (n_outputs,) on the CPU if the outputs are classes, else none."""
        if not self.classes():
            return {}
        return {name: value.detach().cpu() for name, value in self.classifier.state_dict().items()}


def padded(vectors: Tensor, dim: int) -> Tensor:
    """Return (b, n) vectors with zeros in the dimensions from n to `dim`, for a layer that reads all dimensions."""
    return pad(vectors, (0, dim - vectors.shape[1]))


def accuracy(logits: Tensor, codes: Tensor) -> float:
    """Return the share of the (n, n_classes) logits whose largest is at the (n,) int64 class number."""
    return float((logits.argmax(dim=1) == codes).float().mean())
