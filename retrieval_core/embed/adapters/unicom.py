"""UNICOM: vision transformers trained for retrieval.

An et al., "Unicom: Universal and Compact Representation Learning for Image Retrieval", ICLR 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval_core.embed.adapter import Adapter
from retrieval_core.embed.cards import CLIP_MEAN, CLIP_STD, Card

if TYPE_CHECKING:
    from torch import nn


def _unicom(name: str, model: str, file: str, sha256: str, **fields: Any) -> Card:
    defaults = {"dim": 768, "size_px": 224, "mean": CLIP_MEAN, "std": CLIP_STD, "resizable": False, "licence": "mit"}
    url = f"https://github.com/deepglint/unicom/releases/download/{file}"
    card = {"name": name, "library": "unicom", "model": model, "tag": "", "url": url, "sha256": sha256}
    return Card.model_validate({**card, **defaults, **fields})


_CARDS = (
    _unicom(
        "unicom_vit_b32",
        "ViT-B/32",
        "b32/FP16-ViT-B-32.pt",
        "f9d5696a9b58dbbbefee2d31615ca59084f2895a0fdd2ca4c235e0f9b2793f7a",
        dim=512,
    ),
    _unicom(
        "unicom_vit_b16",
        "ViT-B/16",
        "b16/FP16-ViT-B-16.pt",
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef",
    ),
    _unicom(
        "unicom_vit_l14",
        "ViT-L/14",
        "l14/FP16-ViT-L-14.pt",
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd",
    ),
    _unicom(
        "unicom_vit_l14_336",
        "ViT-L/14@336px",
        "l14_336px/FP16-ViT-L-14-336px.pt",
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea",
        size_px=336,
    ),
)


class UnicomAdapter(Adapter):
    """The four published sizes; `model` of a card is a key of `unicom.SHAPES`."""

    library = "unicom"
    cards = _CARDS

    def build(self, card: Card, size_px: int) -> nn.Module:
        from retrieval_core.embed.architectures.unicom import SHAPES, Unicom

        return Unicom(SHAPES[card.model], size_px, card.dim)


ADAPTER = UnicomAdapter()
