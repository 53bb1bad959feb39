"""Principal components of the squashed pixels: the baseline that every network has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval_core.arrays import UInt8
from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import Card

if TYPE_CHECKING:
    from torch import nn


class Pixels(Adapter):
    """A projection fitted to the catalogue's own pictures; nothing is published."""

    library = "pixels"
    weights_kinds = ("fit", "file")
    cards = (
        Card(
            name="pca_pixels",
            library="pixels",
            model="pca",
            tag="",
            dim=128,
            size_px=64,
            crop="squash",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            licence="",
        ),
    )

    def build(self, card: Card, size_px: int) -> nn.Module:
        """Return a projection of zeros, to be filled from a file."""
        import torch

        from retrieval_core.embed.architectures.pixel_pca import PixelPca

        width = 3 * size_px * size_px
        return PixelPca(torch.zeros(width), torch.zeros(card.dim, width))

    def fit(self, card: Card, pixels: UInt8) -> nn.Module:
        from retrieval_core.embed.architectures.pixel_pca import fit_pixel_pca

        return fit_pixel_pca(pixels, card.dim)


ADAPTER = Pixels()
