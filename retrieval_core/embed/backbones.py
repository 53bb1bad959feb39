"""The backbones: how the weights of one are found, and how it is kept, describing itself.

A backbone's weights come from where the config says and from nowhere else: what cannot be had is an error, never a
fallback.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS, weights_name, weights_sha256
from retrieval_core.artifacts.manifests import Value, fingerprint
from retrieval_core.config import EmbedConfig
from retrieval_core.embed.cards import Card, WeightsKind, get_card
from retrieval_core.embed.openclip import CONFIG_FILE, LOCAL, folder_weights
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from retrieval_core.embed.networks import ImageEmbedder


_log = logging.getLogger(__name__)

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
CARD_FILE = "card.json"


class Weights(Value):
    """Where weights come from; `value` is the seed, the path or the artifact's name, and empty for pretrained."""

    kind: WeightsKind
    value: str = ""


class LoadedBackbone(NamedTuple):
    """A backbone with its weights; `module` maps (n, size, size, 3) uint8 to (n, dim) float32 of any length."""

    card: Card
    preprocess: Preprocess
    module: ImageEmbedder

    @property
    def has_text(self) -> bool:
        """Whether texts meet these vectors: not behind a projection, which was trained on pictures alone."""
        return self.card.has_text and self.module.projection is None


class Description(Value):
    """What a saved backbone says of itself: how to build it, how to cut pictures for it, and what it gives."""

    card: Card
    preprocess: Preprocess
    dim: int
    has_text: bool


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
    return _preprocess(get_card(config.backbone), config)


def _preprocess(card: Card, config: EmbedConfig) -> Preprocess:
    if config.size_px not in (0, card.size_px) and not card.resizable:
        raise BadConfig(
            f"{card.name} sees squares of {card.size_px} px and no other, got embed.size_px={config.size_px}; "
            "set it to 0"
        )
    if config.size_px % card.size_step_px:
        raise BadConfig(
            f"{card.name} sees squares of a multiple of {card.size_step_px} px, got embed.size_px={config.size_px}; "
            f"set it to 0 for {card.size_px} px"
        )
    return Preprocess(
        size_px=config.size_px or card.size_px,
        crop_fraction=card.crop_fraction,
        interpolation=card.interpolation,
        crop=card.crop if config.framing == "card" else config.framing,
    )


def load_backbone(config: EmbedConfig, sample: Callable[[], UInt8] | None = None) -> LoadedBackbone:
    """The configured backbone with the weights that the config names, and no others.

    `sample` gives (n, size, size, 3) uint8 pictures of the catalogue; only `fit:SEED` calls it, and SEED is the
    caller's, who draws them. `artifact:NAME` is resolved by the caller, who opens its folder with `read_backbone`.

    Raises `BadConfig` (unknown name, weights this card cannot have), `WeightsInvalid` (a file that is absent, altered
    or of another model) and `WeightsUnavailable` (no hub and nothing cached).
    """
    card, weights = get_card(config.backbone), parse_weights(config.weights)
    preprocess = _preprocess(card, config)
    if weights.kind not in card.weights_kinds:
        choices = " or ".join(_SPELLING[kind] for kind in card.weights_kinds)
        raise BadConfig(f"{card.name} cannot have weights {config.weights}; set embed.weights to {choices}")
    if config.sha256 and weights.kind != "file":
        raise BadConfig(f"embed.sha256 is for weights file:PATH, but embed.weights is {config.weights}")
    if not card.commercial:
        _log.warning("the published weights of %s are under %s, which forbids commercial use", card.name, card.licence)

    from retrieval_core.embed.networks import ImageEmbedder, build_network

    projection: nn.Linear | None = None
    if weights.kind == "fit":
        from retrieval_core.embed.pixels import fit_pixel_pca

        if sample is None:
            raise BadConfig(f"{card.name} is fitted on the catalogue's own pictures; none were given")
        network: nn.Module = fit_pixel_pca(sample(), card.dim)
    else:
        seed = int(weights.value) if weights.kind == "random" else 0
        network = build_network(card, preprocess.size_px, seed)
    if weights.kind in ("file", "pretrained"):
        from retrieval_core.embed.weights import pretrained_file

        published = weights.kind == "pretrained"
        path = pretrained_file(card) if published else Path(weights.value)
        _check_sha256(path, card.sha256 if published else config.sha256)
        projection = _fill(network, path, card)
    return LoadedBackbone(card, preprocess, ImageEmbedder(card, network, projection))


def save_backbone(loaded: LoadedBackbone, folder: Path) -> None:
    """Write `weights.safetensors` and `card.json`, everything needed to rebuild it offline, and `model.onnx` to run it.

    Equal weights give equal bytes under the same library versions.
    """
    from safetensors.torch import save_file

    from retrieval_core.embed.networks import export_onnx

    card, preprocess, module = loaded
    state = {key: tensor for key, tensor in module.state_dict().items() if key.startswith(("network.", "projection."))}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / WEIGHTS_FILE)
    export_onnx(module, preprocess.size_px, folder / GRAPH_FILE)
    description = Description(card=card, preprocess=preprocess, dim=module.dim, has_text=loaded.has_text)
    (folder / CARD_FILE).write_text(description.model_dump_json(indent=1), encoding="utf-8")


def describe(folder: Path) -> Description:
    """What `save_backbone` wrote about the backbone in `folder`. Raises `ShardCorrupt` where that cannot be read."""
    path = folder / CARD_FILE
    try:
        return Description.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ShardCorrupt(
            f"{path} does not describe a backbone of this version: {error}; delete the backbone's folder and run again"
        ) from error


def read_backbone(folder: Path) -> LoadedBackbone:
    """What `save_backbone` wrote, ready to embed or to train on. Raises `ShardCorrupt`, `WeightsInvalid`."""
    from retrieval_core.embed.networks import ImageEmbedder, build_network

    known = describe(folder)
    network = build_network(known.card, known.preprocess.size_px, seed=0)
    projection = _fill(network, folder / WEIGHTS_FILE, known.card)
    return LoadedBackbone(known.card, known.preprocess, ImageEmbedder(known.card, network, projection))


def _fill(network: nn.Module, path: Path, card: Card) -> nn.Linear | None:
    """Copy a weights file into `network`; returns the projection, where the file has one."""
    from retrieval_core.embed.vae import current_keys
    from retrieval_core.embed.weights import fill_card, projection_of, split_state
    from retrieval_core.state_dict import read_state

    state = split_state(read_state(path))
    fill_card(network, current_keys(state.network) if card.library == "vae" else state.network, card, path.name)
    return projection_of(state.projection, card, path.name)


def _check_sha256(path: Path, expected: str) -> None:
    if not expected:
        return
    seen = weights_sha256(path)
    if seen != expected.strip().lower():
        raise WeightsInvalid(f"weights file {path} has sha256 {seen}, expected {expected}; fetch it anew, or remove it")


def backbone_fingerprint(config: EmbedConfig) -> str:
    """Of a frozen backbone; what lies in a file is named by its content.

    Raises `WeightsInvalid` without the file, `WeightsUnavailable` for a folder without weights.
    """
    backbone, weights = config.backbone, weights_name(config.weights)
    if backbone.startswith(LOCAL):
        folder = Path(backbone.removeprefix(LOCAL))
        backbone = f"{LOCAL}{weights_sha256(folder / CONFIG_FILE)}"
        weights = weights_sha256(folder_weights(folder)) if weights == "pretrained" else weights
    framing = [config.framing] if config.framing != "card" else []
    return fingerprint("backbone", STAGE_VERSIONS["embed"], [backbone, weights, config.size_px, *framing], [])
