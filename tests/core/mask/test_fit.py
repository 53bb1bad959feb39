"""A segmenter is fitted once on the source's masks, and reused; a detector is exported once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA
from retrieval_core.artifacts.growing_sets import put_growing_part, seal_view
from retrieval_core.artifacts.manifests import Catalog, Detector, MaskSet, Ref, Release, Segmenter, content_id
from retrieval_core.artifacts.parts import masks_bytes, put_part, table_bytes
from retrieval_core.config.stages import CropConfig, IngestConfig, MaskConfig
from retrieval_core.images import thumbnail
from retrieval_core.mask import fit as module
from retrieval_core.mask.fit import export_detector, fit_segmenter
from retrieval_core.mask.train import ONNX_FILE, WEIGHTS_FILE, SegmentationData, TrainedSegmenter
from retrieval_core.settings import Settings

N_ITEMS, N_MASKS = 6, 4
NOWHERE = Ref(kind="", key="none/none")
CONFIG, INGEST = MaskConfig(size_px=64), IngestConfig()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"), threads=1, device="cpu")


@pytest.fixture
def catalog(settings: Settings, tmp_path: Path) -> Ref:
    """Pictures of which the first is held out."""
    return put_catalog(settings, tmp_path, [None] * N_ITEMS)


def put_catalog(settings: Settings, tmp_path: Path, products: list[str | None]) -> Ref:
    rows = []
    for n in range(N_ITEMS):
        path = tmp_path / f"{n}.jpg"
        path.write_bytes(thumbnail(np.full((40, 30, 3), 30 * n, np.uint8), 40))
        row = {
            "item_id": f"i{n}",
            "image_uri": str(path),
            "mask_id": f"m{n}",
            "status": "ok",
            "product_id": products[n],
        }
        rows.append(row | {"split": "query" if n == 0 else "train", "content_id": content_id(path.read_bytes())})
    table = table_bytes(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    store = settings.open_store()
    part = put_part(store, "catalogs/c/items.parquet", table, N_ITEMS)
    return Catalog(fingerprint="c", parts=(part,)).seal(store).ref


@pytest.fixture
def truth(settings: Settings) -> MaskSet:
    """Masks of the first few items: those of the others could not be read."""
    store, ids = settings.open_store(), [f"m{n}" for n in range(N_MASKS)]
    masks = [np.ones((40, 30), np.bool_)] * N_MASKS
    put_growing_part(store, "masks", "truth", "p", masks_bytes(ids, masks, [""] * N_MASKS), N_MASKS)
    return seal_view(store, MaskSet, "truth", "c", ids)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SegmentationData, SegmentationData]]:
    """Replace the training by a record of what it is given."""
    given: list[tuple[SegmentationData, SegmentationData]] = []

    def train(train: SegmentationData, val: SegmentationData, *_: Any) -> TrainedSegmenter:
        given.append((train, val))
        return TrainedSegmenter({}, 0.9, ({"epoch": 1.0},))

    def save(trained: TrainedSegmenter, config: MaskConfig, folder: Path) -> None:
        for name in (WEIGHTS_FILE, ONNX_FILE):
            (folder / name).write_bytes(name.encode())

    monkeypatch.setattr(module, "train_segmenter", train)
    monkeypatch.setattr(module, "save_segmenter", save)
    return given


def publish(settings: Settings, segmenter: Segmenter) -> None:
    store = settings.open_store()
    release = Release(
        fingerprint="r", config={}, catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE, report=NOWHERE,
        variant="raw", gate="published", segmenter=segmenter.seal(store).ref,
    ).seal(store)  # fmt: skip
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)


def test_of_more_pictures_than_the_bound_the_same_sample_is_read_every_time(
    settings: Settings,
    catalog: Ref,
    truth: MaskSet,
    trainings: list[tuple[SegmentationData, SegmentationData]],
    tmp_path: Path,
) -> None:
    for seed in (0, 0, 3):
        config = CONFIG.model_copy(update={"max_pictures": 2, "seed": seed})
        fitted = fit_segmenter(settings, catalog, truth, config, INGEST)
        assert fitted is not None
        assert sum(Segmenter.open(settings.open_store(), fitted.ref).counts.values()) == 2
        shutil.rmtree(tmp_path / "store" / Segmenter.folder)
    first, again, other = [np.concatenate([data.pixels for data in training]) for training in trainings]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_weights_are_trained_on_or_chosen_by_a_held_out_picture(
    settings: Settings, catalog: Ref, truth: MaskSet, trainings: list[tuple[SegmentationData, SegmentationData]]
) -> None:
    for seed in range(4):
        fit_segmenter(settings, catalog, truth, CONFIG.model_copy(update={"seed": seed}), INGEST)
    for train, val in trainings:
        assert (len(train.pixels), len(val.pixels)) == (2, 1)
        greys = [*train.pixels[:, 0, 0, 0].tolist(), *val.pixels[:, 0, 0, 0].tolist()]
        assert sorted(greys) == pytest.approx([30, 60, 90], abs=2)  # the held-out one is black


def test_of_few_products_with_many_pictures_one_is_validated_on(
    settings: Settings, truth: MaskSet, trainings: list[tuple[SegmentationData, SegmentationData]], tmp_path: Path
) -> None:
    catalog = put_catalog(settings, tmp_path, ["held out", "a", "a", "b", "b", "b"])
    fit_segmenter(settings, catalog, truth, CONFIG, INGEST)
    ((train, val),) = trainings
    assert train.pixels[:, 0, 0, 0].tolist() == pytest.approx([30, 60], abs=2)
    assert val.pixels[:, 0, 0, 0].tolist() == pytest.approx([90], abs=2)


def test_the_pictures_of_a_training_are_on_disk_and_leave_no_file_behind(
    settings: Settings,
    catalog: Ref,
    truth: MaskSet,
    trainings: list[tuple[SegmentationData, SegmentationData]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    fit_segmenter(settings, catalog, truth, CONFIG, INGEST)
    ((train, val),) = trainings
    assert isinstance(train.pixels.base, np.memmap)
    assert isinstance(val.pixels.base, np.memmap)
    assert list(scratch.iterdir()) == []


def test_a_segmenter_is_fitted_once_on_the_masks_that_could_be_read(
    settings: Settings, catalog: Ref, truth: MaskSet, trainings: list[tuple[SegmentationData, SegmentationData]]
) -> None:
    fitted = fit_segmenter(settings, catalog, truth, CONFIG, INGEST)
    assert fitted is not None
    assert fitted.trained
    ((train, val),) = trainings
    assert (train.pixels.shape, val.masks.shape) == ((2, 64, 64, 3), (1, 64, 64))
    assert train.masks.all()
    segmenter = Segmenter.open(settings.open_store(), fitted.ref)
    assert segmenter.counts == {"train": 2, "val": 1}
    assert segmenter.parents == {"catalog": "c", "truth": truth.fingerprint}
    assert {part.key.rsplit("/", 1)[1] for part in segmenter.parts} == {WEIGHTS_FILE, ONNX_FILE}
    again = fit_segmenter(settings, catalog, truth, CONFIG, INGEST)
    assert again is not None
    assert (again.ref, again.trained, len(trainings)) == (fitted.ref, False, 1)


def test_without_masks_of_the_source_production_s_segmenter_serves_however_old(
    settings: Settings, catalog: Ref
) -> None:
    old = Segmenter(fingerprint="old", config={"size_px": 32}, parents={"catalog": "vacuumed"}, val_iou=0.5)
    publish(settings, old)
    fitted = fit_segmenter(settings, catalog, None, CONFIG, INGEST)
    assert fitted is not None
    assert (fitted.ref.name, fitted.trained) == ("old", False)


def test_without_masks_and_without_a_segmenter_there_is_none(
    settings: Settings, catalog: Ref, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit_segmenter(settings, catalog, None, CONFIG, INGEST) is None
    assert "the source has no masks and the store no segmenter" in caplog.text


def test_a_detector_is_exported_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(module.detect, "load_detector", lambda config: loaded.append(config.detector))
    monkeypatch.setattr(
        module.detect, "save_detector", lambda _, folder: (folder / "weights.safetensors").write_bytes(b"w")
    )
    config = CropConfig(detector="ssdlite320", weights="random:0")
    store = settings.open_store()
    detector = export_detector(store, config)
    assert (detector.model, detector.config) == ("ssdlite320", {"weights": "random:0"})
    assert store.get(detector.part("weights.safetensors").key) == b"w"
    assert export_detector(store, config) == Detector.open(store, detector.ref)
    assert loaded == ["ssdlite320"]
