"""The network of UNICOM: a vision transformer that maps all patch tokens, flattened, to a compact feature.

An et al., "Unicom: Universal and Compact Representation Learning for Image Retrieval", ICLR 2023; keys as in its
published files. Importing this module imports torch and timm.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Shape(NamedTuple):
    """The size of a transformer; the hidden layer of its MLPs is four times `width`."""

    patch_px: int
    width: int
    depth: int
    n_heads: int


SHAPES = {
    "ViT-B/32": Shape(patch_px=32, width=768, depth=12, n_heads=12),
    "ViT-B/16": Shape(patch_px=16, width=768, depth=12, n_heads=12),
    "ViT-L/14": Shape(patch_px=14, width=1024, depth=24, n_heads=16),
    "ViT-L/14@336px": Shape(patch_px=14, width=1024, depth=24, n_heads=16),
}


class Unicom(VisionTransformer):
    """Map (n, 3, size, size) float32 normalised pixels to (n, dim) float32, not of unit length."""

    def __init__(self, shape: Shape, size_px: int, dim: int) -> None:
        super().__init__(
            img_size=size_px,
            patch_size=shape.patch_px,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.n_heads,
            class_token=False,
            no_embed_class=True,
            qkv_bias=False,
            act_layer=nn.ReLU6,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            global_pool="",
            num_classes=0,
        )
        self.feature = nn.Sequential(
            nn.Linear(self.patch_embed.num_patches * shape.width, shape.width, bias=False),
            nn.BatchNorm1d(shape.width, eps=2e-5),
            nn.Linear(shape.width, dim, bias=False),
            nn.BatchNorm1d(dim, eps=2e-5),
        )

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        features: Tensor = self.feature(x.flatten(1))
        return features
