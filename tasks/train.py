"""Training a backbone on the catalogue's own pictures: checked before anything is read, kept by name."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Backbone, Fitted, MaskSet, Ref, VectorSet
from retrieval_core.artifacts.parts import put_part_file, read_masks
from retrieval_core.config import IngestConfig
from retrieval_core.embed.extract import Picture, SquareLoader
from retrieval_core.errors import WeightsInvalid
from retrieval_core.images import Preprocess
from retrieval_core.settings import Settings
from retrieval_core.train.config import AnyTraining
from retrieval_core.train.inputs import (
    Start,
    find_start,
    load_start,
    teacher_vectors,
    training_fingerprint,
    training_question,
)
from retrieval_core.train.pictures import Prepared, prepare_pictures, training_square
from retrieval_core.train.run_card import (
    RunCard,
    code_revision,
    device_name,
    library_versions,
    save_run_card,
    save_trained,
    trained_backbone,
)
from retrieval_core.train.split import choose_items, split_readable
from tasks.stage import progress, stage

if TYPE_CHECKING:
    from retrieval_core.embed.backbones import LoadedBackbone
    from retrieval_core.train.fit import Row, Trained
    from retrieval_core.train.objectives.base import Objective
    from retrieval_core.train.split import Split

PIXELS_FILE = "pictures.npy"
LAST_FILE = "last.ckpt"
NOT_SCORES = ("epoch", "learning_rate", "seconds")


class Job(NamedTuple):
    """One training: what it learns from, and the name of what it makes."""

    catalog: str
    masks: MaskSet | None
    margin: float
    teacher: VectorSet | None
    start: Start
    config: AnyTraining

    @property
    def parents(self) -> dict[str, str]:
        found = {"catalog": self.catalog, "start": self.start.fingerprint}
        families = {"masks": self.masks, "teacher": self.teacher}
        return found | {role: made.family for role, made in families.items() if made}

    @property
    def fingerprint(self) -> str:
        return training_fingerprint(training_question(self.config, self.margin), self.parents)

    @property
    def checkpoint_key(self) -> str:
        """Where the store keeps the last epoch of an unfinished training, for another machine to go on from."""
        return f"{Backbone.folder}/{self.fingerprint}/checkpoint/{LAST_FILE}"


class Outcome(NamedTuple):
    """A training that came to its end."""

    objective: Objective
    trained: Trained
    counts: dict[str, int]
    seconds: dict[str, float]


@stage("train backbone")
def train_backbone(
    settings: Settings,
    catalog: Ref,
    masks: Ref | None,
    config: AnyTraining,
    name: str,
    ingest: IngestConfig,
    crop_margin: float,
    teacher: Ref | None,
) -> Fitted:
    """The backbone that `config` makes of this catalogue, and `name` pointed at it; one known already is kept.

    `masks` show the pictures as `config.background` says, `crop_margin` wide around a crop; `teacher` is a vector set.
    """
    store = settings.open_store()
    backbone_names.check_name(name)
    job = Job(
        catalog=catalog.name,
        masks=MaskSet.open(store, masks) if masks else None,
        margin=crop_margin,
        teacher=VectorSet.open(store, teacher) if teacher else None,
        start=find_start(store, config),
        config=config,
    )
    known = Backbone.find(store, job.fingerprint)
    scratch = settings.cache_dir / "train" / job.fingerprint
    backbone = known or _train(settings, job, ingest, scratch)
    store.delete(job.checkpoint_key)
    shutil.rmtree(scratch, ignore_errors=True)
    for alias in (releases.LATEST, releases.PRODUCTION):
        backbone_names.point_backbone(store, name, alias, backbone.fingerprint)
    return Fitted(ref=backbone.ref, trained=known is None)


def _train(settings: Settings, job: Job, ingest: IngestConfig, scratch: Path) -> Backbone:
    import torch

    from retrieval_core.train.objectives.base import TrainingData
    from retrieval_core.train.objectives.registry import build_objective

    torch.set_num_threads(settings.n_threads)
    store, config, teacher = settings.open_store(), job.config, job.teacher
    items = choose_items(load_items(store, job.catalog), config)
    start = load_start(store, job.start, config, teacher.dim if teacher else 0)
    guide = teacher_vectors(store, teacher, items["content_id"].to_list()) if teacher else None
    objective = build_objective(config, start.module, TrainingData(items, guide))
    scratch.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    prepared = _prepare(settings, job, items, start.preprocess, ingest, scratch)
    split = split_readable(items, prepared, config)
    seconds = {"pictures": time.perf_counter() - began}
    counts = {
        "pictures": len(items),
        "rejected": len(prepared.rejects),
        "train": len(objective.learnable(split.train)),
        "val": len(objective.learnable(split.val)),
    }
    get_run_logger().info(
        "training %s on %d pictures, validating on %d", config.objective, counts["train"], counts["val"]
    )
    trained = _fit(settings, job, objective, prepared, split, start.preprocess, scratch)
    seconds["training"] = sum(row["seconds"] for row in trained.history)
    return _keep(settings, job, start, Outcome(objective, trained, counts, seconds))


def _prepare(
    settings: Settings, job: Job, items: pl.DataFrame, how: Preprocess, ingest: IngestConfig, scratch: Path
) -> Prepared:
    """The pictures of `items`, decoded once onto the disk, a little larger than they are trained on."""
    store, square = settings.open_store(), training_square(how)
    masks = read_masks(store, job.masks, items["content_id"]) if job.masks else None
    load = SquareLoader(masks, job.config.background, job.margin, square, ingest.max_pixels)
    pictures = [Picture(**row) for row in items.select("content_id", "image_uri", "item_id").iter_rows(named=True)]
    report = progress("pictures for training", len(pictures))
    # The mapping outlives its file, so that nothing is left behind, however this process ends.
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder, PIXELS_FILE)
        prepared = prepare_pictures(pictures, load, square.size_px, path, settings.n_threads, report)
    for reject in prepared.rejects:
        get_run_logger().warning("%s does not train: %s", reject.item_id, reject.reason)
    return prepared


def _fit(
    settings: Settings, job: Job, objective: Objective, prepared: Prepared, split: Split, how: Preprocess, scratch: Path
) -> Trained:
    """The loop, from the last checkpoint that this machine or the store has; every epoch is logged and kept there."""
    from retrieval_core.train.fit import fit

    store, logger, config, last = settings.open_store(), get_run_logger(), job.config, scratch / LAST_FILE
    if not last.exists() and store.exists(job.checkpoint_key):
        part = last.with_suffix(".part")
        shutil.copyfile(store.local_path(job.checkpoint_key), part)
        part.replace(last)
    if last.exists():
        logger.info("going on from its last checkpoint")

    def after_epoch(row: Row) -> None:
        figures = {name: round(value, 4) for name, value in row.items() if name != "epoch"}
        logger.info("epoch %d of %d: %s", row["epoch"], config.max_epochs, figures)
        store.put_file(job.checkpoint_key, last)

    device = settings.torch_device
    try:
        return fit(objective, prepared.pixels, split, how, config, device=device, folder=scratch, on_epoch=after_epoch)
    except WeightsInvalid as error:
        raise WeightsInvalid(f"{error}; the store keeps one as {store.url}/{job.checkpoint_key}") from error


def _keep(settings: Settings, job: Job, start: LoadedBackbone, outcome: Outcome) -> Backbone:
    """Store the trained backbone and its run card, and seal them."""
    store, config, (objective, trained, counts, seconds) = settings.open_store(), job.config, outcome
    backbone = trained_backbone(start, objective, config)
    metrics = {name: value for name, value in trained.metrics.items() if name not in NOT_SCORES}
    card = RunCard(
        objective=config.objective,
        parents=job.parents,
        counts=counts,
        config=config.model_dump(mode="json"),
        metrics=metrics,
        epochs=len(trained.history),
        best_epoch=int(trained.metrics["epoch"]),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        device=device_name(settings.torch_device, settings.n_threads),
        revision=code_revision(),
        libraries=library_versions(),
    )
    with tempfile.TemporaryDirectory() as folder:
        save_trained(backbone, objective, Path(folder))
        save_run_card(card, Path(folder))
        parts = tuple(
            put_part_file(store, f"{Backbone.folder}/{job.fingerprint}/{file.name}", file, 0)
            for file in sorted(Path(folder).iterdir())
        )
    return Backbone(
        fingerprint=job.fingerprint,
        config=training_question(config, job.margin),
        parents=job.parents,
        parts=parts,
        counts=counts,
        card=config.backbone,
        dim=backbone.module.dim,
        size_px=backbone.preprocess.size_px,
        has_text=backbone.has_text,
        objective=config.objective,
        metrics=metrics,
        history=trained.history,
    ).seal(store)
