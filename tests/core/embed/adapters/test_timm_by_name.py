from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.registry import ADAPTERS, CARDS, get_adapter, get_card
from retrieval_core.errors import BadConfig, WeightsInvalid

NAMED = [card for card in CARDS.values() if card.library.startswith("timm") and card.size_px <= 320]
TINY = "timm:test_resnet.r160_in1k"


def published(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published file, with a classifier of 1,000 classes."""
    torch.manual_seed(4)
    return timm.create_model(name.removeprefix("timm:"), pretrained=False).state_dict()


@pytest.mark.parametrize("card", NAMED, ids=lambda card: card.name)
def test_a_card_by_name_is_the_listed_card(card):
    same = {"name", "library", "unused_keys"}  # a listed card may say which keys a file has for training alone
    by_name = get_card(f"timm:{card.model}.{card.tag}")
    assert by_name.model_dump(exclude=same) == card.model_dump(exclude=same)


def test_the_network_is_timm_s_without_its_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = published(TINY)
    save_file(state | {"mask_token": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(type(ADAPTERS["timm_by_name"]), "weights_file", lambda *_: tmp_path / "model.safetensors")
    loaded = load_backbone(EmbedConfig(backbone=TINY))
    reference = timm.create_model(TINY.removeprefix("timm:"), pretrained=False)
    reference.load_state_dict(state)
    reference.reset_classifier(0)
    pixels = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(loaded.module.network(pixels), reference.eval()(pixels))
    assert loaded.card.n_classes == 1000


def test_a_file_that_lacks_a_layer_is_refused(tmp_path: Path):
    state = published(TINY)
    del state["conv1.0.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsInvalid, match=r"missing \(conv1.0.weight\)"):
        load_backbone(EmbedConfig(backbone=TINY, weights=f"file:{tmp_path / 'model.safetensors'}"))


def test_a_classifier_s_width_is_the_one_before_it():
    assert get_card("timm:mobilenetv3_small_050.lamb_in1k").dim == 1024


@pytest.mark.parametrize(
    ("name", "licence", "is_free"),
    [
        ("timm:vit_small_patch16_dinov3.lvd1689m", "dinov3-license", False),
        ("timm:resnet18.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0", False),
        ("timm:resnet18.a1_in1k", "apache-2.0", True),
    ],
)
def test_a_licence_is_timm_s(name: str, licence: str, is_free: bool):
    card = get_card(name)
    assert (card.licence, card.commercial) == (licence, is_free)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet18", r"names no published weights; timm has timm:resnet18.a1_in1k, "),
        ("timm:resnet18.mine", r"names no published weights; timm has timm:resnet18.a1_in1k, "),
        ("timm:resnet19.a1_in1k", r"timm has no network 'resnet19'"),
        ("timm:", r"timm has no network ''"),
    ],
)
def test_a_name_that_means_no_weights_is_refused(name: str, message: str):
    assert get_adapter(name) is ADAPTERS["timm_by_name"]
    with pytest.raises(BadConfig, match=message):
        get_card(name)
