from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed import hub
from retrieval_core.embed.adapters.open_clip import open_card_tokenizer
from retrieval_core.embed.backbones import backbone_fingerprint, load_backbone, read_backbone, save_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.embed.engine import TorchEngine, open_engine
from retrieval_core.embed.registry import CARDS, get_card
from retrieval_core.embed.text.encoder import embed_texts
from retrieval_core.errors import BadConfig, WeightsInvalid, WeightsUnavailable
from tests.core.open_clip_folder import CUT, MODEL, write_model

TEXTS = ["a red dress", "blue jeans", "word " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("shop-clip"))


def config_of(folder: Path, weights: str = "pretrained") -> EmbedConfig:
    return EmbedConfig(backbone=f"local-dir:{folder}", weights=weights)


def test_card_is_what_the_folder_says(folder):
    card = get_card(f"local-dir:{folder}")
    assert (card.library, card.dim, card.size_px, card.has_text, card.resizable) == ("open_clip", 24, 32, True, False)
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (card.interpolation, card.crop) == ("bilinear", "squash")
    assert card.model_cfg == MODEL


def test_config_that_says_nothing_of_pictures_is_cut_as_clip_is(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    card, clip = get_card(f"local-dir:{tmp_path}"), get_card("clip_vit_b32")
    assert (card.mean, card.std, card.interpolation, card.crop) == (clip.mean, clip.std, "bicubic", "center")


def test_sealed_folder_embeds_as_open_clip_does_without_the_model_s_own(tmp_path):
    source = write_model(tmp_path / "source", {**MODEL, "custom_text": True})
    reference = open_clip.create_model(f"local-dir:{source}").eval()
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    save_backbone(load_backbone(config_of(source)), sealed)
    with torch.inference_mode():
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CUT["mean"], CUT["std"]))
        squares = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        images = reference.encode_image(squares, normalize=True).numpy()
        texts = reference.encode_text(open_clip.get_tokenizer(f"local-dir:{source}")(TEXTS), normalize=True).numpy()
    shutil.rmtree(source)
    np.testing.assert_allclose(open_engine(sealed, "cpu", 1).embed(pixels), images, atol=1e-4)
    np.testing.assert_allclose(TorchEngine(read_backbone(sealed), "cpu").embed(pixels), images, atol=1e-4)
    np.testing.assert_allclose(embed_texts(sealed, TEXTS), texts, atol=1e-5)


def test_weights_are_the_folder_s_a_file_s_or_random(folder, tmp_path):
    ours = load_backbone(config_of(folder)).module.network.state_dict()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in ours.items()}}, tmp_path / "epoch_3.pt")
    tuned = load_backbone(config_of(folder, f"file:{tmp_path / 'epoch_3.pt'}")).module.network.state_dict()
    other = load_backbone(config_of(folder, "random:1")).module.network.state_dict()
    assert all(torch.equal(tensor, tuned[key]) for key, tensor in ours.items())
    assert not torch.equal(ours["visual.proj"], other["visual.proj"])


def test_folder_with_a_torch_file_is_read(folder, tmp_path):
    state = load_backbone(config_of(folder)).module.network.state_dict()
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    assert torch.equal(load_backbone(config_of(tmp_path)).module.network.visual.proj, state["visual.proj"])


def test_folder_of_another_network_s_weights_is_refused_naming_keys(folder, tmp_path):
    deeper = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "layers": 2}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": deeper}))
    shutil.copy(folder / "open_clip_model.safetensors", tmp_path)
    with pytest.raises(WeightsInvalid, match=r"missing \(visual.transformer.resblocks.1."):
        load_backbone(config_of(tmp_path))


def test_folder_without_weights_names_what_it_should_hold(folder, tmp_path):
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    with pytest.raises(WeightsUnavailable, match=r"holds no weights; expected open_clip_model.safetensors or"):
        load_backbone(config_of(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"cannot read .*open_clip_config.json: No such file"),
        ("{", r"open_clip_config.json"),
        ({"preprocess_cfg": CUT}, r"model_cfg: Field required"),
        ({"model_cfg": {"embed_dim": 24, "text_cfg": {}}}, r"vision_cfg: Field required"),
        ({"model_cfg": MODEL, "preprocess_cfg": {"resize_mode": "longest"}}, r"resize_mode.*got 'longest'"),
        (
            {"model_cfg": {**MODEL, "vision_cfg": {"image_size": [32, 48]}}},
            r"of 48 x 32 px; only .* squares",
        ),
    ],
)
def test_config_that_cannot_be_used_is_refused(config, message, tmp_path):
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(BadConfig, match=message):
        get_card(f"local-dir:{tmp_path}")


def test_network_that_open_clip_does_not_know_is_refused(tmp_path):
    odd = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "wings": 2}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": odd}))
    with pytest.raises(BadConfig, match=r"open_clip cannot build local-dir:.*wings"):
        load_backbone(config_of(tmp_path, "random:0"))


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ModuleNotFoundError("No module named 'transformers'"), BadConfig, r"transformers.*pip install transformers"),
        (OSError("no tokenizer.json\nat all"), WeightsUnavailable, r"cannot open the tokenizer of .*no tokenizer.json"),
    ],
)
def test_tokenizer_that_cannot_be_had_is_told(error, expected, message, tmp_path, monkeypatch):
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": "some/tokenizer"}
    card = get_card(f"local-dir:{write_model(tmp_path, {**MODEL, 'text_cfg': text})}")

    def fail(name: str) -> None:
        assert name == f"local-dir:{tmp_path}"
        raise error

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(expected, match=message):
        open_card_tokenizer(card, ())


