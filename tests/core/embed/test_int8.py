from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.embed import int8
from retrieval_core.embed.backbones import INT8_FILE
from retrieval_core.embed.engine import open_engine
from retrieval_core.embed.int8 import calibrate
from retrieval_core.errors import BadConfig, ShardCorrupt

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="the CPU has no bfloat16"
)


@pytest.fixture
def resnet(saved_backbone, tmp_path: Path):
    """A copy of a network of convolutions that may be calibrated."""
    saved = saved_backbone("resnet18")
    shutil.copytree(saved.folder, tmp_path, dirs_exist_ok=True)
    return saved._replace(folder=tmp_path)


def test_calibrated_backbone_is_near_float32_and_no_batch_or_thread_changes_its_bytes(resnet):
    pixels = resnet.pixels(12)
    cosine = calibrate(resnet.folder, pixels)
    worker = open_engine(resnet.folder, "cpu", 2, "int8").for_worker()
    vectors, exact = worker.embed(pixels), open_engine(resnet.folder, "cpu", 1).embed(pixels)
    assert np.mean((vectors * exact).sum(axis=1)) == pytest.approx(cosine, abs=1e-6)
    assert 1e-5 < 1 - cosine < 0.02
    assert not np.array_equal(vectors, open_engine(resnet.folder, "cpu", 1, "bfloat16").embed(pixels))
    for n_rows in (1, 8, 5):
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda row, n=n_rows: worker.embed(pixels[row : row + n]), range(0, 12, n_rows)))
        np.testing.assert_array_equal(np.concatenate(parts), vectors)


def test_equal_pictures_give_equal_bytes_and_others_give_others(resnet):
    graphs = []
    for pixels in (resnet.pixels(9), resnet.pixels(9), resnet.pixels(9) // 2):
        calibrate(resnet.folder, pixels)
        graphs.append((resnet.folder / INT8_FILE).read_bytes())
    assert graphs[0] == graphs[1] != graphs[2]


def test_network_whose_vectors_become_others_is_refused(resnet, monkeypatch):
    monkeypatch.setattr(int8, "LEAST_COSINE", 1.1)
    with pytest.raises(
        BadConfig, match=r"mean cosine of [01]\.\d+ from float32 on 4 pictures .* to bfloat16 or float32"
    ):
        calibrate(resnet.folder, resnet.pixels(4))


def test_network_without_convolutions_is_refused(pixel_backbone):
    with pytest.raises(BadConfig, match=r"int8 is for networks of many convolutions, this one has \d; set embed"):
        calibrate(pixel_backbone.folder, pixel_backbone.pixels(4))


def test_backbone_that_was_not_calibrated_has_no_int8(saved_backbone):
    saved = saved_backbone("resnet18")
    with pytest.raises(ShardCorrupt, match=r"model-int8.onnx cannot be opened by OpenVINO"):
        open_engine(saved.folder, "cpu", 1, "int8").embed(saved.pixels(1))
