"""The torch side of the backbones: building, embedding, exporting.

Importing this module imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retrieval_core.embed.cards import Card

EXPORT_OPSET = 20


class ImageEmbedder(nn.Module):
    """(n, size, size, 3) uint8 RGB to (n, dim) float32, not of unit length; a projection, if any, comes last.

    The normalisation of pixels is part of the network, so that an exported graph cannot be fed with another one. It
    is made for use; who trains it asks for gradients and for train mode.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, card: Card, network: nn.Module, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.network, self.projection = network, projection
        self.dim = card.dim if projection is None else projection.out_features
        self._encode = "encode_image" if card.library == "open_clip" else "forward"
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        vectors: Tensor = getattr(self.network, self._encode)(normalised)
        return vectors if self.projection is None else self.projection(vectors)


class PixelPca(nn.Module):
    """(n, 3, size, size) float32 in 0..1 to (n, dim): coordinates along the principal components of the pixels."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1) - self.mean) @ self.components.T


def build_network(card: Card, size_px: int, seed: int) -> nn.Module:
    """The card's network with a random start drawn under `seed`; torch's own generator stays put."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if card.library == "timm":
            import timm

            return timm.create_model(f"{card.model}.{card.tag}", pretrained=False, num_classes=0, **_start(card.model))
        if card.library == "open_clip":
            from retrieval_core.embed.openclip import build_clip

            return build_clip(card)
        if card.library == "unicom":
            from retrieval_core.embed.unicom import SHAPES, Unicom

            return Unicom(SHAPES[card.model], size_px, card.dim)
        if card.library == "vae":
            from retrieval_core.embed.vae import VaeEncoder

            return VaeEncoder()
        width = 3 * size_px * size_px
        return PixelPca(torch.zeros(width), torch.zeros(card.dim, width))


def _start(model: str) -> dict[str, Any]:
    """Untrained, a branch that ends in a zero batch norm (ResNet) or a layer scale of 1e-5 (DINOv2) says nothing."""
    if model.startswith("resnet"):
        return {"zero_init_last": False}
    return {"init_values": 1.0} if "dinov2" in model else {}


def export_onnx(module: ImageEmbedder, size_px: int, path: Path) -> None:
    """Write the graph pixels (n, size, size, 3) uint8 -> vectors (n, dim) float32, with any n of at least 1."""
    pixels = torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        module,
        (pixels,),
        dynamo=True,
        opset_version=EXPORT_OPSET,
        input_names=["pixels"],
        output_names=["vectors"],
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    for graph in program.model.graphs():
        for node in graph.all_nodes():
            # Source paths and stack traces of this machine: of no use to a reader, and no two exports share them.
            node.metadata_props.clear()
            node.doc_string = None
    program.save(path)
