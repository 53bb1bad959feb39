"""The frozen backbones: how the weights of one are found, and how it is kept.

A backbone's weights come from where the config says and from nowhere else: what cannot be had is an error, never a
fallback.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval_core.artifacts import Value
from retrieval_core.config import EmbedConfig
from retrieval_core.embed.cards import Card, WeightsKind, get_card
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.images import Preprocess
from retrieval_core.store import file_sha256

if TYPE_CHECKING:
    from torch import nn

    from retrieval_core.embed.networks import ImageEmbedder

UInt8 = npt.NDArray[np.uint8]

_SPELLING: dict[WeightsKind, str] = {
    "pretrained": "pretrained",
    "random": "random:SEED",
    "file": "file:PATH",
    "artifact": "artifact:NAME",
    "fit": "fit:SEED",
}
_VALUE_PATTERN = {"pretrained": "", "random": "[0-9]{1,9}", "file": ".+", "artifact": ".+", "fit": "[0-9]{1,9}"}

WEIGHTS_FILE = "weights.safetensors"
GRAPH_FILE = "model.onnx"


class Weights(Value):
    """Where weights come from; `value` is the seed, the path or the artifact's name, and empty for pretrained."""

    kind: WeightsKind
    value: str = ""


class LoadedBackbone(NamedTuple):
    """A backbone with its weights; `module` maps (n, size, size, 3) uint8 to (n, dim) float32 of any length."""

    card: Card
    preprocess: Preprocess
    module: ImageEmbedder


def parse_weights(text: str) -> Weights:
    """`pretrained`, `random:SEED`, `file:PATH`, `artifact:NAME` or `fit:SEED`. Raises `BadConfig` for anything else."""
    kind, _, value = text.partition(":")
    if kind not in _VALUE_PATTERN or not re.fullmatch(_VALUE_PATTERN[kind], value):
        raise BadConfig(
            f"cannot read weights {text!r}; embed.weights is {', '.join(_SPELLING.values())}, "
            "with SEED a whole number below 1,000,000,000"
        )
    return Weights.model_validate({"kind": kind, "value": value})


def backbone_preprocess(config: EmbedConfig) -> Preprocess:
    """How pictures are cut for the configured backbone; no weights are read. Raises `BadConfig`."""
    card = get_card(config.backbone)
    if config.size_px not in (0, card.size_px) and not card.resizable:
        raise BadConfig(
            f"{card.name} sees squares of {card.size_px} px and no other, got embed.size_px={config.size_px}; "
            "set it to 0"
        )
    return Preprocess(size_px=config.size_px or card.size_px, crop_fraction=card.crop_fraction, crop=card.crop)


def load_backbone(config: EmbedConfig, sample: Callable[[], UInt8] | None = None) -> LoadedBackbone:
    """The configured backbone with the weights that the config names, and no others.

    `sample` gives (n, size, size, 3) uint8 pictures of the catalogue; only `fit:SEED` calls it, and SEED is the
    caller's, who draws them. `artifact:NAME` is resolved by the caller, who gives its weights as `file:PATH`.

    Raises `BadConfig` (unknown name, weights this card cannot have), `WeightsInvalid` (a file that is absent, altered
    or of another model) and `WeightsUnavailable` (no hub and nothing cached).
    """
    card, weights, preprocess = get_card(config.backbone), parse_weights(config.weights), backbone_preprocess(config)
    if weights.kind not in card.weights_kinds:
        choices = " or ".join(_SPELLING[kind] for kind in card.weights_kinds)
        raise BadConfig(f"{card.name} cannot have weights {config.weights}; set embed.weights to {choices}")
    if config.sha256 and weights.kind != "file":
        raise BadConfig(f"embed.sha256 is for weights file:PATH, but embed.weights is {config.weights}")

    from retrieval_core.embed.networks import ImageEmbedder, build_network

    if weights.kind == "fit":
        from retrieval_core.embed.pixels import fit_pixel_pca

        if sample is None:
            raise BadConfig(f"{card.name} is fitted on the catalogue's own pictures; none were given")
        network: nn.Module = fit_pixel_pca(sample(), card.dim)
    else:
        seed = int(weights.value) if weights.kind == "random" else 0
        network = build_network(card, preprocess.size_px, seed)
    if weights.kind in ("file", "pretrained"):
        from retrieval_core.embed.weights import fill, hub_file, read_state

        path = hub_file(card) if weights.kind == "pretrained" else Path(weights.value)
        _check_sha256(path, config.sha256)
        fill(network, read_state(path), card, path.name)
    return LoadedBackbone(card, preprocess, ImageEmbedder(card, network))


def save_backbone(loaded: LoadedBackbone, folder: Path) -> None:
    """Write `weights.safetensors`, everything needed to rebuild the backbone offline, and `model.onnx`, its image side.

    Equal weights give equal bytes under the same library versions.
    """
    from safetensors.torch import save_file

    from retrieval_core.embed.networks import export_onnx

    state = loaded.module.network.state_dict()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / WEIGHTS_FILE)
    export_onnx(loaded.module, loaded.preprocess.size_px, folder / GRAPH_FILE)


def weights_sha256(path: Path) -> str:
    """The sha256 (hex) of a weights file. Raises `WeightsInvalid` where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsInvalid(f"cannot read weights file {path}: {error.strerror}") from error


def _check_sha256(path: Path, expected: str) -> None:
    if not expected:
        return
    seen = weights_sha256(path)
    if seen != expected.strip().lower():
        raise WeightsInvalid(f"weights file {path} has sha256 {seen}, but embed.sha256 expects {expected}")
