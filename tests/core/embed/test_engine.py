from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from retrieval_core.embed.backbones import read_backbone
from retrieval_core.embed.engine import TorchEngine, open_engine
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt, WeightsInvalid


def onnx_engine(saved, threads=1):
    return open_engine(saved.folder, "cpu", threads)


def test_both_engines_give_the_module_s_vectors_at_length_one(backbone):
    pixels = backbone.pixels(5)
    with torch.inference_mode():
        expected = backbone.loaded.module(torch.from_numpy(pixels)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    onnx = onnx_engine(backbone).embed(pixels)
    eager = TorchEngine(read_backbone(backbone.folder), "cpu").embed(pixels)
    assert onnx.shape == (5, backbone.card.dim)
    assert onnx.dtype == eager.dtype == np.float32
    np.testing.assert_allclose(onnx, expected, atol=1e-4)
    np.testing.assert_allclose(eager, expected, atol=1e-4)
    assert np.linalg.norm(onnx[0] - onnx[1]) > 1e-3, "the vectors must tell pictures apart for this to mean anything"


def test_vector_does_not_depend_on_its_neighbours_or_threads(backbone):
    pixels = backbone.pixels(5)
    engine = onnx_engine(backbone, threads=2)
    together = engine.embed(pixels)
    alone = np.concatenate([engine.for_worker().embed(pixels[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert engine.embed(pixels[:0]).shape == (0, backbone.card.dim)


def test_workers_at_the_same_time_get_the_same_bytes(pixel_backbone):
    worker = onnx_engine(pixel_backbone, threads=4).for_worker()
    pixels = pixel_backbone.pixels(9)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: worker.embed(pixels).tobytes(), range(16)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("pixels", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 16, 3)), np.zeros((16, 16, 3))])
def test_other_squares_are_refused(pixel_backbone, pixels):
    with pytest.raises(DimensionMismatch, match=r"expected uint8 \(n, 16, 16, 3\)"):
        onnx_engine(pixel_backbone).embed(pixels)


def test_picture_without_direction_stays_zero(pixel_backbone, tmp_path):
    shutil.copytree(pixel_backbone.folder, tmp_path, dirs_exist_ok=True)
    state = load_file(pixel_backbone.folder / "weights.safetensors")
    save_file(
        state | {"network.components": torch.zeros_like(state["network.components"])}, tmp_path / "weights.safetensors"
    )
    vectors = TorchEngine(read_backbone(tmp_path), "cpu").embed(pixel_backbone.pixels(2))
    assert not vectors.any()


def test_weights_that_give_no_finite_vector_are_refused(pixel_backbone, tmp_path):
    shutil.copytree(pixel_backbone.folder, tmp_path, dirs_exist_ok=True)
    state = load_file(pixel_backbone.folder / "weights.safetensors")
    save_file(
        state | {"network.mean": torch.full_like(state["network.mean"], torch.nan)}, tmp_path / "weights.safetensors"
    )
    with pytest.raises(WeightsInvalid, match="not finite"):
        TorchEngine(read_backbone(tmp_path), "cpu").embed(pixel_backbone.pixels(2))


def test_unknown_device_is_refused(pixel_backbone):
    with pytest.raises(BadConfig, match="unknown device 'tpu'"):
        open_engine(pixel_backbone.folder, "tpu", 1)


def test_damaged_graph_is_refused(pixel_backbone, tmp_path):
    shutil.copytree(pixel_backbone.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ShardCorrupt, match=r"model.onnx cannot be opened"):
        open_engine(tmp_path, "cpu", 1).embed(np.zeros((1, 16, 16, 3), np.uint8))
