"""Every kind of network is timed, on pictures that can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Artifact, Backbone, Detector
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.config.stages import CropConfig, EmbedConfig
from retrieval_core.embed.backbones import load_backbone, save_backbone
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.compare.cost import N_TIMED, decode_sample, ms_per_picture
from retrieval_core.images import RGB, thumbnail
from retrieval_core.mask import detect
from retrieval_core.settings import Settings

CROP = CropConfig(detector="ssdlite320", weights="random:0")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"), device="cpu", threads=1)


@pytest.fixture
def images() -> list[RGB]:
    return list(np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8))


def keep(settings: Settings, folder: Path, kind: type[Artifact], **fields: object) -> Artifact:
    """Seal a network whose files lie in `folder`."""
    store = settings.open_store()
    files = sorted(folder.iterdir())
    parts = put_parts(store, f"{kind.folder}/f", {file.name: file for file in files})
    return kind.model_validate({"fingerprint": "f", "parts": parts, **fields}).seal(store)


def test_pictures_that_cannot_be_read_are_skipped(tmp_path: Path, images: list[RGB]) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "good.jpg").write_bytes(thumbnail(images[0], 40))
    items = [{"image_uri": str(tmp_path / name)} for name in ("absent.jpg", "bad.jpg", "good.jpg")]
    source = PictureReader()
    assert [image.shape for image in decode_sample(items, source, 10_000)] == [images[0].shape]
    assert len(decode_sample([items[2]] * 99, source, 10_000)) == N_TIMED
    with pytest.raises(NotFound, match="none of 2 pictures"):
        decode_sample(items[:2], source, 10_000)


def test_a_detector_and_a_backbone_cost_time(tmp_path: Path, settings: Settings, images: list[RGB]) -> None:
    for name in ("detector", "backbone"):
        (tmp_path / name).mkdir()
    detect.save_detector(detect.load_detector(CROP), tmp_path / "detector")
    detector = keep(settings, tmp_path / "detector", Detector, model=CROP.detector)
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    pca = load_backbone(EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16), lambda: pixels)
    save_backbone(pca, tmp_path / "backbone")
    backbone = keep(settings, tmp_path / "backbone", Backbone, card="pca_pixels", dim=128, size_px=16)
    for network in (detector, backbone):
        assert ms_per_picture(settings, network.ref, images, CROP) > 0
