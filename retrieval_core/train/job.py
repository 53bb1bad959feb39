"""One training of a backbone on the pictures of a catalogue: checked before any is read, resumed, sealed, named."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Backbone, Fitted, MaskSet, VectorSet
from retrieval_core.artifacts.parts import put_part_files, read_masks
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.config.stages import IngestConfig
from retrieval_core.embed.extract import SquareLoader
from retrieval_core.errors import WeightsInvalid
from retrieval_core.feedback.judgements import ChosenGroups
from retrieval_core.images import Preprocess
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.train.captions import CaptionTexts, embed_captions
from retrieval_core.train.config import AnyTraining
from retrieval_core.train.inputs import Start, load_start, teacher_vectors, training_fingerprint, training_question
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

if TYPE_CHECKING:
    from retrieval_core.embed.backbones import LoadedBackbone
    from retrieval_core.train.fit import Row, Trained
    from retrieval_core.train.objectives.base import Objective
    from retrieval_core.train.split import Split

log = logging.getLogger(__name__)

PIXELS_FILE = "pictures.npy"
LAST_FILE = "last.ckpt"
NOT_SCORES = ("epoch", "learning_rate", "seconds")


class TrainingJob(NamedTuple):
    """What a training learns from; `masks` show pictures as `config.background` says, with `margin` around a crop.

    `captions` are those of the catalogue's items, and `chosen` what shoppers chose for each other, each None for an
    objective that does not learn from it.
    """

    catalog: str
    masks: MaskSet | None
    margin: float
    teacher: VectorSet | None
    start: Start
    config: AnyTraining
    captions: CaptionTexts | None = None
    chosen: ChosenGroups | None = None

    @property
    def parents(self) -> dict[str, str]:
        """The fingerprints of catalogue, start, captions and choices, and families of masks and teacher, if given."""
        families = {"masks": self.masks, "teacher": self.teacher}
        parents = {"catalog": self.catalog, "start": self.start.fingerprint}
        parents |= {"captions": self.captions.fingerprint} if self.captions else {}
        parents |= {"chosen": self.chosen.fingerprint} if self.chosen else {}
        return parents | {role: made.family for role, made in families.items() if made}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the backbone that it makes."""
        return training_fingerprint(training_question(self.config, self.margin), self.parents)

    @property
    def checkpoint_key(self) -> str:
        """The store key of the last epoch of an unfinished training, from which another machine can resume."""
        return f"{Backbone.folder}/{self.fingerprint}/checkpoint/{LAST_FILE}"


class _Run(NamedTuple):
    """A job on one machine; `scratch` is its local folder."""

    settings: Settings
    job: TrainingJob
    scratch: Path

    @property
    def store(self) -> Store:
        return self.settings.open_store()


class _Outcome(NamedTuple):
    """A finished training."""

    objective: Objective
    trained: Trained
    counts: dict[str, int]
    seconds: dict[str, float]


def train_backbone(settings: Settings, job: TrainingJob, name: str, ingest: IngestConfig) -> Fitted:
    """Return the backbone that a job makes, trained unless the store has it, and point `name` at it.

    Raises `BadConfig` before any picture is read for a bad name and for what the catalogue cannot teach.
    """
    store = settings.open_store()
    backbone_names.check_name(name)
    existing = Backbone.find(store, job.fingerprint)
    scratch = settings.cache_dir / "train" / job.fingerprint
    backbone = existing or _train(_Run(settings, job, scratch), ingest)
    store.delete(job.checkpoint_key)
    shutil.rmtree(scratch, ignore_errors=True)
    for alias in (releases.LATEST, releases.PRODUCTION):
        backbone_names.point_backbone(store, name, alias, backbone.fingerprint)
    return Fitted(ref=backbone.ref, trained=existing is None)


