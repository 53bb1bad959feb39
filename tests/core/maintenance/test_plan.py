"""What a run would do, said of the backbone: its licence, and one that is in the store already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.config.stages import EmbedConfig, NightlyConfig
from retrieval_core.embed.backbones import load_backbone, save_backbone
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.plan import Forecast, forecast
from retrieval_core.store.base import Store


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"never decoded")
    return f"folder:{folder}"


def plan(source: str, store: Store, **embed: object) -> Forecast:
    return forecast(source, store, NightlyConfig.model_validate({"embed": embed}))


@pytest.mark.parametrize(
    ("backbone", "line"),
    [
        ("resnet18", "licence    apache-2.0\n"),
        ("resnet50_swsl", "licence    cc-by-nc-4.0, which forbids or limits commercial use\n"),
        ("pca_pixels", "licence    none: fitted on the catalogue's own pictures\n"),
    ],
)
def test_a_plan_says_the_licence(backbone: str, line: str, source: str, local_store: Store) -> None:
    assert line in plan(source, local_store, backbone=backbone).as_text()


def test_a_plan_says_what_the_last_run_chose_to_publish(source: str, local_store: Store) -> None:
    assert "variant    chosen on validation rows\n" in plan(source, local_store).as_text()
    local_store.put("runs/2026-03-01T020000.000+0000.json", b'{"variant": "masked stays"}')
    assert "variant    chosen on validation rows; in the last run masked stays\n" in plan(source, local_store).as_text()
    config = NightlyConfig.model_validate({"index": {"variant": "raw"}})
    assert forecast(source, local_store, config).variant == "raw, as index.variant says"


def test_a_plan_says_the_memory_of_each_stage(source: str, local_store: Store) -> None:
    seen = plan(source, local_store)
    assert seen.stage_bytes.keys() == {"ingest", "mask", "head", "reduce", "index", "evaluate"}
    assert "GB of memory at most, without mapped files: ingest 0.2, mask 1.0, head 0.6" in seen.as_text()


def test_a_plan_knows_the_width_of_a_backbone_in_the_store(source: str, local_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    loaded = load_backbone(EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=8), lambda: pixels)
    module = ImageEmbedder(loaded.card, loaded.module.network, torch.nn.Linear(128, 6))
    save_backbone(loaded._replace(module=module), folder)
    parts = put_parts(local_store, "backbones/f", {file.name: file for file in folder.iterdir()})
    Backbone(fingerprint="f", card="pca_pixels", dim=6, size_px=8, parts=parts).seal(local_store)
    backbone_names.point_backbone(local_store, "tuned", "production", "f")
    seen = plan(source, local_store, backbone="pca_pixels", weights="artifact:tuned")
    assert (seen.backbone, seen.dim) == ("pca_pixels", 6)


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        ({"weights": "artifact:tuned"}, "no backbone 'tuned'"),
        ({"backbone": "vit_b16", "size_px": 256}, "only takes squares of 224 px"),
        ({"backbone": "resnet19"}, "unknown backbone"),
    ],
)
def test_a_plan_refuses_what_the_run_would_refuse(
    embed: dict[str, object], message: str, source: str, local_store: Store
) -> None:
    with pytest.raises(BadConfig, match=message):
        plan(source, local_store, **embed)


def test_a_plan_says_what_detects_and_what_classifies(source: str, local_store: Store) -> None:
    config = {"embed": {"background": "crop"}, "crop": {"detector": "ssdlite320"}, "classify": {"enabled": True}}
    said = forecast(source, local_store, NightlyConfig.model_validate(config)).as_text()
    assert "that ssdlite320 has not seen yet" in said
    assert "that efficientnet_b7 (licence apache-2.0) has not seen yet" in said
    usual = plan(source, local_store)
    assert (usual.detector, usual.classifier) == ("", "")
    assert not {"crop", "classify"} & {line.split()[0] for line in usual.as_text().splitlines()}


def test_a_plan_says_what_the_store_would_keep(source: str, local_store: Store) -> None:
    config = NightlyConfig()
    seen = forecast(source, local_store, config)
    assert seen.keep_bytes == len(b"never decoded")
    assert "keep       at most 13 bytes" in seen.as_text()
    config = NightlyConfig.model_validate({"ingest": {"keep": "none"}})
    assert forecast(source, local_store, config).keep_bytes == 0


def test_a_plan_guesses_no_size_that_a_web_server_has_not_told(tmp_path: Path, local_store: Store) -> None:
    (tmp_path / "items.csv").write_text("item_id,image_uri\na,https://shop.example/a.jpg\n")
    seen = forecast(f"table:{tmp_path / 'items.csv'}", local_store, NightlyConfig())
    assert (seen.to_read, seen.keep_bytes) == (1, None)
    assert "\nkeep " not in seen.as_text()
