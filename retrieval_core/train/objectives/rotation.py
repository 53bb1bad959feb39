"""By which quarter turn a picture was rotated: labels that every picture brings along.

Importing this module imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.objectives.base import LinearObjective

N_TURNS = 4


class Rotation(LinearObjective):
    """Four-way classification of turned pictures (Gidaris et al., ICLR 2018).

    While training each picture has one turn, drawn from torch's global generator; a validation picture has all four.
    """

    def __init__(self, embedder: ImageEmbedder, config: RotationTraining) -> None:
        super().__init__(embedder, N_TURNS, config.seed)

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        turns = torch.randint(N_TURNS, (len(pixels),)).to(pixels.device)
        turned = torch.empty_like(pixels)
        for turn in range(N_TURNS):
            turned[turns == turn] = _turn(pixels[turns == turn], turn)
        logits = self.logits(turned)
        return cross_entropy(logits, turns), {"train_accuracy": _accuracy(logits, turns)}

    def outputs(self, pixels: Tensor) -> Tensor:
        """(b, 16) logits: the four of each of the four turns, one turn after the other."""
        return torch.cat([self.logits(_turn(pixels, turn)) for turn in range(N_TURNS)], dim=1)

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """`val_loss` and `accuracy` over all turns of all pictures."""
        logits, turns = outputs.reshape(-1, N_TURNS), torch.arange(N_TURNS).repeat(len(outputs))
        return {"val_loss": float(cross_entropy(logits, turns)), "accuracy": _accuracy(logits, turns)}


def _turn(pixels: Tensor, turn: int) -> Tensor:
    return torch.rot90(pixels, turn, (1, 2))


def _accuracy(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(dim=1) == classes).float().mean())
