"""The torch side of the backbones: build the network, run it on pixels, export it to ONNX.

Importing this module imports torch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import adapter_of
from retrieval_core.state_dict import export_graph


class ImageEmbedder(nn.Module):
    """Map (n, size, size, 3) uint8 RGB to (n, dim) float32 of any length; a projection, if any, comes last.

    Pixels are normalised inside the network, so that an exported graph always normalises as it was trained. A new
    embedder is frozen and in evaluation mode; training switches both.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, card: Card, network: nn.Module, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.network, self.projection = network, projection
        self.dim = card.dim if projection is None else projection.out_features
        self._encode = adapter_of(card).encode_image
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        vectors = self._encode(self.network, normalised)
        return vectors if self.projection is None else self.projection(vectors)


def build_network(card: Card, size_px: int, seed: int) -> nn.Module:
    """Return the card's network with random weights drawn from `seed`; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return adapter_of(card).build(card, size_px)


def export_onnx(module: ImageEmbedder, size_px: int, path: Path) -> None:
    """Write the graph from pixels (n, size, size, 3) uint8 to vectors (n, dim) float32, for any n of at least 1."""
    export_graph(module, torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8), "vectors", path)