# The hub


def test_model_in_the_hub_s_cache_needs_no_internet(folder, monkeypatch):
    asked = []

    def cached(repo: str, name: str, revision: str | None) -> str | None:
        asked.append((repo, name))
        return str(folder / name) if (folder / name).exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    loaded = load_backbone(EmbedConfig(backbone="hf-hub:shop/clip"))
    expected = load_backbone(config_of(folder)).module.network.visual.proj
    assert torch.equal(loaded.module.network.visual.proj, expected)
    assert (loaded.card.name, loaded.card.hub_repo) == ("hf-hub:shop/clip", "shop/clip")
    assert asked == [("shop/clip", "open_clip_config.json"), ("shop/clip", "open_clip_model.safetensors")]


def test_model_of_the_hub_without_safetensors_is_fetched_as_the_torch_file(folder, monkeypatch, tmp_path):
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    torch.save(load_backbone(config_of(folder)).module.network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")

    class Session:
        def head(self, url, timeout):
            return None

    def download(repo: str, name: str, revision: str | None) -> str:
        if not (tmp_path / name).exists():
            raise huggingface_hub.errors.EntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_backbone(EmbedConfig(backbone="hf-hub:shop/clip")).card.dim == 24


@pytest.mark.parametrize(
    ("error", "kept", "warned"),
    [
        (None, ["tokenizer.json", "tokenizer_config.json"], False),
        (huggingface_hub.errors.EntryNotFoundError("tokenizer.json"), [], False),
        (huggingface_hub.errors.LocalEntryNotFoundError("tokenizer.json"), [], True),
        (OSError("Name or service not known"), [], True),
    ],
    ids=["published", "not published", "not cached", "no hub"],
)
def test_a_tokenizer_of_the_hub_is_had_with_the_weights_or_told_of(error, kept, warned, tmp_path, monkeypatch, caplog):
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": "shop/tokenizer"}
    folder = write_model(tmp_path / "model", {**MODEL, "text_cfg": text})
    for name, content in (("tokenizer.json", "{}"), ("tokenizer_config.json", '{"pad_token": "<pad>"}')):
        (tmp_path / name).write_text(content)

    def from_hub(repo: str, names: tuple[str, ...]) -> Path:
        if repo == "shop/clip":
            return folder / names[0]
        assert repo == "shop/tokenizer"
        if error:
            raise error
        return tmp_path / names[0]

    monkeypatch.setattr(hub, "hub_path", from_hub)
    loaded = load_backbone(EmbedConfig(backbone="hf-hub:shop/clip"))
    assert [file.name for file in loaded.tokenizer] == kept
    assert ("texts cannot be searched until the tokenizer can be fetched" in caplog.text) is warned


def test_hub_that_cannot_be_reached_says_the_way_out(monkeypatch):
    def no_internet() -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_session", no_internet)
    with pytest.raises(WeightsUnavailable, match=r"hf-hub:shop/clip: Name or service not known; .*local-dir:PATH"):
        get_card("hf-hub:shop/clip")


# Fingerprints


def test_folder_is_named_by_what_lies_in_it(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    before = backbone_fingerprint(config_of(folder))
    assert backbone_fingerprint(config_of(moved)) == before
    write_model(moved, resize_mode="shortest")
    assert backbone_fingerprint(config_of(moved)) != before
    save_file({"other": torch.zeros(1)}, folder.parent / "other")
    shutil.copytree(folder, moved, dirs_exist_ok=True)
    shutil.copy(folder.parent / "other", moved / "open_clip_model.safetensors")
    assert backbone_fingerprint(config_of(moved)) != before
    assert backbone_fingerprint(config_of(moved, "random:0")) == backbone_fingerprint(config_of(folder, "random:0"))


# Models that open_clip lists


@pytest.mark.parametrize(
    "card", [card for card in CARDS.values() if card.library == "open_clip"], ids=lambda card: card.name
)
def test_a_card_is_what_open_clip_says(card: Card):
    fields = {"dim", "size_px", "mean", "std", "interpolation", "crop", "hub_file", "has_text", "resizable"}
    listed = get_card(f"open_clip:{card.model}/{card.tag or 'webli'}")
    assert card.model_dump(include=fields) == listed.model_dump(include=fields)
    assert card.hub_repo == listed.hub_repo or card.hub_repo.startswith("Marqo/")


def test_a_listed_model_may_have_a_file_of_its_own():
    card = get_card("open_clip:ViTamin-S/datacomp1b")
    assert (card.hub_repo, card.hub_file) == ("jienengchen/ViTamin-S", "pytorch_model.bin")


@pytest.mark.parametrize(("tag", "expected"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_a_listed_model_has_the_activation_of_its_weights(tag: str, expected: bool):
    assert get_card(f"open_clip:ViT-B-32/{tag}").model_cfg.get("quick_gelu", False) is expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32", r"it has open_clip:ViT-B-32/openai, "),
        ("open_clip:ViT-B-32/mine", r"it has open_clip:ViT-B-32/openai, "),
        ("open_clip:ViT-C-32/openai", r"open_clip lists no .*list_pretrained"),
    ],
)
def test_a_model_that_open_clip_does_not_list_is_refused(name: str, message: str):
    with pytest.raises(BadConfig, match=message):
        get_card(name)
