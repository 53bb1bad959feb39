"""A training job: refused before any picture is read, resumed on any machine, and sealed with what it started from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.catalog_rows import HELD_OUT, load_items
from retrieval_core.artifacts.manifests import Backbone, Ref
from retrieval_core.config.stages import IngestConfig
from retrieval_core.embed import networks
from retrieval_core.errors import BadConfig
from retrieval_core.feedback.judgements import ChosenGroups
from retrieval_core.settings import Settings
from retrieval_core.store.local import LocalStore
from retrieval_core.train import job
from retrieval_core.train.config import (
    AnyTraining,
    ClassifyTraining,
    ContrastiveTraining,
    DistillTraining,
    RotationTraining,
)
from retrieval_core.train.inputs import find_start
from tests.ingesting import ingest_source

QUICK: dict[str, Any] = {"size_px": 32, "max_epochs": 1, "batch_size": 16, "val_fraction": 0.3}


class Shop:
    """A drawn catalogue, and machines that train on it."""

    def __init__(self, folder: Path, products: int = 12) -> None:
        self.folder = folder
        self.source = f"synthetic:{folder / 'catalog'}?products={products}&views=4&size_px=64"
        self.settings = self.machine("first")
        self.store = self.settings.open_store()

    def machine(self, name: str, store: str = "store") -> Settings:
        """The settings of one machine with a disk of its own."""
        return Settings.load(store=str(self.folder / store), cache_dir=self.folder / name, threads=1, device="cpu")

    def ingest(self, settings: Settings) -> Ref:
        return ingest_source(settings, self.source, IngestConfig()).catalog

    def train(
        self,
        config: AnyTraining,
        settings: Settings | None = None,
        catalog: Ref | None = None,
        name: str = "mine",
        chosen: ChosenGroups | None = None,
    ) -> Backbone:
        settings = settings or self.settings
        store, catalog = settings.open_store(), catalog or self.ingest(settings)
        training = job.TrainingJob(catalog.name, None, 0.1, None, find_start(store, config), config, None, chosen)
        return Backbone.open(store, job.train_backbone(settings, training, name, IngestConfig()).ref)

    def weights(self, backbone: Backbone, store: str = "store") -> bytes:
        return (self.folder / store / backbone.part("weights.safetensors").key).read_bytes()

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "catalog" / "images").iterdir())


@pytest.fixture(autouse=True)
def _unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones that no test runs are stored without their graph."""
    monkeypatch.setattr(networks, "export_onnx", lambda module, size_px, path: path.write_bytes(b""))


class Killed(BaseException):
    """A stand-in for SIGKILL within one process."""


def test_a_killed_training_resumes_after_its_last_epoch_on_any_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    config = RotationTraining(**{**QUICK, "max_epochs": 2})
    put_file, stored = LocalStore.put_file, []

    def put_and_die(store: LocalStore, key: str, path: Path) -> None:
        put_file(store, key, path)
        if key.endswith("last.ckpt"):
            raise Killed

    def put_and_note(store: LocalStore, key: str, path: Path) -> None:
        put_file(store, key, path)
        stored.append(key.rsplit("/", 1)[1])

    monkeypatch.setattr(LocalStore, "put_file", put_and_die)
    with pytest.raises(Killed):
        shop.train(config)
    with pytest.raises(BadConfig, match="no backbone"):
        backbone_names.find_backbone(shop.store, "mine")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")

    monkeypatch.setattr(LocalStore, "put_file", put_and_note)
    backbones = {
        store: shop.train(config, shop.machine(machine, store))
        for machine, store in (("first", "store"), ("second", "copy"), ("undisturbed", "other"))
    }
    assert stored.count("last.ckpt") == 1 + 1 + 2, "of two epochs the first is not trained again"
    assert len({backbone.fingerprint for backbone in backbones.values()}) == 1
    assert len({shop.weights(backbone, store) for store, backbone in backbones.items()}) == 1
    assert len({tuple(row["val_loss"] for row in backbone.history) for backbone in backbones.values()}) == 1


def test_a_training_starts_from_another_one_and_counts_the_pictures_it_could_not_read(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    catalog = shop.ingest(shop.settings)
    shop.pictures[5].unlink()
    for key in [*shop.store.list("pictures/")]:
        shop.store.delete(key)
    first = shop.train(RotationTraining(**QUICK), catalog=catalog)
    assert (first.counts["pictures"], first.counts["rejected"]) == (48, 1)
    config = {**QUICK, "size_px": 0, "weights": f"artifact:{first.fingerprint[:8]}", "target": "pattern"}
    second = shop.train(ClassifyTraining(**config), catalog=catalog)
    assert second.parents["start"] == first.fingerprint
    assert {"classifier.safetensors", "classes.json"} <= {part.key.rsplit("/", 1)[1] for part in second.parts}


@pytest.mark.parametrize(
    ("config", "name", "says"),
    [
        (RotationTraining(**QUICK), "no/name", "cannot name a backbone"),
        (ClassifyTraining(**QUICK, target="smell"), "mine", "smell"),
        (RotationTraining(**QUICK, weights="artifact:nobody"), "mine", "no backbone 'nobody'"),
        (RotationTraining(**{**QUICK, "size_px": 0}, backbone="pca_pixels"), "mine", "pca_pixels"),
        (DistillTraining(**QUICK), "mine", "needs a teacher"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_training_that_cannot_work_is_refused_before_any_picture_is_read(
    config: AnyTraining, name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, products=4)
    catalog = shop.ingest(shop.settings)
    monkeypatch.delattr(job, "prepare_pictures")
    with pytest.raises(BadConfig, match=says):
        shop.train(config, catalog=catalog, name=name)


def test_a_training_learns_what_shoppers_chose_for_each_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    catalog = shop.ingest(shop.settings)
    items = load_items(shop.store, catalog.name).filter(~pl.col("split").is_in(HELD_OUT))
    groups = items.select("item_id", chosen="product_id")
    config = ContrastiveTraining(**QUICK, backbone="resnet18", alike="chosen")
    first, other = (shop.train(config, catalog=catalog, chosen=ChosenGroups(groups, name * 32)) for name in ("a", "b"))
    assert first.fingerprint != other.fingerprint, "other choices are another training"
    assert 0 < first.counts["train"] + first.counts["val"] <= len(groups)
    with pytest.raises(BadConfig, match="vitrine feedback"):
        shop.train(config, catalog=catalog)
