from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone, read_backbone, save_backbone
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import WeightsInvalid

SMALL = 32


def config_of(weights: str, backbone: str = "resnet18", **fields: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | fields)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


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
