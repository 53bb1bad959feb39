from __future__ import annotations

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.errors import WeightsUnavailable

SMALL = 32


def config_of(weights: str, backbone: str = "resnet18", **fields: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | fields)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


def no_internet(*_: object, **__: object) -> None:
    raise OSError("[Errno -2] Name or service not known")


def test_pretrained_without_internet_says_the_way_out(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("the hub retries for a minute"))
    expected = r"timm/resnet18.a1_in1k.*Name or service not known.*embed.weights=file:PATH.*random:0"
    with pytest.raises(WeightsUnavailable, match=expected) as caught:
        load_backbone(config_of("pretrained"))
    assert "\n" not in str(caught.value)


def test_pretrained_in_the_cache_needs_no_internet(monkeypatch, state, tmp_path):
    save_file(state | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    loaded = load_backbone(config_of("pretrained")).module.network.state_dict()
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"])
