from __future__ import annotations

import pytest

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import backbone_preprocess
from retrieval_core.errors import BadConfig


def test_size_comes_from_the_card_unless_set():
    assert backbone_preprocess(EmbedConfig(backbone="efficientnet_b4")).size_px == 320
    assert backbone_preprocess(EmbedConfig(backbone="efficientnet_b4", size_px=224)).size_px == 224


@pytest.mark.parametrize("name", ["vit_b16", "clip_vit_b32"])
def test_network_of_one_size_refuses_another(name):
    with pytest.raises(BadConfig, match=r"only takes squares of 224 px, got embed.size_px=256"):
        backbone_preprocess(EmbedConfig(backbone=name, size_px=256))


@pytest.mark.parametrize(("framing", "crop"), [("card", "center"), ("center", "center"), ("squash", "squash")])
def test_framing_is_the_card_s_own_unless_set(framing, crop):
    assert backbone_preprocess(EmbedConfig(backbone="resnet18", framing=framing)).crop == crop


def test_interpolation_is_the_card_s():
    assert backbone_preprocess(EmbedConfig(backbone="resnet50_swsl")).interpolation == "bilinear"


def test_size_that_is_no_multiple_of_the_card_s_step_is_refused():
    assert backbone_preprocess(EmbedConfig(backbone="vae_sd_mse", size_px=72)).size_px == 72
    with pytest.raises(BadConfig, match=r"multiple of 8 px, got embed.size_px=100; set it to 0 for 256 px"):
        backbone_preprocess(EmbedConfig(backbone="vae_sd_mse", size_px=100))
