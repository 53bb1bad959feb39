"""Classifiers as published and as trained: the right logits, the likeliest classes, and files without a classifier."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone, read_backbone, save_backbone
from retrieval_core.embed.classes import (
    CLASSES_FILE,
    CLASSIFIER_FILE,
    ClassifierEngine,
    classify,
    load_classifier,
    save_classifier,
    top_classes,
)
from retrieval_core.embed.engine import TorchEngine, open_engine
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import CARDS
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid, WeightsUnavailable
from retrieval_core.images import decode, fit

NAMES = ["coat", "dress", "shoe"]


def pixels(n: int, size_px: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def logits_of(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(batch)).numpy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with a projection to 8 dimensions, trained to tell three classes apart, as it is stored."""
    folder = tmp_path_factory.mktemp("trained")
    start = load_backbone(EmbedConfig(backbone="resnet18", weights="random:3", size_px=64))
    torch.manual_seed(0)
    module = ImageEmbedder(start.card, start.module.network, nn.Linear(512, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval_core.embed.networks.export_onnx", lambda *_: None)  # seconds, and nobody runs it
        save_backbone(LoadedBackbone(start.card, start.preprocess, module), folder)
    save_file({"weight": torch.randn(3, 8), "bias": torch.randn(3)}, folder / CLASSIFIER_FILE)
    (folder / CLASSES_FILE).write_text(json.dumps(NAMES))
    return folder


@pytest.fixture(scope="module")
def saved(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(load_classifier(ClassifyConfig(weights="artifact:any"), trained), folder)
    return folder


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3", "efficientnet_b0", "vit_tiny"])
def test_a_published_file_gives_the_whole_network_s_logits(name: str, tmp_path: Path) -> None:
    card = CARDS[name]
    size_px = 64 if card.resizable else card.size_px
    torch.manual_seed(1)
    whole = timm.create_model(f"{card.model}.{card.tag}", pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    config = ClassifyConfig(backbone=name, weights=f"file:{tmp_path / 'model.safetensors'}", size_px=size_px)
    loaded = load_classifier(config)
    batch = pixels(2, size_px)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
    with torch.inference_mode():
        expected = whole((images - mean) / std).numpy()
    assert expected.shape == (2, len(loaded.names)) == (2, 1000)
    np.testing.assert_allclose(logits_of(loaded.backbone.module, batch), expected, atol=1e-4 * np.abs(expected).max())


def test_imagenets_classes_have_their_names() -> None:
    names = load_classifier(ClassifyConfig(backbone="resnet18", weights="random:0", size_px=64)).names
    assert (names[0], names[999]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")


def test_a_trained_classifier_sees_the_embedder_s_vectors(trained: Path) -> None:
    loaded = load_classifier(ClassifyConfig(weights="artifact:any"), trained)
    batch, layer = pixels(3, 64), load_file(trained / CLASSIFIER_FILE)
    weights = f"file:{trained / 'weights.safetensors'}"
    embedder = load_backbone(EmbedConfig(backbone="resnet18", weights=weights, size_px=64)).module
    expected = logits_of(embedder, batch) @ layer["weight"].numpy().T + layer["bias"].numpy()
    assert embedder.dim == 8
    np.testing.assert_allclose(logits_of(loaded.backbone.module, batch), expected, atol=1e-4)
    assert loaded.names == NAMES


def test_a_saved_classifier_gives_the_same_classes_by_both_engines(trained: Path, saved: Path) -> None:
    batch = pixels(5, 64)
    module = load_classifier(ClassifyConfig(weights="artifact:any"), trained).backbone.module
    expected = torch.softmax(torch.from_numpy(logits_of(module, batch)), dim=1).numpy()
    for engine in (open_engine(saved, "cpu", 2), TorchEngine(read_backbone(saved), "cpu")):
        classes, probabilities = ClassifierEngine(engine).for_worker().classify(batch)
        assert (classes.dtype, probabilities.dtype) == (np.int32, np.float32)
        assert np.array_equal(classes[:, :3], np.argsort(-expected, axis=1))
        assert (classes[:, 3:] == -1).all()
        np.testing.assert_allclose(probabilities[:, :3], -np.sort(-expected, axis=1), atol=1e-5)
        assert (probabilities[:, 3:] == 0).all()


@given(st.integers(0, 4), st.integers(1, 9), st.integers(0, 99))
def test_the_likeliest_five_come_first_and_ties_by_the_lower_class(n: int, n_classes: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-3, 4, (n, n_classes)).astype(np.float32)
    classes, probabilities = top_classes(logits)
    assert classes.shape == probabilities.shape == (n, 5)
    for row in range(n):
        order = sorted(range(n_classes), key=lambda name: (-logits[row, name], name))[:5]
        assert classes[row].tolist() == order + [-1] * (5 - len(order))
        shares = np.exp(logits[row]) / np.exp(logits[row]).sum()
        np.testing.assert_allclose(probabilities[row], [*shares[order], *[0] * (5 - len(order))], rtol=1e-5)


def test_pictures_are_classified_in_the_order_asked_without_what_cannot_be_read(saved: Path, tmp_path: Path) -> None:
    asked = []
    for number in range(7):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(out, "PNG")
        data = b"no picture" if number == 3 else out.getvalue()
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        asked.append(Picture(content_id=content_id(data), image_uri=str(path), item_id=str(number)))
    engine, seen = ClassifierEngine(open_engine(saved, "cpu", 1)), []
    done = classify(asked, engine, batch_size=2, threads=2, max_pixels=10_000, on_batch=seen.append)
    readable = [picture for picture in asked if picture.item_id != "3"]
    assert done.content_ids == [picture.content_id for picture in readable]
    squares = [fit(decode(Path(picture.image_uri).read_bytes()), engine.preprocess) for picture in readable]
    classes, probabilities = engine.classify(np.stack(squares))
    assert np.array_equal(done.classes, classes)
    np.testing.assert_allclose(done.probabilities, probabilities, atol=1e-5)
    assert seen == [2, 2, 2, 1]
    assert classify([], engine, 2, 2, 10_000).classes.shape == (0, 5)


class TestWhatCannotBe:
    def test_a_card_without_a_classifier(self) -> None:
        with pytest.raises(BadConfig, match=r"clip_vit_b32 was published without .*efficientnet_b7"):
            load_classifier(ClassifyConfig(backbone="clip_vit_b32"))

    @pytest.mark.parametrize("stripped", [("fc.weight", "fc.bias"), ("fc.bias",)])
    def test_a_file_stripped_of_its_classifier(self, stripped: tuple[str, ...], tmp_path: Path) -> None:
        state = timm.create_model("resnet18", pretrained=False).state_dict()
        save_file({key: state[key] for key in state if key not in stripped}, tmp_path / "stripped.safetensors")
        config = ClassifyConfig(backbone="resnet18", weights=f"file:{tmp_path / 'stripped.safetensors'}")
        with pytest.raises(WeightsInvalid, match=r"without its classifier; expected fc\.weight of \(1000, 512\)"):
            load_classifier(config)

    def test_a_classifier_of_another_number_of_classes(self, tmp_path: Path) -> None:
        save_file(timm.create_model("resnet18", num_classes=7).state_dict(), tmp_path / "seven.safetensors")
        with pytest.raises(WeightsInvalid, match="without its classifier"):
            load_classifier(ClassifyConfig(backbone="resnet18", weights=f"file:{tmp_path / 'seven.safetensors'}"))

    def test_a_way_out_is_named_by_this_stage_s_keys(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(BadConfig, match=r"classify\.weights is pretrained"):
            load_classifier(ClassifyConfig(backbone="resnet18", weights="best"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(WeightsUnavailable, match=r"--set classify\.weights=file:PATH"):
            load_classifier(ClassifyConfig(backbone="resnet18"))

    @pytest.mark.parametrize("damage", ["absent", "other width", "no names"])
    def test_a_damaged_folder(self, damage: str, trained: Path, tmp_path: Path) -> None:
        shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
        if damage == "absent":
            (tmp_path / CLASSIFIER_FILE).unlink()
        elif damage == "other width":
            save_file({"weight": torch.zeros(3, 9), "bias": torch.zeros(3)}, tmp_path / CLASSIFIER_FILE)
        else:
            (tmp_path / CLASSES_FILE).write_text("{")
        with pytest.raises((ShardCorrupt, WeightsInvalid), match=r"classifier|classes"):
            load_classifier(ClassifyConfig(weights="artifact:any"), tmp_path)
