"""Predict by which quarter turn a picture was rotated; needs no labels.

Importing this module imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.objectives.base import LinearObjective, TrainingData, accuracy

N_TURNS = 4


class Rotation(LinearObjective):
    """Four-way classification of rotated pictures (Gidaris et al., ICLR 2018).

    A training picture gets one turn, drawn from torch's global generator; a validation picture is shown in all four.
    """

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: RotationTraining) -> None:
        super().__init__(embedder, N_TURNS, config.seed)

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        turns = torch.randint(N_TURNS, (len(pixels),)).to(pixels.device)
        turned = torch.empty_like(pixels)
        for turn in range(N_TURNS):
            turned[turns == turn] = _turn(pixels[turns == turn], turn)
        logits = self.logits(turned)
        return cross_entropy(logits, turns), {"train_accuracy": accuracy(logits, turns)}

    def outputs(self, pixels: Tensor) -> Tensor:
        """Return (b, 16) logits: four logits for each of the four turns, turn by turn."""
        return torch.cat([self.logits(_turn(pixels, turn)) for turn in range(N_TURNS)], dim=1)

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return `val_loss` and `accuracy` over all turns of all pictures."""
        logits, turns = outputs.reshape(-1, N_TURNS), torch.arange(N_TURNS).repeat(len(outputs))
        return {"val_loss": float(cross_entropy(logits, turns)), "accuracy": accuracy(logits, turns)}


def _turn(pixels: Tensor, turn: int) -> Tensor:
    return torch.rot90(pixels, turn, (1, 2))
