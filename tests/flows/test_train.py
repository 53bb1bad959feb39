"""A backbone trained on the catalogue: trained once, stored by name, and used by a run and a search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.nightly import nightly
from flows.train import (
    train_auto,
    train_captions,
    train_classify,
    train_distill,
    train_head,
    train_rotation,
    train_segmenter,
    train_triplet,
)
from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.manifests import MaskSet
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.embed import networks
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.search.release import Query, open_release
from retrieval_core.settings import Settings
from retrieval_core.train.config import (
    CaptionsTraining,
    ClassifyTraining,
    DistillTraining,
    RecipeConfig,
    RotationTraining,
    TripletTraining,
)
from tests.core.titled_shop import FEW_HELD_OUT, TITLES, TitledShop

QUICK: dict[str, Any] = {"size_px": 32, "max_epochs": 1, "batch_size": 16, "val_fraction": 0.3}
NIGHT = NightlyConfig.load(
    None,
    [
        "embed.weights=artifact:mine",
        "embed.background=raw",
        "head.max_epochs=2",
        "head.min_count=2",
        "reduce.dims=[8]",
        "evaluate.queries=8",
        "evaluate.synthetic_queries=4",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
        "mask.max_epochs=1",
    ],
)


class Shop:
    """A drawn catalogue and a store."""

    def __init__(self, folder: Path, products: int = 12) -> None:
        self.folder = folder
        self.source = f"synthetic:{folder / 'catalog'}?products={products}&views=4&size_px=64"
        cache = folder / "cache"
        self.settings = Settings.load(store=str(folder / "store"), cache_dir=cache, threads=1, device="cpu")
        self.store = self.settings.open_store()

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "catalog" / "images").iterdir())


@pytest.fixture(scope="module")
def trained(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Any]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    return shop, train_triplet(shop.source, shop.settings, "mine", TripletTraining(**QUICK))


def write_nothing(module: Any, size_px: int, path: Path) -> None:
    path.write_bytes(b"")


def test_a_trained_backbone_is_kept_with_its_run_card(trained: tuple[Shop, Any]) -> None:
    shop, summary = trained
    assert (summary.name, summary.objective, summary.trained, summary.epochs) == ("mine", "triplet", True, 1)
    backbone = backbone_names.find_backbone(shop.store, "mine@latest")
    assert backbone.fingerprint == summary.backbone
    assert (backbone.dim, backbone.size_px, backbone.objective) == (128, 32, "triplet")
    assert set(backbone.parents) == {"catalog", "start"}
    assert len(backbone.history) == 1
    card = json.loads((shop.folder / "store" / backbone.part("run_card.json").key).read_text())
    assert card["counts"] == backbone.counts
    assert card["counts"]["train"] + card["counts"]["val"] < card["counts"]["pictures"] == 48
    assert card["config"] == TripletTraining(**QUICK).model_dump(mode="json")
    assert card["metrics"] == summary.metrics == backbone.metrics
    assert card["seconds"]["training"] > 0
    assert not list((shop.settings.cache_dir / "train").iterdir())
    assert not shop.store.exists(f"{backbone.key}/checkpoint/last.ckpt")


def test_the_night_and_a_search_use_it_by_name_and_teach_from_it(
    trained: tuple[Shop, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, summary = trained
    run = nightly(shop.source, shop.settings, NIGHT)
    release = open_release(shop.store, settings=shop.settings)
    assert release.release.backbone.name == summary.backbone
    for path in shop.pictures[::11]:
        best = release.search(path, k=1)[0]
        assert Path(best.image_uri) == path
        assert best.score == pytest.approx(1, abs=1e-3)
    assert "resnet18 trained by triplet" in Path(run.report).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(networks, "export_onnx", write_nothing)
        config = DistillTraining(**QUICK, embedding_dim=0, teacher="production")
        distilled = train_distill(shop.source, shop.settings, "student", config)
    assert {"val_loss", "agreement@5"} <= set(distilled.metrics)
    student = backbone_names.find_backbone(shop.store, "student")
    assert (student.dim, set(student.parents)) == (128, {"catalog", "start", "teacher"})


def test_heads_are_trained_over_its_vectors_and_found_again(trained: tuple[Shop, Any]) -> None:
    shop, _ = trained
    summary = train_head(shop.source, shop.settings, NIGHT)
    assert [head.variant for head in summary.heads] == ["raw"]
    again = train_head(shop.source, shop.settings, NIGHT)
    assert [(head.head, head.trained) for head in again.heads] == [(summary.heads[0].head, False)]


def test_the_same_training_again_only_moves_the_name(trained: tuple[Shop, Any]) -> None:
    shop, before = trained
    again = train_triplet(shop.source, shop.settings, "", TripletTraining(**QUICK))
    assert (again.backbone, again.trained, again.name) == (before.backbone, False, "resnet18-triplet")
    assert backbone_names.find_backbone(shop.store, "resnet18-triplet").fingerprint == before.backbone


def test_a_segmenter_is_trained_and_pictures_are_masked_by_it(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, products=6)
    summary = train_segmenter(shop.source, shop.settings, NIGHT)
    assert (summary.trained, summary.epochs) == (True, 1)
    assert 0 <= summary.metrics["mask_iou"] <= 1
    monkeypatch.setattr(networks, "export_onnx", write_nothing)
    masked = train_rotation(shop.source, shop.settings, "masked", RotationTraining(**QUICK, background="masked"), NIGHT)
    backbone = backbone_names.find_backbone(shop.store, "masked")
    families = {key.split("/")[1] for key in shop.store.list(f"{MaskSet.folder}/")}
    assert backbone.fingerprint == masked.backbone
    assert backbone.parents["masks"] in families


@pytest.mark.usefixtures("prefect_server")
def test_flows_refuse_what_the_source_or_the_store_lacks(tmp_path: Path) -> None:
    shop = Shop(tmp_path, products=4)
    open_source(shop.source).rows()
    (tmp_path / "photos").mkdir()
    for path in shop.pictures:
        shutil.copy(path, tmp_path / "photos")
    source = f"folder:{tmp_path / 'photos'}"
    with pytest.raises(BadConfig, match="has no masks to train a segmenter on"):
        train_segmenter(source, shop.settings)
    with pytest.raises(BadConfig, match="background masked needs masks"):
        train_classify(source, shop.settings, "mine", ClassifyTraining(**QUICK, background="masked"))
    with pytest.raises(BadConfig, match="teacher 'feed' names no vector set"):
        train_distill(source, shop.settings, "mine", DistillTraining(**QUICK, teacher="feed"))


def test_a_recipe_trains_what_suits_the_catalogue(trained: tuple[Shop, Any]) -> None:
    shop, _ = trained
    config = RecipeConfig(backbone="resnet18", weights="random:0", minutes=1e-4)
    summary = train_auto(shop.source, shop.settings, "suited", config)
    assert (summary.objective, summary.name, summary.epochs) == ("margin", "suited", 1)


# Titles


@pytest.fixture(scope="module")
def titled(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> TitledShop:
    return TitledShop(tmp_path_factory.mktemp("titled"))


def test_a_trained_backbone_answers_texts_by_the_text_tower_that_it_started_with(titled: TitledShop) -> None:
    summary = train_captions(
        titled.source, titled.settings, "titled", titled.config(), NightlyConfig(ingest=FEW_HELD_OUT)
    )
    assert summary.objective == "captions"
    assert summary.metrics["text_recall@5"] > summary.metrics["start_text_recall@5"]
    backbone = backbone_names.find_backbone(titled.store, "titled")
    assert (backbone.has_text, backbone.dim, set(backbone.parents)) == (True, 24, {"catalog", "start", "captions"})
    keys = (
        *(f"embed.backbone={titled.backbone}", "embed.weights=artifact:titled", "embed.background=raw"),
        *("ingest.n_holdout=8", "head.enabled=false", "reduce.dims=[8]"),
        *("evaluate.queries=8", "evaluate.synthetic_queries=4"),
    )
    nightly(titled.source, titled.settings, NightlyConfig.load(None, list(keys)))
    release = open_release(titled.store, settings=titled.settings)
    assert release.release.backbone.name == backbone.fingerprint
    for title in TITLES:
        hits = release.search(Query(texts=(title,)), k=5)
        assert [hit.fields["title"] for hit in hits] == [title] * 5


def test_a_recipe_learns_titles_where_the_catalogue_says_nothing_else(
    titled: TitledShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "export_onnx", lambda module, size_px, path: path.write_bytes(b""))
    config = RecipeConfig(backbone=titled.backbone, minutes=1e-4)
    summary = train_auto(titled.source, titled.settings, "suited", config)
    assert summary.objective == "captions"
    with pytest.raises(BadConfig, match=r"no recipe for \d+ pictures"):
        train_auto(titled.source, titled.settings, "none", RecipeConfig(backbone="resnet18", weights="random:0"))


def test_a_backbone_without_texts_is_refused_before_the_source_is_read(titled: TitledShop) -> None:
    with pytest.raises(BadConfig, match="this efficientnet_lite0 embeds no texts"):
        train_captions(titled.source, titled.settings, "none", CaptionsTraining(backbone="efficientnet_lite0"))
