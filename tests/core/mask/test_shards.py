"""Masks by a segmenter and boxes by a detector are made of missing pictures only, and sealed as one set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA
from retrieval_core.artifacts.manifests import Catalog, MaskSet, Ref, Segmenter, content_id
from retrieval_core.artifacts.parts import put_part, put_part_files, read_masks, table_bytes
from retrieval_core.artifacts.shards import seal_pictures
from retrieval_core.config import CropConfig, IngestConfig, MaskConfig
from retrieval_core.images import RGB, thumbnail
from retrieval_core.mask import shards as module
from retrieval_core.mask.detect import GRID_PX, Box
from retrieval_core.mask.quality import example_iou
from retrieval_core.mask.shards import detect_shard, mask_shard, plan_detections, plan_masks
from retrieval_core.settings import Settings

N_ITEMS = 5
INGEST = IngestConfig()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"), threads=1, device="cpu")


@pytest.fixture
def drawn(shapes, settings: Settings, tmp_path: Path) -> tuple[Ref, dict[str, np.ndarray]]:
    """A catalogue of drawn pictures, of which the last is deleted, and their true masks by content id."""
    data, rows, masks = shapes(N_ITEMS, seed=3), [], {}
    for n, pixels in enumerate(data.pixels):
        path = tmp_path / f"{n}.jpg"
        path.write_bytes(thumbnail(pixels, 64))
        name = content_id(path.read_bytes())
        rows.append({"item_id": f"i{n}", "image_uri": str(path), "content_id": name, "status": "ok"})
        masks[name] = data.masks[n]
    path.unlink()
    store = settings.open_store()
    table = table_bytes(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    part = put_part(store, "catalogs/c/items.parquet", table, N_ITEMS)
    return Catalog(fingerprint="c", parts=(part,)).seal(store).ref, masks


def test_pictures_are_masked_shard_by_shard_and_once(drawn, folder: Path, config: MaskConfig, settings) -> None:
    catalog, truth = drawn
    store, config = settings.open_store(), config.model_copy(update={"shard_rows": 2})
    parts = put_part_files(store, "segmenters/s", lambda local: [copy(folder, local, name) for name in MODEL_FILES])
    segmenter = Segmenter(fingerprint="s", parts=parts, val_iou=1.0).seal(store).ref
    plan = plan_masks(store, catalog, segmenter, config)
    stored = [mask_shard(settings, shard, segmenter, config, INGEST) for shard in plan.split()]
    assert (len(stored), sum(stored)) == (3, N_ITEMS - 1)
    sealed = seal_pictures(store, MaskSet, plan.targets[0].family, catalog)
    assert sealed.counts == {"rows": N_ITEMS - 1}
    masks = read_masks(store, sealed, list(truth))
    found, true = (
        np.stack(list(rows)) for rows in zip(*((m.array(), truth[n]) for n, m in masks.items()), strict=True)
    )
    assert example_iou(found, true).mean() > 0.7
    assert plan_masks(store, catalog, segmenter, config).n_missing == 1


MODEL_FILES = ("weights.safetensors", "model.onnx")


def copy(source: Path, target: Path, name: str) -> None:
    (target / name).write_bytes((source / name).read_bytes())


def test_boxes_are_stored_as_masks(drawn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class LeftHalf:
        def box(self, image: RGB, config: CropConfig) -> Box:
            return Box(0.0, 0.0, 0.5, 1.0)

    monkeypatch.setattr(module, "_detector_engine", lambda settings, detector: LeftHalf())
    catalog, truth = drawn
    store, config, detector = settings.open_store(), CropConfig(detector="ssdlite320"), Ref(kind="Detector", key="d/d")
    plan = plan_detections(store, catalog, detector, config)
    (shard,) = plan.split()
    assert detect_shard(settings, shard, detector, config, INGEST) == N_ITEMS - 1
    masks = read_masks(store, seal_pictures(store, MaskSet, plan.targets[0].family, catalog), list(truth))
    for row in masks.values():
        columns = np.flatnonzero(row.array().any(axis=0))
        assert (columns[0], row.array().shape) == (0, (GRID_PX, GRID_PX))
        assert abs(len(columns) - GRID_PX // 2) <= 1
    assert (
        plan_detections(store, catalog, detector, config.model_copy(update={"min_score": 0.9})).targets != plan.targets
    )
