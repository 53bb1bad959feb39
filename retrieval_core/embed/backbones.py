"""Load a backbone with the weights that the config names, save it so that it describes itself, and read it back.

Weights come from where the config says and from nowhere else: weights that are not available are an error.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS, weights_sha256
from retrieval_core.artifacts.manifests import Value, fingerprint
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.adapter import WeightsKind
from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import adapter_of, get_adapter, get_card
from retrieval_core.embed.text.tokenizer import kept_files
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid, WeightsUnavailable
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
INT8_FILE = "model-int8.onnx"  # of a backbone that was calibrated for int8
CARD_FILE = "card.json"


class Weights(Value):
    """The source of weights; `value` is the seed, the path or the artifact's name, and empty for pretrained."""

    kind: WeightsKind
    value: str = ""


class LoadedBackbone(NamedTuple):
    """A backbone with its weights; `module` maps (n, size, size, 3) uint8 to (n, dim) float32 of any length.

    `has_text` says whether texts can be searched in these vectors: a projection that was trained on pictures alone, or
    of which nothing is known, excludes it. `weights_sha256` and, of a file from the hub, `revision` say which published
    file the weights are; empty for others. `tokenizer` are the files that texts are read by, where such are needed.
    """

    card: Card
    preprocess: Preprocess
    module: ImageEmbedder
    has_text: bool = False
    weights_sha256: str = ""
    revision: str = ""
    tokenizer: tuple[Path, ...] = ()


class Description(Value):
    """The content of a saved backbone's `card.json`: how to build it, how to cut pictures for it, and its width."""

    card: Card
    preprocess: Preprocess
    dim: int
    has_text: bool


def parse_weights(text: str) -> Weights:
    """Parse `pretrained`, `random:SEED`, `file:PATH`, `artifact:NAME` or `fit:SEED`. Raises `BadConfig` otherwise."""
    kind, _, value = text.partition(":")
    if kind not in _VALUE_PATTERN or not re.fullmatch(_VALUE_PATTERN[kind], value):
        raise BadConfig(
            f"cannot read weights {text!r}; embed.weights is {', '.join(_SPELLING.values())}, "
            "with SEED a whole number below 1,000,000,000"
        )
    return Weights.model_validate({"kind": kind, "value": value})


def backbone_preprocess(config: EmbedConfig) -> Preprocess:
    """Return how pictures are cut for the configured backbone, without reading its weights. Raises `BadConfig`."""
    card = get_card(config.backbone)
    return adapter_of(card).preprocess(card, config)


def load_backbone(config: EmbedConfig, sample: Callable[[], UInt8] | None = None) -> LoadedBackbone:
    """Return the configured backbone with exactly the weights that the config names.

    `sample` returns (n, size, size, 3) uint8 pictures of the catalogue; only `fit:SEED` calls it, and the caller draws
    them by SEED. `artifact:NAME` is refused: the caller resolves it and opens its folder with `read_backbone`.

    Raises `BadConfig` (unknown name, weights this card cannot have), `WeightsInvalid` (a file that is absent, altered
    or of another model) and `WeightsUnavailable` (no hub and nothing cached).
    """
    card, weights = get_card(config.backbone), parse_weights(config.weights)
    adapter = adapter_of(card)
    preprocess = adapter.preprocess(card, config)
    if weights.kind not in adapter.weights_kinds:
        choices = " or ".join(_SPELLING[kind] for kind in adapter.weights_kinds)
        raise BadConfig(f"{card.name} cannot have weights {config.weights}; set embed.weights to {choices}")
    if config.sha256 and weights.kind not in ("file", "pretrained"):
        raise BadConfig(f"embed.sha256 is for weights pretrained or file:PATH, but embed.weights is {config.weights}")
    if not card.commercial:
        _log.warning("the weights of %s are under %s, which forbids or limits commercial use", card.name, card.licence)

    from retrieval_core.embed.hub import revision_of
    from retrieval_core.embed.networks import ImageEmbedder, build_network

    projection: nn.Linear | None = None
    if weights.kind == "fit":
        if sample is None:
            raise BadConfig(f"{card.name} is fitted on the catalogue's own pictures; none were given")
        network = adapter.fit(card, sample())
    else:
        seed = int(weights.value) if weights.kind == "random" else 0
        network = build_network(card, preprocess.size_px, seed)
    sha256 = revision = ""
    if weights.kind == "pretrained":
        path = adapter.weights_file(card)
        sha256, revision = _check_sha256(path, config.sha256 or card.sha256), revision_of(path)
        projection = _fill(network, path, card)
    elif weights.kind == "file":
        path = Path(weights.value)
        if config.sha256:
            _check_sha256(path, config.sha256)
        projection = _fill(network, path, card)
    has_text = card.has_text and projection is None
    tokenizer = _tokenizer_files(card) if has_text and weights.kind != "random" else ()
    module = ImageEmbedder(card, network, projection)
    return LoadedBackbone(card, preprocess, module, has_text, sha256, revision, tokenizer)


