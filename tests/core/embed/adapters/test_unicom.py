from __future__ import annotations

import hashlib
import io

import pytest
import torch
from safetensors.torch import save_file

from retrieval_core import state_dict
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.architectures.unicom import SHAPES, Shape
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.registry import CARDS
from retrieval_core.errors import WeightsInvalid, WeightsUnavailable

TINY = Shape(patch_px=8, width=32, depth=3, n_heads=4)


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SHAPES, "ViT-B/32", TINY)
    card = CARDS["unicom_vit_b32"].model_copy(update={"size_px": 32, "dim": 12})
    monkeypatch.setitem(CARDS, "unicom_vit_b32", card)
    return card.name


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_file_of_mixed_precision_is_read_with_or_without_a_prefix(prefix, tiny_unicom, small_card, tmp_path):
    state = tiny_unicom.state_dict()
    mixed = {prefix + key: tensor.half() if tensor.ndim > 1 else tensor.clone() for key, tensor in state.items()}
    torch.save(mixed, tmp_path / "FP16.pt")
    loaded = load_backbone(EmbedConfig(backbone=small_card, weights=f"file:{tmp_path / 'FP16.pt'}"))
    state = loaded.module.network.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(tensor, mixed[prefix + key].to(tensor.dtype)) for key, tensor in state.items())
    assert (loaded.preprocess.size_px, loaded.preprocess.crop, loaded.preprocess.crop_fraction) == (32, "center", 1.0)


def test_other_size_is_refused_naming_keys(tiny_unicom, small_card, monkeypatch, tmp_path):
    save_file(tiny_unicom.state_dict(), tmp_path / "tiny.safetensors")
    monkeypatch.setitem(SHAPES, "ViT-B/32", TINY._replace(depth=4))
    with pytest.raises(WeightsInvalid, match=r"is not a unicom_vit_b32.*11 missing \(blocks.3.norm1.weight"):
        load_backbone(EmbedConfig(backbone=small_card, weights=f"file:{tmp_path / 'tiny.safetensors'}"))


# The released file


@pytest.fixture
def released(tiny_unicom, small_card, monkeypatch, tmp_path) -> bytes:
    """The bytes of a released file, whose checksum the card names; torch's cache is empty."""
    torch.save(tiny_unicom.state_dict(), tmp_path / "released")
    data = (tmp_path / "released").read_bytes()
    card = CARDS[small_card].model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    monkeypatch.setitem(CARDS, small_card, card)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return data


def test_released_file_is_fetched_once(released, small_card, monkeypatch, tiny_unicom):
    fetched = []

    def fetch(url, path, hash_prefix, progress):
        fetched.append(url)
        with open(path, "wb") as file:
            file.write(released)

    def answer(request, timeout):
        assert request.full_url == CARDS[small_card].url
        return io.BytesIO()

    monkeypatch.setattr(state_dict, "urlopen", answer)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        loaded = load_backbone(EmbedConfig(backbone=small_card))
    assert fetched == ["https://github.com/deepglint/unicom/releases/download/b32/FP16-ViT-B-32.pt"]
    assert torch.equal(loaded.module.network.pos_embed, tiny_unicom.pos_embed)


def test_damaged_copy_of_the_released_file_is_refused(released, small_card, tmp_path):
    path = tmp_path / "cache" / "checkpoints" / "FP16-ViT-B-32.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(released[:-1])
    with pytest.raises(WeightsInvalid, match=rf"{path} has sha256 .*, expected {CARDS[small_card].sha256}"):
        load_backbone(EmbedConfig(backbone=small_card))


def test_released_file_without_internet_says_the_way_out(released, small_card, monkeypatch):
    def no_internet(request, timeout):
        raise OSError("Name or service not known")

    monkeypatch.setattr(state_dict, "urlopen", no_internet)
    expected = r"unicom_vit_b32 \(https://github.com/.*not known; give a copy of its FP16-ViT-B-32.pt as .*file:PATH"
    with pytest.raises(WeightsUnavailable, match=expected):
        load_backbone(EmbedConfig(backbone=small_card))
