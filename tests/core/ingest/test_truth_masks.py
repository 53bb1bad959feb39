"""The masks of a source are stored; one that cannot be read costs only its item the mask."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Ref
from retrieval_core.config.stages import IngestConfig, MaskConfig
from retrieval_core.images import thumbnail
from retrieval_core.ingest.truth_masks import collect_truth_masks
from retrieval_core.mask.fit import _training_data
from retrieval_core.settings import Settings
from tests.ingesting import ingest_source

N_ITEMS = 12


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Settings, str]:
    """Pictures with masks in a table, a third of them held out."""
    rng = np.random.default_rng(0)
    lines = ["item_id,image_uri,mask_uri,split"]
    for number in range(N_ITEMS):
        for name in (f"{number}.jpg", f"{number}-mask.jpg"):
            pixels = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            (tmp_path / name).write_bytes(thumbnail(pixels, 32))
        lines.append(f"item-{number},{number}.jpg,{number}-mask.jpg,{'query' if number % 3 == 0 else 'train'}")
    (tmp_path / "items.csv").write_text("\n".join(lines))
    return Settings.load(store=str(tmp_path / "store"), threads=1, device="cpu"), f"table:{tmp_path / 'items.csv'}"


def catalogue(settings: Settings, source: str) -> Ref:
    return ingest_source(settings, source, IngestConfig()).catalog


def test_masks_that_cannot_be_read_are_skipped_and_named(
    shop: tuple[Settings, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, source = shop
    (tmp_path / "1-mask.jpg").write_bytes(b"no picture")
    (tmp_path / "3-mask.jpg").write_bytes((tmp_path / "3-mask.jpg").read_bytes()[:100])
    catalog = catalogue(settings, source)
    (tmp_path / "4-mask.jpg").unlink()  # gone since the catalogue was taken

    store = settings.open_store()
    with caplog.at_level(logging.WARNING):
        truth = collect_truth_masks(store, source, catalog)

    assert truth is not None
    assert truth.counts == {"rows": N_ITEMS - 3}
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("3 masks of the source cannot be read")
    assert all(f"{number}-mask.jpg" in message for number in (1, 3, 4))
    train, val = _training_data(store, catalog.name, truth, MaskConfig(size_px=64), IngestConfig())
    held_out, not_readable = {0, 3, 6, 9}, {1, 3, 4}
    assert len(train.pixels) + len(val.pixels) == N_ITEMS - len(held_out | not_readable)
    again = collect_truth_masks(store, source, catalog)
    assert again is not None
    assert again.ref == truth.ref

    (tmp_path / "4-mask.jpg").write_bytes((tmp_path / "5-mask.jpg").read_bytes())
    again = collect_truth_masks(store, source, catalog)
    assert again is not None
    assert again.counts == {"rows": N_ITEMS - 2}


def test_a_source_whose_masks_cannot_be_read_at_all_has_none(shop: tuple[Settings, str], tmp_path: Path) -> None:
    settings, source = shop
    for path in tmp_path.glob("*-mask.jpg"):
        path.write_bytes(b"no picture")
    assert collect_truth_masks(settings.open_store(), source, catalogue(settings, source)) is None
