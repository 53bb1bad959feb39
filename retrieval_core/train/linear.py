"""What the objectives with a linear layer on the embedding have in common.

Importing this module imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.train.objective import Objective


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
