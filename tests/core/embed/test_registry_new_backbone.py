"""The recipe "a backbone" of CONTRIBUTING.md, followed in one file: a timm network whose weights have foreign keys.

EfficientNet-Lite0 as Google's converted weights spell it, which number the blocks through all stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed import registry
from retrieval_core.embed.adapters.timm import Timm
from retrieval_core.embed.backbones import backbone_fingerprint, load_backbone, save_backbone
from retrieval_core.embed.cards import HALF, Card
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import WeightsInvalid

N_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of each stage
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
BLOCKS = [f"blocks.{stage}.{block}" for stage, n in enumerate(N_BLOCKS) for block in range(n)]


class OurLite(Timm):
    """timm builds the network; only the keys of its published file differ."""

    library = "ours"
    cards = (
        Card(
            name="our_lite0",
            library="ours",
            model="tf_efficientnet_lite0",
            tag="in1k",
            dim=1280,
            size_px=224,
            crop_fraction=0.875,
            mean=HALF,
            std=HALF,
            unused_keys=("classifier.",),
            n_classes=1000,
        ),
    )

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_converted(key): tensor for key, tensor in state.items()}


def _converted(key: str) -> str:
    first, rest = key.split(".", 1)
    if first != "_blocks":
        return f"{OUTER.get(first, first)}.{rest}"
    number, layer, leaf = rest.split(".")
    names = SEPARABLE if number == "0" else INVERTED
    return f"{BLOCKS[int(number)]}.{names.get(layer, layer)}.{leaf}"


def _foreign(key: str) -> str:
    """The other way round: the published spelling of one of timm's keys."""
    module, leaf = key.rsplit(".", 1)
    if not module.startswith("blocks."):
        return f"{ {new: old for old, new in OUTER.items()}[module] }.{leaf}"
    block, layer = module.rsplit(".", 1)
    number = BLOCKS.index(block)
    names = INVERTED if number else SEPARABLE
    return f"_blocks.{number}.{ {new: old for old, new in names.items()}[layer] }.{leaf}"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ADAPTERS", dict(registry.ADAPTERS))
    monkeypatch.setattr(registry, "CARDS", dict(registry.CARDS))
    registry.register(OurLite())


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A weights file with foreign keys and a classifier, and the same tensors under timm's keys."""
    state = load_backbone(config_of("random:5")).module.network.state_dict()
    foreign = {_foreign(key): tensor for key, tensor in state.items()}
    foreign |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    save_file(foreign, tmp_path / "lite0.safetensors")
    return tmp_path / "lite0.safetensors", state


def config_of(weights: str) -> EmbedConfig:
    return EmbedConfig(backbone="our_lite0", weights=weights, size_px=64)


def test_the_new_backbone_is_reachable_by_its_name() -> None:
    assert get_card("our_lite0").dim == 1280
    assert len(backbone_fingerprint(config_of("random:0"))) == 32


def test_weights_with_foreign_keys_embed_pictures_as_the_network_does(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, state = published
    loaded = load_backbone(config_of(f"file:{path}"))
    network = loaded.module.network.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.items())

    saved = tmp_path / "saved"
    saved.mkdir()
    save_backbone(loaded, saved)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    expected = loaded.module.network((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        np.testing.assert_allclose(open_engine(saved, device, 1).embed(pixels), expected, atol=1e-4)


def test_a_file_of_another_network_is_refused(published: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    state = {_foreign(key): tensor for key, tensor in published[1].items() if "blocks.6" not in key}
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsInvalid, match=r"is not a our_lite0.*missing \(blocks.6.0.conv_pw.weight"):
        load_backbone(config_of(f"file:{tmp_path / 'cut.safetensors'}"))


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"our_lite0, ours is taken"):
        registry.register(OurLite())