def _tokenizer_files(card: Card) -> tuple[Path, ...]:
    """Return the files that texts are read by; without them pictures can be embedded all the same."""
    try:
        return adapter_of(card).tokenizer_files(card)
    except WeightsUnavailable as error:
        _log.warning("texts cannot be searched until the tokenizer can be fetched: %s", error)
        return ()


def save_backbone(loaded: LoadedBackbone, folder: Path) -> None:
    """Write `weights.safetensors` and `card.json`, from which it is rebuilt offline, and `model.onnx`, which runs it.

    The files of its tokenizer, if it has any, are copied, so that texts are read offline too.

    Equal weights give equal bytes under the same library versions.
    """
    from safetensors.torch import save_file

    from retrieval_core.embed.networks import export_onnx

    card, preprocess, module = loaded.card, loaded.preprocess, loaded.module
    state = {key: tensor for key, tensor in module.state_dict().items() if key.startswith(("network.", "projection."))}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / WEIGHTS_FILE)
    export_onnx(module, preprocess.size_px, folder / GRAPH_FILE)
    description = Description(card=card, preprocess=preprocess, dim=module.dim, has_text=loaded.has_text)
    (folder / CARD_FILE).write_text(description.model_dump_json(indent=1), encoding="utf-8")
    for path in loaded.tokenizer:
        shutil.copyfile(path, folder / path.name)


def describe(folder: Path) -> Description:
    """Return the description that `save_backbone` wrote to `folder`. Raises `ShardCorrupt` where it cannot be used."""
    path = folder / CARD_FILE
    try:
        description = Description.model_validate_json(path.read_bytes())
        adapter_of(description.card)
    except (OSError, ValueError, BadConfig) as error:
        raise ShardCorrupt(
            f"{path} does not describe a backbone of this version: {error}; delete the backbone's folder and run again"
        ) from error
    return description


def read_backbone(folder: Path) -> LoadedBackbone:
    """Return the backbone that `save_backbone` wrote to `folder`. Raises `ShardCorrupt`, `WeightsInvalid`."""
    from retrieval_core.embed.networks import ImageEmbedder, build_network

    saved = describe(folder)
    network = build_network(saved.card, saved.preprocess.size_px, seed=0)
    projection = _fill(network, folder / WEIGHTS_FILE, saved.card)
    module = ImageEmbedder(saved.card, network, projection)
    return LoadedBackbone(saved.card, saved.preprocess, module, saved.has_text, tokenizer=kept_files(folder))


def backbone_fingerprint(config: EmbedConfig) -> str:
    """Return the fingerprint of a frozen backbone; files enter it by their content.

    Raises `BadConfig` for an unknown name, `WeightsInvalid` for a missing file, `WeightsUnavailable` for a folder
    without weights.
    """
    backbone, weights = get_adapter(config.backbone).fingerprint_inputs(config.backbone, config.weights)
    if config.sha256 and config.weights == "pretrained":
        weights = config.sha256.strip().lower()
    framing = [config.framing] if config.framing != "card" else []
    return fingerprint("backbone", STAGE_VERSIONS["embed"], [backbone, weights, config.size_px, *framing], [])


def int8_fingerprint(backbone: str) -> str:
    """Return the fingerprint of a backbone that is calibrated for int8, by that of the backbone."""
    return fingerprint("backbone", STAGE_VERSIONS["embed"], {"precision": "int8"}, [backbone])


def _fill(network: nn.Module, path: Path, card: Card) -> nn.Linear | None:
    """Copy a weights file into `network`; return the projection, where the file has one."""
    from retrieval_core.embed.weights import build_projection, fill_network, read_weights

    state = read_weights(path, card)
    fill_network(network, state.network, card, path.name)
    return build_projection(state.projection, card, path.name)


def _check_sha256(path: Path, expected: str) -> str:
    """Return the sha256 of a weights file. Raises `WeightsInvalid` where it is not `expected`, if that is given."""
    actual = weights_sha256(path)
    if expected and actual != expected.strip().lower():
        raise WeightsInvalid(
            f"weights file {path} has sha256 {actual}, expected {expected}; download it again, or remove it"
        )
    return actual