def _train(run: _Run, ingest: IngestConfig) -> Backbone:
    import torch

    from retrieval_core.train.objectives.base import TrainingData
    from retrieval_core.train.objectives.registry import build_objective

    store, config, teacher = run.store, run.job.config, run.job.teacher
    torch.set_num_threads(run.settings.n_threads)
    items = choose_items(load_items(store, run.job.catalog), config)
    if run.job.chosen:
        items = items.join(run.job.chosen.table, on="item_id", how="left", maintain_order="left")
    start = load_start(store, run.job.start, config, teacher.dim if teacher else 0)
    guide = teacher_vectors(store, teacher, items["content_id"].to_list()) if teacher else None
    texts = run.job.captions
    captions = embed_captions(start, texts.of(items), run.settings.torch_device) if texts else None
    objective = build_objective(config, start.module, TrainingData(items, guide, captions))
    run.scratch.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    prepared = _prepare(run, items, start.preprocess, ingest)
    split = split_readable(items, prepared, config)
    seconds = {"pictures": time.perf_counter() - began}
    counts = {
        "pictures": len(items),
        "rejected": len(prepared.rejects),
        "train": len(objective.learnable(split.train)),
        "val": len(objective.learnable(split.val)),
    }
    log.info("training %s on %d pictures, validating on %d", config.objective, counts["train"], counts["val"])
    trained = _fit(run, objective, prepared, split, start.preprocess)
    seconds["training"] = sum(row["seconds"] for row in trained.history)
    return _seal(run, start, _Outcome(objective, trained, counts, seconds))


def _prepare(run: _Run, items: pl.DataFrame, preprocess: Preprocess, ingest: IngestConfig) -> Prepared:
    """Decode the pictures of `items` once onto the disk, a little larger than they are trained on."""
    job, square = run.job, training_square(preprocess)
    masks = read_masks(run.store, job.masks, items["content_id"]) if job.masks else None
    load = SquareLoader(masks, job.config.background, job.margin, square, ingest.max_pixels)
    pictures = PictureReader(run.store).locate(items)
    report = log_progress("pictures for training", len(pictures))
    # The memory map outlives its file, so nothing is left behind however this process ends.
    with tempfile.TemporaryDirectory(dir=run.scratch) as folder:
        path = Path(folder, PIXELS_FILE)
        prepared = prepare_pictures(pictures, load, square.size_px, path, run.settings.n_threads, report)
    for reject in prepared.rejects:
        log.warning("%s does not train: %s", reject.item_id, reject.reason)
    return prepared


def _fit(run: _Run, objective: Objective, prepared: Prepared, split: Split, preprocess: Preprocess) -> Trained:
    """Train, resuming from the last checkpoint of this machine or the store; each epoch is logged and stored."""
    from retrieval_core.train.fit import fit

    store, config, key, last = run.store, run.job.config, run.job.checkpoint_key, run.scratch / LAST_FILE
    if not last.exists() and store.exists(key):
        part = last.with_suffix(".part")
        shutil.copyfile(store.local_path(key), part)
        part.replace(last)
    if last.exists():
        log.info("resuming from its last checkpoint")

    def after_epoch(row: Row) -> None:
        figures = {name: round(value, 4) for name, value in row.items() if name != "epoch"}
        log.info("epoch %d of %d: %s", row["epoch"], config.max_epochs, figures)
        store.put_file(key, last)

    device, folder = run.settings.torch_device, run.scratch
    try:
        return fit(
            objective, prepared.pixels, split, preprocess, config, device=device, folder=folder, on_epoch=after_epoch
        )
    except WeightsInvalid as error:
        raise WeightsInvalid(f"{error}; the store keeps one as {store.url}/{key}") from error


def _seal(run: _Run, start: LoadedBackbone, outcome: _Outcome) -> Backbone:
    """Store the trained backbone and its run card, and seal them."""
    job, config, (objective, trained, counts, seconds) = run.job, run.job.config, outcome
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
        device=device_name(run.settings.torch_device, run.settings.n_threads),
        revision=code_revision(),
        libraries=library_versions(),
    )

    def save(folder: Path) -> None:
        save_trained(backbone, objective, folder)
        save_run_card(card, folder)

    return Backbone(
        fingerprint=job.fingerprint,
        config=training_question(config, job.margin),
        parents=job.parents,
        parts=put_part_files(run.store, f"{Backbone.folder}/{job.fingerprint}", save),
        counts=counts,
        card=config.backbone,
        dim=backbone.module.dim,
        size_px=backbone.preprocess.size_px,
        has_text=backbone.has_text,
        objective=config.objective,
        metrics=metrics,
        history=trained.history,
    ).seal(run.store)
