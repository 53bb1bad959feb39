"""Nights that crop pictures to the product, that name what they show, and that have nothing to find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Backbone, Classifier, ClassSet, Release, Report
from retrieval_core.artifacts.parts import load_classes, put_parts
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.embed.classes import CLASSES_FILE, CLASSIFIER_FILE
from retrieval_core.errors import BadConfig
from retrieval_core.images import thumbnail
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

PRODUCTS, VIEWS = 8, 3
ROWS = PRODUCTS * VIEWS
QUICK = [
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.size_px=16",
    "embed.shard_rows=10",
    "embed.background=raw",
    "head.enabled=false",
    "reduce.dims=[8]",
    "evaluate.queries=6",
    "evaluate.synthetic_queries=4",
    "gate.mode=warn",
]

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """Noise pictures of a few products, their table, and a store."""

    def __init__(self, folder: Path, split: str = "") -> None:
        rng = np.random.default_rng(0)
        rows = ["item_id,image_uri,product_id,split"]
        for number in range(ROWS):
            coarse = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            (folder / f"{number}.jpg").write_bytes(thumbnail(coarse.repeat(16, axis=0).repeat(16, axis=1), 96))
            rows.append(f"item-{number},{number}.jpg,{'' if split else number // VIEWS},{split}")
        (folder / "items.csv").write_text("\n".join(rows) + "\n")
        self.folder = folder
        self.settings = Settings.load(store=str(folder / "store"), threads=1)
        self.store = self.settings.open_store()

    def night(self, *overrides: str) -> RunSummary:
        config = NightlyConfig.load(None, [*QUICK, *overrides])
        return nightly(f"table:{self.folder / 'items.csv'}", self.settings, config)

    def open(self) -> OpenRelease:
        return open_release(self.store, settings=self.settings)

    def picture(self, number: int) -> str:
        return str(self.folder / f"{number}.jpg")


def train_to_classify(store: Store, backbone: Backbone, folder: Path, **changes: object) -> Backbone:
    """A copy of a backbone with a random classifier of three classes on top, as training stores one."""
    shutil.copytree(backbone.local_folder(store), folder, ignore=shutil.ignore_patterns("manifest.json"))
    classifier = {"weight": torch.randn(3, backbone.dim, generator=torch.Generator().manual_seed(4))}
    save_file(classifier | {"bias": torch.zeros(3)}, folder / CLASSIFIER_FILE)
    (folder / CLASSES_FILE).write_text(json.dumps(["coat", "dress", "shoe"]))
    key = f"{Backbone.folder}/{folder.name}"
    parts = put_parts(store, key, {file.name: file for file in folder.iterdir()})
    update = {"fingerprint": folder.name, "parts": parts, "objective": "classify", **changes}
    return backbone.model_copy(update=update).seal(store)


class TestANightThatDetects:
    # Random weights are sure of nothing, so every box will do.
    ASKING = ("embed.background=crop", "crop.detector=ssdlite320", "crop.weights=random:0", "crop.min_score=0")

    @pytest.fixture(scope="class")
    def shop(self, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
        return Shop(tmp_path_factory.mktemp("crop"))

    @pytest.fixture(scope="class")
    def run(self, shop: Shop) -> RunSummary:
        return shop.night(*self.ASKING)

    def test_publishes_crops_and_names_its_detector(self, shop: Shop, run: RunSummary) -> None:
        assert (run.gate, run.masked, run.embedded) == ("published", ROWS, ROWS)
        assert {"crop/recall@1", "pca8/recall@1", "mask_fallback_rate"} <= set(run.metrics)
        assert not any(name.startswith("raw/") for name in run.metrics)
        release = shop.open().release
        assert (str(release.variant), release.segmenter) == ("crop", None)
        assert release.detector is not None
        assert verify(shop.store).ok

    @pytest.mark.usefixtures("run")
    def test_crops_its_queries_as_its_pictures(self, shop: Shop) -> None:
        release = shop.open()
        for number in range(0, ROWS, 5):
            best = release.search(shop.picture(number), k=1)[0]
            assert best.item_id == f"item-{number}"
            assert best.score == pytest.approx(1, abs=1e-4)

    @pytest.mark.usefixtures("run")
    def test_looks_again_only_where_the_answer_may_be_another(self, shop: Shop) -> None:
        again = shop.night(*self.ASKING, "crop.shard_rows=5")
        assert (again.masked, again.embedded) == (0, 0)
        wider = shop.night(*self.ASKING, "crop.margin=0.5")
        assert (wider.masked, wider.embedded) == (0, ROWS), "another margin is another crop of the same boxes"
        whole = shop.night(*self.ASKING, "crop.min_score=0.9")
        assert (whole.masked, whole.metrics["mask_fallback_rate"]) == (ROWS, 1.0)


class TestANightThatClassifies:
    @pytest.fixture(scope="class")
    def shop(self, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
        return Shop(tmp_path_factory.mktemp("classes"))

    @pytest.fixture(scope="class")
    def plain(self, shop: Shop) -> Release:
        """The release of a night that does not classify."""
        return releases.get_release(shop.store, shop.night().release)

    @pytest.fixture(scope="class")
    def asking(self, shop: Shop, plain: Release, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        """What to tell a night so that it classifies."""
        folder = tmp_path_factory.mktemp("trained") / "trained"
        trained = train_to_classify(shop.store, Backbone.open(shop.store, plain.backbone), folder)
        weights = f"classify.weights=artifact:{trained.fingerprint}"
        return ["classify.enabled=true", "classify.backbone=pca_pixels", weights, "classify.top_classes=1"]

    @pytest.fixture(scope="class")
    def run(self, shop: Shop, asking: list[str]) -> RunSummary:
        return shop.night(*asking)

    def test_publishes_classes_and_measures_the_search_among_them(
        self, shop: Shop, plain: Release, run: RunSummary
    ) -> None:
        release = shop.open().release
        assert release.classes is not None
        assert release.classifier is not None
        assert Classifier.open(shop.store, release.classifier).n_classes == 3
        assert (run.gate, run.classified, run.embedded) == ("published", ROWS, 0)
        assert "classified/recall@1" in run.metrics
        assert release.vectors == plain.vectors
        assert verify(shop.store).ok
        assert "in the likeliest class" in Path(run.report).read_text()

    def test_its_metrics_without_the_prefix_are_those_of_any_night(
        self, shop: Shop, plain: Release, run: RunSummary
    ) -> None:
        before = json.loads(shop.store.get(Report.open(shop.store, plain.report).part("metrics.json").key))["metrics"]
        assert {name: value for name, value in run.metrics.items() if not name.startswith("classified/")} == before

    def test_the_same_night_again_does_nothing(self, shop: Shop, asking: list[str], run: RunSummary) -> None:
        again = shop.night(*asking)
        assert (again.release, again.classified) == (run.release, 0)

    @pytest.mark.usefixtures("run")
    def test_a_search_finds_the_picture_s_class_first_and_then_the_others(self, shop: Shop) -> None:
        release = shop.open()
        items = load_items(shop.store, release.release.catalog.name)
        class_set = ClassSet.open(shop.store, release.release.classes)
        classes = load_classes(shop.store, class_set, items["content_id"].to_list())
        likeliest = dict(zip(items["item_id"], classes[:, 0], strict=True))
        assert len(set(likeliest.values())) > 1
        for number in (0, 7, 20):
            hits = release.search(shop.picture(number), ROWS, mode="classified")
            nearest = release.search(shop.picture(number), ROWS)
            own = likeliest[f"item-{number}"]
            expected = sorted(nearest, key=lambda hit: likeliest[hit.item_id] != own)
            assert [hit.item_id for hit in hits] == [hit.item_id for hit in expected]
            assert hits[0].item_id == f"item-{number}"
            few = release.search(shop.picture(number), 2, mode="classified")
            assert [hit.item_id for hit in few] == [hit.item_id for hit in expected[:2]]
            assert [hit.score for hit in few] == pytest.approx([hit.score for hit in expected[:2]], abs=1e-6)

    @pytest.mark.usefixtures("run")
    def test_a_release_without_classes_says_so(self, shop: Shop, plain: Release) -> None:
        old = open_release(shop.store, plain.fingerprint, shop.settings)
        with pytest.raises(BadConfig, match=r"knows no classes .*classify\.enabled=true"):
            old.search(shop.picture(0), mode="classified")
        with pytest.raises(BadConfig, match="nearest or classified"):
            old.search(shop.picture(0), mode="best")

    def test_a_backbone_that_names_no_raw_pictures_is_refused(self, shop: Shop, plain: Release, tmp_path: Path) -> None:
        backbone = Backbone.open(shop.store, plain.backbone)
        masked = train_to_classify(shop.store, backbone, tmp_path / "masked", parents={"masks": "m"})
        asking = ["classify.enabled=true", "classify.backbone=pca_pixels"]
        with pytest.raises(BadConfig, match="without background"):
            shop.night(*asking, f"classify.weights=artifact:{masked.fingerprint}")
        with pytest.raises(BadConfig, match="was trained for nothing"):
            shop.night(*asking, f"classify.weights=artifact:{backbone.fingerprint}")


def test_a_catalogue_of_queries_alone_is_published_and_said_to_be_unmeasured(tmp_path: Path) -> None:
    shop = Shop(tmp_path, split="test")
    run = shop.night("evaluate.queries=100")
    assert run.gate == "published"
    assert run.metrics["ann_recall@10"] == 1.0
    assert not {"recall@1", "raw/recall@1"} & set(run.metrics)
    report = Path(run.report).read_text()
    assert "Not known: every picture is searched with and none is left to be found." in report
    assert "Name a gallery in the source, or lower <code>evaluate.queries</code>" in report
    assert shop.open().search(shop.picture(3), k=1)[0].item_id == "item-3"
