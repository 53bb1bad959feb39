from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed import networks
from retrieval_core.embed.backbones import (
    Weights,
    backbone_fingerprint,
    describe,
    load_backbone,
    parse_weights,
    read_backbone,
    save_backbone,
)
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid

SMALL = 32


def config_of(weights: str, backbone: str = "resnet18", **fields: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | fields)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


# Configuration


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("pretrained", "pretrained", ""),
        ("random:0", "random", "0"),
        ("fit:12", "fit", "12"),
        ("file:/a:b/c.pt", "file", "/a:b/c.pt"),
        ("artifact:tuned", "artifact", "tuned"),
    ],
)
def test_weights_are_read(text, kind, value):
    assert parse_weights(text) == Weights(kind=kind, value=value)


@pytest.mark.parametrize(
    "text",
    ["", "Pretrained", "pretrained:x", "random", "random:", "random:-1", "random:x", "random:²", "file:", "hub:a"],
)
def test_weights_that_say_nothing_known_are_refused(text):
    with pytest.raises(BadConfig, match=r"pretrained, random:SEED, file:PATH"):
        parse_weights(text)


def test_licence_that_forbids_commerce_is_told(caplog):
    load_backbone(config_of("random:0", "resnet50_swsl"))
    load_backbone(config_of("random:0", "resnet18"))
    assert caplog.messages == [
        "the weights of resnet50_swsl are under cc-by-nc-4.0, which forbids or limits commercial use"
    ]


@pytest.mark.parametrize(
    ("backbone", "weights", "way_out"),
    [
        ("pca_pixels", "pretrained", "fit:SEED"),
        ("pca_pixels", "random:0", "fit:SEED"),
        ("resnet18", "fit:0", "random:SEED"),
        ("resnet18", "artifact:tuned", "file:PATH"),
    ],
)
def test_weights_a_card_cannot_have_are_refused(backbone, weights, way_out):
    with pytest.raises(BadConfig, match=way_out):
        load_backbone(config_of(weights, backbone))


def test_checksum_without_a_file_is_refused():
    with pytest.raises(BadConfig, match=r"embed.sha256 is for weights pretrained or file:PATH"):
        load_backbone(config_of("random:0", sha256="0" * 64))


# Fingerprints


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"backbone": "resnet18", "weights": "random:0"}, "1abb74855afded187e9e6c7b4912416c"),
        ({"backbone": "pca_pixels", "weights": "fit:0"}, "719952154dd12a85f6d73b4d3d984bf4"),
        ({"backbone": "clip_vit_b32", "weights": "random:0"}, "a33156bab08a6d1ca627583acd4576fd"),
        ({"backbone": "unicom_vit_b32", "weights": "pretrained"}, "678fbdb89649138f980ec7e60b6bb45f"),
        ({"backbone": "vae_sd_mse", "weights": "random:0"}, "8fff08c2c4c8e54a8f080751a38bff94"),
        ({"backbone": "hf-hub:shop/clip", "weights": "pretrained"}, "a6af39caf79f3d419d1d5cb94413575c"),
        (
            {"backbone": "resnet18", "weights": "random:0", "size_px": 160, "framing": "squash"},
            "c3e3d64736438e7c90aec8944e59189a",
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_fingerprints_stay_what_stores_hold(fields, expected):
    assert backbone_fingerprint(EmbedConfig(**fields)) == expected


def test_files_enter_the_fingerprint_by_their_content(tmp_path):
    weights, config = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    weights.write_bytes(b"weights")
    config.write_bytes(b"config")
    assert backbone_fingerprint(config_of(f"file:{weights}", size_px=0)) == "085491cba979706dbd362957c9f9fa9e"
    folder = config_of("pretrained", f"local-dir:{tmp_path}", size_px=0)
    assert backbone_fingerprint(folder) == "b4bb31def2c613fde752685e948479bc"


# The file of weights


def test_checksum_is_checked(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    load_backbone(config_of(f"file:{path}", sha256=right.upper()))
    with pytest.raises(WeightsInvalid, match=rf"has sha256 {right}, expected 0000"):
        load_backbone(config_of(f"file:{path}", sha256="0" * 64))


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_absent_file_is_named(tmp_path, sha256):
    with pytest.raises(WeightsInvalid, match=r"cannot read weights file .*absent.pt: No such file"):
        load_backbone(config_of(f"file:{tmp_path / 'absent.pt'}", sha256=sha256))


# Saving


def test_texts_do_not_meet_vectors_behind_a_projection_of_which_nothing_is_known(clip_backbone, tmp_path):
    assert clip_backbone.loaded.has_text
    state = load_file(clip_backbone.folder / "weights.safetensors")
    path = tmp_path / "projected.safetensors"
    save_file(state | {"projection.weight": torch.eye(512)}, path)
    assert not load_backbone(config_of(f"file:{path}", "clip_vit_b32", size_px=0)).has_text


@pytest.mark.parametrize("has_text", [True, False])
def test_a_saved_backbone_says_whether_texts_meet_its_vectors(has_text, clip_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "export_onnx", lambda module, size_px, path: path.write_bytes(b""))
    loaded = clip_backbone.loaded
    module = ImageEmbedder(loaded.card, loaded.module.network, torch.nn.Linear(512, 512))
    save_backbone(loaded._replace(module=module, has_text=has_text), tmp_path)
    assert describe(tmp_path).has_text is has_text
    assert read_backbone(tmp_path).has_text is has_text


@pytest.mark.parametrize("text", [None, "{}", "no json"])
def test_folder_that_does_not_describe_its_backbone_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "card.json").write_text(text)
    with pytest.raises(ShardCorrupt, match=r"(?s)card.json does not describe a backbone of this version.*run again"):
        describe(tmp_path)


def test_saved_backbone_is_read_as_it_was(backbone):
    again = read_backbone(backbone.folder)
    assert (again.card, again.preprocess) == (backbone.card, backbone.loaded.preprocess)
    state, expected = again.module.state_dict(), backbone.loaded.module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_saved_backbone_is_a_weights_file_of_its_own_card(pixel_backbone, tmp_path):
    weights = pixel_backbone.folder / "weights.safetensors"
    config = EmbedConfig(backbone="pca_pixels", weights=f"file:{weights}", size_px=pixel_backbone.size_px)
    again = load_backbone(config)
    pixels = pixel_backbone.pixels(3)
    save_backbone(again, tmp_path)
    vectors = [open_engine(folder, "cpu", 1).embed(pixels) for folder in (tmp_path, weights.parent)]
    assert np.array_equal(*vectors)


def test_saving_again_writes_the_same_bytes(pixel_backbone, tmp_path):
    save_backbone(pixel_backbone.loaded, tmp_path)
    for name in ("weights.safetensors", "model.onnx", "card.json"):
        assert (tmp_path / name).read_bytes() == (pixel_backbone.folder / name).read_bytes()


def test_saving_prints_nothing_on_stdout(pixel_backbone, tmp_path, capfd):
    save_backbone(pixel_backbone.loaded, tmp_path)
    assert capfd.readouterr().out == ""


def test_saved_weights_hold_both_sides_of_clip(clip_backbone):
    keys = load_file(clip_backbone.folder / "weights.safetensors").keys()
    assert {"network.visual.proj", "network.text_projection", "network.token_embedding.weight"} <= keys
