from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.architectures import unicom
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone, save_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import CARDS

FAMILIES = [
    "resnet18",
    "mobilenetv3",
    "vit_tiny",
    "eva02_tiny",
    "siglip_b16",
    "unicom_tiny",
    "clip_vit_b32",
    "pca_pixels",
]


TINY_UNICOM = unicom.Shape(patch_px=8, width=32, depth=3, n_heads=4)


class Saved(NamedTuple):
    loaded: LoadedBackbone
    folder: Path

    @property
    def card(self) -> Card:
        return self.loaded.card

    @property
    def size_px(self) -> int:
        return self.loaded.preprocess.size_px

    def pixels(self, n: int) -> np.ndarray:
        shape = (n, self.size_px, self.size_px, 3)
        return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def unsettle_norms(module: nn.Module) -> None:
    """Give batch norms what training would: an untrained one is the identity, or zero, and hides a wrong export."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.1, generator=generator)


def keep(config: EmbedConfig, folder: Path) -> Saved:
    sample = np.random.default_rng(3).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    loaded = load_backbone(config, lambda: sample)
    unsettle_norms(loaded.module)
    save_backbone(loaded, folder)
    return Saved(loaded, folder)


def cut_depth(name: str) -> dict[str, int]:
    return {"depth": 1} if name.startswith(("vit_tiny", "eva02_tiny", "vit_base_patch16_siglip")) else {}


@pytest.fixture(scope="session")
def small_models() -> Iterator[None]:
    """Cards of the smallest size, and CLIP with two layers a side: the same code as the real ones, sooner."""
    clip, get_model_config = CARDS["clip_vit_b32"].model, open_clip.get_model_config
    config = copy.deepcopy(get_model_config(clip))
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 2
    tiny = {"name": "vit_tiny", "model": "vit_tiny_patch16_224", "tag": "augreg_in21k_ft_in1k", "dim": 192}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "get_model_config", lambda name: config if name == clip else get_model_config(name))
        patch.setitem(CARDS, "vit_tiny", CARDS["vit_b16"].model_copy(update=tiny))
        tiny = {"name": "eva02_tiny", "model": "eva02_tiny_patch14_224", "tag": "mim_in22k", "dim": 192, "size_px": 224}
        patch.setitem(CARDS, "eva02_tiny", CARDS["eva02_b14"].model_copy(update=tiny))
        tiny = {"name": "unicom_tiny", "model": "ViT-T/8", "dim": 24, "size_px": 32}
        patch.setitem(CARDS, "unicom_tiny", CARDS["unicom_vit_b32"].model_copy(update=tiny))
        patch.setitem(unicom.SHAPES, "ViT-T/8", unicom.Shape(patch_px=8, width=32, depth=2, n_heads=2))
        create = timm.create_model
        patch.setattr(timm, "create_model", lambda name, **options: create(name, **options, **cut_depth(name)))
        yield


@pytest.fixture(scope="session")
def pixel_backbone(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    config = EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16)
    return keep(config, tmp_path_factory.mktemp("pca_pixels"))


@pytest.fixture(scope="session")
def saved_backbone(
    small_models: None, exported_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Saved]:
    """Return the saved backbone of a name, the same one for all tests."""

    @functools.cache
    def save(name: str) -> Saved:
        size_px = 64 if CARDS[name].resizable else 0
        config = EmbedConfig(backbone=name, weights="random:0", size_px=size_px)
        return keep(config, tmp_path_factory.mktemp(name))

    return save


@pytest.fixture(scope="session")
def clip_backbone(saved_backbone: Callable[[str], Saved]) -> Saved:
    return saved_backbone("clip_vit_b32")


@pytest.fixture(scope="session", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, saved_backbone: Callable[[str], Saved], pixel_backbone: Saved) -> Saved:
    """One saved backbone of every family."""
    return pixel_backbone if request.param == "pca_pixels" else saved_backbone(request.param)


@pytest.fixture(scope="session")
def tiny_unicom() -> unicom.Unicom:
    torch.manual_seed(0)
    network = unicom.Unicom(TINY_UNICOM, size_px=32, dim=12).eval().requires_grad_(False)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.02, 0.3) if tensor.ndim == 1 else tensor.normal_(0, 0.2)
    return network
