from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import backbone_fingerprint, load_backbone
from retrieval_core.embed.hub import hub_path, revision_of
from retrieval_core.errors import WeightsInvalid, WeightsUnavailable
from retrieval_core.store.files import file_sha256

SMALL = 32


def config_of(weights: str, backbone: str = "resnet18", **fields: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | fields)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


def no_internet(*_: object, **__: object) -> None:
    raise OSError("[Errno -2] Name or service not known")


def test_pretrained_without_internet_says_the_way_out(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the hub retries for a minute")
    )
    expected = r"timm/resnet18.a1_in1k.*Name or service not known.*embed.weights=file:PATH.*random:0"
    with pytest.raises(WeightsUnavailable, match=expected) as caught:
        load_backbone(config_of("pretrained"))
    assert "\n" not in str(caught.value)


def test_pretrained_in_the_cache_needs_no_internet(monkeypatch, state, tmp_path):
    save_file(state | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    loaded = load_backbone(config_of("pretrained")).module.network.state_dict()
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"])


def test_a_revision_names_a_commit_of_a_repository(monkeypatch, tmp_path):
    path = tmp_path / "snapshots" / "0123abc" / "model.safetensors"
    seen = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, **options: seen.append(options))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names, **options: seen.append(options) or path)
    assert hub_path("shop/clip@0123abc", ("model.safetensors",)) == path
    assert seen == [{"revision": "0123abc"}] * 2
    assert (revision_of(path), revision_of(tmp_path / "model.safetensors")) == ("0123abc", "")


def test_pretrained_weights_can_be_pinned_by_their_checksum(monkeypatch, state, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(path))
    sha256 = file_sha256(path)
    pinned = config_of("pretrained", sha256=sha256.upper())
    assert load_backbone(pinned).weights_sha256 == sha256
    assert backbone_fingerprint(pinned) == backbone_fingerprint(config_of(f"file:{path}"))
    with pytest.raises(WeightsInvalid, match=f"has sha256 {sha256}, expected 0000"):
        load_backbone(config_of("pretrained", sha256="0" * 64))
