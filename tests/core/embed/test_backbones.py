from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA

from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import (
    LoadedBackbone,
    Weights,
    backbone_preprocess,
    describe,
    load_backbone,
    parse_weights,
    read_backbone,
    save_backbone,
)
from retrieval_core.embed.cards import CARDS, get_card
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid, WeightsUnavailable

SMALL = 32
TIMM_CARDS = [card for card in CARDS.values() if card.library == "timm"]


def config_of(weights: str, backbone: str = "resnet18", **others: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | others)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


# Cards


@pytest.mark.parametrize("card", TIMM_CARDS, ids=lambda card: card.name)
def test_card_says_what_timm_says(card):
    with torch.device("meta"):
        network = timm.create_model(f"{card.model}.{card.tag}", num_classes=0)
    data, published = timm.data.resolve_model_data_config(network), network.pretrained_cfg
    assert card.dim == network.head_hidden_size
    assert data["input_size"] == (3, card.size_px, card.size_px)
    assert (data["mean"], data["std"], data["crop_pct"]) == (card.mean, card.std, card.crop_fraction)
    assert (data["interpolation"], data["crop_mode"]) == (card.interpolation, card.crop)
    assert card.n_classes == published["num_classes"]
    assert (f"{published['classifier']}." in card.unused_keys) is (card.n_classes > 0)
    assert (card.hub_repo, card.licence) == (published["hf_hub_id"], published["license"])
    assert card.commercial is ("-nc" not in card.licence)
    assert card.resizable is not published["fixed_input_size"]


def test_clip_card_says_what_open_clip_says():
    card = CARDS["clip_vit_b32"]
    model, published = open_clip.get_model_config(card.model), open_clip.get_pretrained_cfg(card.model, card.tag)
    assert (card.dim, card.size_px) == (model["embed_dim"], model["vision_cfg"]["image_size"])
    assert model["quick_gelu"] is True
    assert (card.mean, card.std) == (published["mean"], published["std"])
    assert (published["interpolation"], published["resize_mode"], card.crop_fraction) == ("bicubic", "shortest", 1.0)
    assert card.hub_repo == published["hf_hub"].rstrip("/")


def test_unknown_backbone_is_told_the_names():
    with pytest.raises(BadConfig, match=r"unknown backbone 'resnet19'.*resnet18.*clip_vit_b32"):
        get_card("resnet19")


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


def test_size_comes_from_the_card_unless_set():
    assert backbone_preprocess(EmbedConfig(backbone="efficientnet_b4")).size_px == 320
    assert backbone_preprocess(EmbedConfig(backbone="efficientnet_b4", size_px=224)).size_px == 224


@pytest.mark.parametrize("name", ["vit_b16", "clip_vit_b32"])
def test_network_of_one_size_refuses_another(name):
    with pytest.raises(BadConfig, match=r"squares of 224 px and no other, got embed.size_px=256"):
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


