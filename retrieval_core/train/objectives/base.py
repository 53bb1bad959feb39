"""What a way of training adds to the loop: a loss over a batch, and a score over the validation pictures.

Importing this module imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder


class Objective(nn.Module, ABC):
    """An embedder, whatever is trained on top of it, and what both are trained for.

    Rows are numbers of the `items` that the objective was made for. The constructor raises `BadConfig` where those
    items cannot be learned from, before any picture is read. `watched` names the score that decides when the learning
    rate falls, when training stops and which epoch's weights are kept.
    """

    watched: ClassVar[str] = "val_loss"
    better: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, embedder: ImageEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def learnable(self, rows: Int64) -> Int64:
        """Those of `rows` that have something to learn from; by default all."""
        return rows

    def watchable(self, train: Int64, val: Int64) -> Int64:
        """Those of the `val` rows that can be scored after learning from `train`; by default the learnable ones."""
        return self.learnable(val)

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """The batches of one epoch, each (b,) rows; by default all rows once, shuffled, a last single row left out."""
        shuffled = rng.permutation(rows)
        parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        return [part for part in parts if len(part) > 1]

    def begin_epoch(self, epoch: int) -> None:
        """Told before epoch `epoch`, from 0; by default nothing changes from epoch to epoch."""

    @abstractmethod
    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss to minimise over (b, s, s, 3) uint8 pixels of (b,) rows, and figures to average over the epoch."""

    @abstractmethod
    def outputs(self, pixels: Tensor) -> Tensor:
        """(b, m) float32 of (b, s, s, 3) uint8 validation pixels: what `score` is given, all rows together."""

    @abstractmethod
    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Scores of (n, m) float32 outputs, on the CPU, of the (n,) validation rows; `watched` is one of them."""

    def finish(self) -> None:
        """Told once the best epoch's weights are in place; by default nothing is left to do."""

    def layers(self) -> dict[str, Tensor]:
        """What was trained on top and is worth keeping beside the embedder (a classifier's weights); mostly nothing."""
        return {}

    def classes(self) -> list[str]:
        """The classes that `layers` tells apart, in their order; mostly none."""
        return []


class LinearObjective(Objective):
    """An embedder with a linear layer of `n_outputs` on top, drawn under `seed`; torch's own generator stays put."""

    def __init__(self, embedder: ImageEmbedder, n_outputs: int, seed: int) -> None:
        super().__init__(embedder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = nn.Linear(embedder.dim, n_outputs)

    def logits(self, pixels: Tensor) -> Tensor:
        """(b, n_outputs) of (b, s, s, 3) uint8 pixels."""
        logits: Tensor = self.classifier(self.embedder(pixels))
        return logits

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels)

    def layers(self) -> dict[str, Tensor]:
        """`weight` (n_outputs, dim) and `bias` (n_outputs,) on the CPU, where the outputs are classes."""
        if not self.classes():
            return {}
        return {name: value.detach().cpu() for name, value in self.classifier.state_dict().items()}
