"""The masker of a run is its segmenter or its detector, opened once, for several threads at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Ref, Segmenter
from retrieval_core.artifacts.parts import put_part_files
from retrieval_core.config.stages import CropConfig, MaskConfig
from retrieval_core.images import RGB
from retrieval_core.mask import masker as module
from retrieval_core.mask.detect import GRID_PX, Box
from retrieval_core.mask.masker import open_masker
from retrieval_core.mask.quality import example_iou
from retrieval_core.settings import Settings

MODEL_FILES = ("weights.safetensors", "model.onnx")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"), threads=3, device="cpu")


def test_a_segmenter_masks_in_several_threads_as_in_one(
    shapes, folder: Path, config: MaskConfig, settings: Settings
) -> None:
    def copy(local: Path) -> None:
        for name in MODEL_FILES:
            (local / name).write_bytes((folder / name).read_bytes())

    store, data = settings.open_store(), shapes(12, seed=3)
    parts = put_part_files(store, "segmenters/s", copy)
    segmenter = Segmenter(fingerprint="s", parts=parts, val_iou=1.0).seal(store).ref
    masker = open_masker(settings, segmenter, config, CropConfig())
    with ThreadPoolExecutor(3) as pool:
        masks = [mask for mask, _ in pool.map(masker, data.pixels)]
    np.testing.assert_array_equal(masks, [masker(pixels)[0] for pixels in data.pixels])
    assert example_iou(np.stack(masks), data.masks).mean() > 0.7
    strict = open_masker(settings, segmenter, config.model_copy(update={"min_area": 0.94}), CropConfig())
    assert strict(data.pixels[0])[1].endswith("below 94%")


def test_a_detector_masks_by_its_box_one_picture_at_a_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    active: list[int] = []
    most_active: list[int] = []

    class LeftHalf:
        def box(self, image: RGB, config: CropConfig) -> Box:
            active.append(1)
            most_active.append(len(active))
            time.sleep(0.002)
            active.pop()
            return Box(0.0, 0.0, 0.5, 1.0)

    monkeypatch.setattr(module, "_detector_engine", lambda settings, detector: LeftHalf())
    masker = open_masker(settings, Ref(kind="Detector", key="detectors/d"), MaskConfig(), CropConfig())
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(masker, [np.zeros((20, 30, 3), np.uint8)] * 12))
    for mask, reason in found:
        columns = np.flatnonzero(mask.any(axis=0))
        assert (mask.shape, columns[0], reason) == ((GRID_PX, GRID_PX), 0, "")
        assert abs(len(columns) - GRID_PX // 2) <= 1
    assert max(most_active) == 1