def test_licence_that_forbids_commerce_is_told(caplog):
    load_backbone(config_of("random:0", "resnet50_swsl"))
    load_backbone(config_of("random:0", "resnet18"))
    assert caplog.messages == [
        "the published weights of resnet50_swsl are under cc-by-nc-4.0, which forbids commercial use"
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
    with pytest.raises(BadConfig, match=r"embed.sha256 is for weights file:PATH"):
        load_backbone(config_of("random:0", sha256="0" * 64))


# Random weights


def test_seed_alone_decides_random_weights(state):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = load_backbone(config_of("random:3")).module.network.state_dict()
    other = load_backbone(config_of("random:4")).module.network.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
    assert not torch.equal(other["conv1.weight"], state["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


# Weights from a file


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
def test_published_file_is_loaded_without_its_classifier(kind, state, tmp_path):
    published = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    published |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(published, path)
    else:
        torch.save({"state_dict": published, "epoch": 3} if kind == "checkpoint" else published, path)
    loaded = load_backbone(config_of(f"file:{path}")).module.network.state_dict()
    assert loaded.keys() == state.keys()
    assert loaded["conv1.weight"].dtype == torch.float32
    assert torch.allclose(loaded["conv1.weight"], state["conv1.weight"], atol=1e-3)


def test_file_may_lack_the_counters_of_batch_norms(state, tmp_path):
    save_file({key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}, tmp_path / "old")
    load_backbone(config_of(f"file:{tmp_path / 'old'}"))


def test_smaller_network_is_refused_naming_missing_keys(state, tmp_path):
    save_file(state, tmp_path / "resnet18.safetensors")
    expected = (
        r"resnet18.safetensors is not a resnet34 \(timm resnet34\): keys \d+ missing \(layer1.2.conv1.weight, .*…\)"
    )
    with pytest.raises(WeightsInvalid, match=expected):
        load_backbone(config_of(f"file:{tmp_path / 'resnet18.safetensors'}", "resnet34"))


def test_other_network_is_refused_naming_unknown_keys(state, tmp_path):
    save_file(state | {"layer9.weight": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsInvalid, match=r"keys 1 unknown \(layer9.weight\)$"):
        load_backbone(config_of(f"file:{tmp_path / 'odd.safetensors'}"))


def test_other_shape_is_refused(state, tmp_path):
    save_file(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.safetensors")
    with pytest.raises(WeightsInvalid, match=r"conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"):
        load_backbone(config_of(f"file:{tmp_path / 'grey.safetensors'}"))


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


def write_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def write_pickled_code(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def write_truncated(path: Path) -> None:
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    "write",
    [
        write_torchscript,
        write_pickled_code,
        write_truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>sign in to download</html>"),
        lambda path: torch.save([torch.zeros(2)], path),
        lambda path: torch.save({"epoch": 3, "state_dict": None}, path),
    ],
    ids=["torchscript", "pickled code", "truncated", "empty", "web page", "list", "no state"],
)
def test_file_that_is_no_state_dict_is_refused(write, tmp_path):
    path = tmp_path / "weights"
    write(path)
    with pytest.raises(WeightsInvalid, match=r"holds no plain tensors|is no state dict"):
        load_backbone(config_of(f"file:{path}"))


# Pretrained weights


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


# The pixel baseline


def test_pixel_pca_gives_the_coordinates_that_scikit_learn_gives():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    module = load_backbone(config_of("fit:0", "pca_pixels", size_px=8), lambda: pixels).module
    rows = pixels.transpose(0, 3, 1, 2).reshape(40, -1) / 255
    expected = PCA(39).fit_transform(rows)
    seen = module(torch.from_numpy(pixels)).numpy()
    assert seen.shape == (40, 128)
    np.testing.assert_allclose(np.abs(seen[:, :39]), np.abs(expected), atol=1e-4)
    assert not seen[:, 39:].any()


def test_pixel_pca_of_more_pictures_than_pixels_is_the_same_pca():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    module = load_backbone(config_of("fit:0", "pca_pixels", size_px=4), lambda: pixels).module
    expected = PCA(48).fit_transform(pixels.transpose(0, 3, 1, 2).reshape(60, -1) / 255)
    np.testing.assert_allclose(np.abs(module(torch.from_numpy(pixels)).numpy()[:, :48]), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_pixel_pca_wants_two_pictures(n):
    with pytest.raises(BadConfig, match=f"at least two, got {n}"):
        load_backbone(config_of("fit:0", "pca_pixels"), lambda: np.zeros((n, SMALL, SMALL, 3), np.uint8))


def test_pixel_pca_without_a_catalogue_is_refused():
    with pytest.raises(BadConfig, match="own pictures; none were given"):
        load_backbone(config_of("fit:0", "pca_pixels"))


# A projection on top


def projected(dim: int = 7) -> LoadedBackbone:
    """The pixel baseline with a linear layer on top, as training leaves a backbone."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    loaded = load_backbone(config_of("fit:0", "pca_pixels", size_px=8), lambda: pixels)
    torch.manual_seed(2)
    module = ImageEmbedder(loaded.card, loaded.module.network, torch.nn.Linear(loaded.card.dim, dim))
    return loaded._replace(module=module)


def test_projection_is_saved_and_read_with_its_backbone(tmp_path):
    loaded = projected()
    save_backbone(loaded, tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    expected = loaded.module(torch.from_numpy(pixels)).numpy()
    again = read_backbone(tmp_path)
    assert (again.card, again.preprocess, again.module.dim) == (loaded.card, loaded.preprocess, 7)
    np.testing.assert_array_equal(again.module(torch.from_numpy(pixels)).numpy(), expected)
    engine = open_engine(tmp_path, "cpu", 1)
    assert (engine.dim, engine.card, engine.preprocess) == (7, loaded.card, loaded.preprocess)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(engine.embed(pixels), expected, atol=1e-5)


def test_saved_projection_is_part_of_its_weights_file(tmp_path):
    loaded = projected()
    save_backbone(loaded, tmp_path)
    again = load_backbone(config_of(f"file:{tmp_path / 'weights.safetensors'}", "pca_pixels", size_px=8))
    assert again.module.dim == 7


def test_projection_of_another_width_is_refused(tmp_path):
    save_backbone(projected(), tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    save_file(state | {"projection.weight": torch.zeros(7, 99)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsInvalid, match=r"projection.weight \(7, 99\).*expected projection.weight \(dim, 128\)"):
        read_backbone(tmp_path)


def test_embedder_learns_when_it_is_asked_to():
    module = ImageEmbedder(
        CARDS["resnet18"], load_backbone(config_of("random:0")).module.network, torch.nn.Linear(512, 4)
    )
    assert not any(parameter.requires_grad for parameter in module.parameters())
    module.requires_grad_(True).train()
    module(torch.zeros(2, SMALL, SMALL, 3, dtype=torch.uint8)).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_texts_do_not_meet_vectors_behind_a_projection(clip_backbone, tmp_path):
    loaded = clip_backbone.loaded
    assert loaded.has_text
    module = ImageEmbedder(loaded.card, loaded.module.network, torch.nn.Linear(512, 4))
    assert not loaded._replace(module=module).has_text


# Saving


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


def test_saved_graph_names_no_path_of_this_machine(backbone):
    graph = (backbone.folder / "model.onnx").read_bytes()
    assert b"site-packages" not in graph
    assert str(Path.cwd()).encode() not in graph


def test_saving_prints_nothing_on_stdout(pixel_backbone, tmp_path, capfd):
    save_backbone(pixel_backbone.loaded, tmp_path)
    assert capfd.readouterr().out == ""


def test_saved_weights_hold_both_sides_of_clip(clip_backbone):
    keys = load_file(clip_backbone.folder / "weights.safetensors").keys()
    assert {"network.visual.proj", "network.text_projection", "network.token_embedding.weight"} <= keys
