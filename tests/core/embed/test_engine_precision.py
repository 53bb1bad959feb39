from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval_core.embed import engine as engine_module
from retrieval_core.embed.backbones import read_backbone
from retrieval_core.embed.engine import TorchEngine, check_precision, open_engine
from retrieval_core.errors import BadConfig, ShardCorrupt

openvino = pytest.importorskip("openvino")
needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="the CPU has no bfloat16"
)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1)


@needs_bfloat16
@pytest.mark.parametrize("name", ["mobilenetv3", "vit_tiny"])
def test_bfloat16_is_near_float32_and_no_batch_changes_its_bytes(saved_backbone, name):
    saved = saved_backbone(name)
    pixels = saved.pixels(20)
    worker = open_engine(saved.folder, "cpu", 2, "bfloat16").for_worker()
    with ThreadPoolExecutor(2) as pool:  # both threads make the first call
        together, again = pool.map(worker.embed, [pixels, pixels])
    np.testing.assert_array_equal(together, again)
    assert 1e-6 < 1 - cosines(together, open_engine(saved.folder, "cpu", 2).embed(pixels)).min() < 1e-2
    for n_rows in (1, 8, 5):
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda row, n=n_rows: worker.embed(pixels[row : row + n]), range(0, 20, n_rows)))
        np.testing.assert_array_equal(np.concatenate(parts), together)
    np.testing.assert_array_equal(open_engine(saved.folder, "cpu", 2, "bfloat16").embed(pixels[:9]), together[:9])


@pytest.mark.parametrize("name", ["mobilenetv3", "vit_tiny"])
def test_autocast_is_near_float32_and_returns_float32(saved_backbone, name):
    saved = saved_backbone(name)
    pixels = saved.pixels(6)
    vectors = TorchEngine(read_backbone(saved.folder), "cpu", "bfloat16").embed(pixels)
    exact = TorchEngine(read_backbone(saved.folder), "cpu").embed(pixels)
    assert vectors.dtype == np.float32
    assert 1e-6 < 1 - cosines(vectors, exact).min() < 1e-2


def test_many_threads_share_the_device_s_streams(pixel_backbone):
    engine, pixels = TorchEngine(read_backbone(pixel_backbone.folder), "cpu"), pixel_backbone.pixels(9)
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda _: engine.embed(pixels).tobytes(), range(16)))
    assert set(results) == {engine.embed(pixels).tobytes()}


def test_machine_without_bfloat16_refuses_it_and_takes_float32(pixel_backbone, monkeypatch):
    monkeypatch.setattr(engine_module, "_cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(engine_module, "_cuda_has_bfloat16", lambda: False)
    for device in ("cpu", "cuda"):
        with pytest.raises(BadConfig, match=rf"this machine's {device} does not compute in bfloat16.*to float32"):
            open_engine(pixel_backbone.folder, device, 1, "bfloat16")
    with pytest.raises(BadConfig, match=r"does not compute in bfloat16, which int8 needs"):
        check_precision("cpu", "int8")
    with pytest.raises(BadConfig, match=r"int8 is computed on a CPU, not on cuda; set embed.precision to bfloat16"):
        check_precision("cuda", "int8")
    check_precision("cuda", "float32")
    assert open_engine(pixel_backbone.folder, "cpu", 1).embed(pixel_backbone.pixels(1)).any()


def test_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BadConfig, match=r"bfloat16 or int8 needs OpenVINO.*pip install openvino, or set it to float32"):
        check_precision("cpu", "bfloat16")


@needs_bfloat16
def test_graph_that_openvino_cannot_read_is_refused(pixel_backbone, tmp_path):
    shutil.copytree(pixel_backbone.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ShardCorrupt, match=r"model.onnx cannot be opened by OpenVINO"):
        open_engine(tmp_path, "cpu", 1, "bfloat16").embed(pixel_backbone.pixels(1))
