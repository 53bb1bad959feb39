"""The training loop: Lightning runs the epochs, keeps the best weights and resumes from the last checkpoint.

Importing this module imports torch and Lightning.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.images import Preprocess
from retrieval_core.state_dict import why_refused
from retrieval_core.train.config import Training
from retrieval_core.train.interpolation import average_with_start, network_weights
from retrieval_core.train.objectives.base import Objective
from retrieval_core.train.optimiser import build_optimiser, cosine_factor, set_rates
from retrieval_core.train.pictures import training_view, validation_view
from retrieval_core.train.split import Split

Row = dict[str, float]  # the figures of one epoch
Draw = tuple[int, int]  # a picture's row, and the seed of its random view

log = logging.getLogger(__name__)

LAST = "last.ckpt"
LOG_EVERY_S = 30.0
PLATEAU_FACTOR = 0.1
SEED_STRIDE = 100_003  # difference between the seeds of two epochs


class Trained(NamedTuple):
    """The figures of the best epoch, whose weights the objective has, and of every epoch."""

    metrics: Row
    history: tuple[Row, ...]


def fit(
    objective: Objective,
    pixels: UInt8,
    split: Split,
    preprocess: Preprocess,
    config: Training,
    *,
    device: str,
    folder: Path,
    on_epoch: Callable[[Row], None] | None = None,
) -> Trained:
    """Train an objective on (n, side, side, 3) uint8 pictures, one for each of its items, and keep the best epoch.

    After every epoch a checkpoint is written to `LAST` in `folder`, then `on_epoch` is called with the epoch's figures.
    A killed training resumes from that one file, on any machine, and ends with the same weights as one that ran
    through. The same call gives the same weights on the same kind of CPU and number of threads; the global random state
    is restored. Raises `BadConfig` if there is nothing to learn from or the training diverges, and `WeightsInvalid` for
    a checkpoint that is damaged or holds more than tensors and figures.
    """
    train = objective.learnable(split.train)
    val = objective.watchable(train, split.val)
    if len(train) < 2 or len(val) < 1:
        raise BadConfig(
            f"{len(train)} training and {len(val)} validation pictures can be learned from; at least 2 and 1 are "
            "needed: give more pictures with labels, or another objective"
        )
    initial = network_weights(objective) if config.trained_share < 1 else {}
    loop, last = _Loop(objective, config), folder / LAST
    train_loader = DataLoader(
        _Views(pixels, training_view(preprocess, config.augment, config.light_gain)),
        batch_sampler=_BatchSampler(loop, train, config),
        generator=torch.Generator(),  # a loader may draw at any time, so not from the global generator
    )
    val_loader = DataLoader(
        _Views(pixels, validation_view(preprocess)),
        batch_size=config.batch_size,
        sampler=[(row, 0) for row in val.tolist()],
        generator=torch.Generator(),
    )
    before = _score(objective, val_loader, device) if objective.starts_trained else {}
    _prepare_layers(objective, config)
    objective.to(memory_format=torch.channels_last)  # convolutions train up to twice as fast on a CPU
    with torch.random.fork_rng(), _QuietLightning():
        trainer = lightning.Trainer(
            accelerator="gpu" if device.startswith("cuda") else "cpu",
            devices=1,
            precision="16-mixed" if device.startswith("cuda") else "32-true",
            max_epochs=config.max_epochs,
            callbacks=[_Progress(), _LastCheckpoint(loop, last, on_epoch)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,  # the number of batches may change from epoch to epoch
        )
        trainer.fit(
            loop, train_loader, val_loader, ckpt_path=_checked(last) if last.exists() else None, weights_only=True
        )
    objective.to("cpu").to(memory_format=torch.contiguous_format).eval().load_state_dict(loop.best)
    metrics = {**loop.history[loop.best_epoch], **{f"start_{name}": score for name, score in before.items()}}
    if initial:
        score = partial(_score, objective, val_loader, device)
        share = average_with_start(objective, initial, config.trained_share, lambda: score()[objective.watched])
        metrics = {**metrics, **score(), "trained_share": share}
    objective.finish()
    objective.requires_grad_(False)
    return Trained(metrics, tuple(loop.history))


@torch.no_grad()
def _score(objective: Objective, val_loader: DataLoader[tuple[Tensor, int]], device: str) -> dict[str, float]:
    """Return the scores of an objective on the validation pictures; it is left on the CPU."""
    objective.eval().to(device)
    scored = ((objective.outputs(pixels.to(device)).float().cpu(), rows) for pixels, rows in val_loader)
    outputs, rows = zip(*scored, strict=True)
    objective.to("cpu")
    return objective.score(torch.cat(outputs), torch.cat(rows).numpy())


def _checked(last: Path) -> Path:
    """Return the path of a checkpoint after reading it. Raises `WeightsInvalid`."""
    try:
        with zipfile.ZipFile(last) as archive:
            if damaged := archive.testzip():  # torch does not check this
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        torch.load(last, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds of errors
        raise WeightsInvalid(
            f"checkpoint {last} is damaged or no checkpoint ({why_refused(error)}); "
            "delete it to train from the start, or restore an intact copy"
        ) from error
    return last


def _prepare_layers(objective: Objective, config: Training) -> None:
    """Unfreeze the whole objective, or only the layers on top of the network, as the config says."""
    objective.train().requires_grad_(True)
    if config.trained_layers == "projection":
        objective.embedder.network.eval().requires_grad_(False)  # a frozen batch norm must not update its statistics
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise BadConfig(
            "trained_layers is projection, but the network has no layer on top; set embedding_dim, or train all"
        )


class _Loop(lightning.LightningModule):
    """Adapts an objective to Lightning; keeps the history and the best weights, also in its checkpoints."""

    def __init__(self, objective: Objective, config: Training) -> None:
        super().__init__()
        self.objective, self._config = objective, config
        self.history: list[Row] = []
        self.best: dict[str, Tensor] = {}
        self._sums: dict[str, list[float]] = {}
        self._outputs: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._started = time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimiser = build_optimiser(self.objective, self._config)
        # Half the patience of early stopping, so that a lower learning rate is tried before training stops.
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, self.objective.better, PLATEAU_FACTOR, max(self._config.patience // 2 - 1, 0)
        )
        return optimiser

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()
        self._sums = {}
        torch.manual_seed(self._config.seed + SEED_STRIDE * (self.current_epoch + 1))
        self.objective.begin_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if self._config.schedule == "cosine":
            n_epochs = self.current_epoch + (batch_idx + 0.5) / float(self.trainer.num_training_batches)
            set_rates(self._plateau.optimizer, cosine_factor(n_epochs / self._config.max_epochs))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss, figures = self.objective.loss(*batch)
        for name, value in {"train_loss": float(loss.detach()), **figures}.items():
            self._sums.setdefault(name, []).append(value)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._outputs, self._rows = [], []

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        pixels, rows = batch
        self._outputs.append(self.objective.outputs(pixels).float().cpu())
        self._rows.append(rows.cpu())

    def on_validation_epoch_end(self) -> None:
        outputs, watched = torch.cat(self._outputs), self.objective.watched
        rate = max(group["lr"] for group in self._plateau.optimizer.param_groups)
        row = {"epoch": float(self.current_epoch + 1)}
        row |= {name: sum(values) / len(values) for name, values in self._sums.items()}
        self._require_finite("loss", row["train_loss"])
        self._require_finite("largest output", float(outputs.abs().max()))
        row |= self.objective.score(outputs, torch.cat(self._rows).numpy())
        self._require_finite(watched, row[watched])
        row |= {"learning_rate": rate, "seconds": time.perf_counter() - self._started}
        self.history.append(row)
        if self._config.schedule == "plateau":
            self._plateau.step(row[watched])
        if self.best_epoch == len(self.history) - 1:
            state = self.objective.state_dict()
            self.best = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        self._stop_early()

    @property
    def best_epoch(self) -> int:
        """The index in the history of the best epoch, the first among equals."""
        scores = [row[self.objective.watched] for row in self.history]
        return scores.index(min(scores) if self.objective.better == "min" else max(scores))

    def _stop_early(self) -> None:
        n_worse = len(self.history) - 1 - self.best_epoch
        if self._config.schedule == "plateau" and n_worse >= self._config.patience:
            self.trainer.should_stop = True

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise BadConfig(
                f"training diverged in epoch {self.current_epoch + 1}: its {name} is {value}; "
                f"lower learning_rate, which is {self._config.learning_rate:g}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"history": self.history, "best": self.best, "plateau": self._plateau.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.best = list(checkpoint["history"]), checkpoint["best"]
        self._resumed = checkpoint["plateau"]

    def on_fit_start(self) -> None:
        if state := self.__dict__.pop("_resumed", None):
            self._plateau.load_state_dict(state)
            self._stop_early()


class _BatchSampler(Sampler[list[Draw]]):
    """Yields the objective's batches of the current epoch, which depend on the seed and the epoch alone."""

    def __init__(self, loop: _Loop, rows: Int64, config: Training) -> None:
        self._loop, self._rows, self._config = loop, rows, config
        self._epoch, self._batches = -1, list[list[Draw]]()

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._current_batches())

    def __len__(self) -> int:
        return len(self._current_batches())

    def _current_batches(self) -> list[list[Draw]]:
        if self._epoch != self._loop.current_epoch:
            self._epoch = self._loop.current_epoch
            rng = np.random.default_rng((self._config.seed, self._epoch))
            batches = self._loop.objective.batches(self._rows, self._config.batch_size, rng)
            self._batches = [
                list(zip(batch.tolist(), rng.integers(2**63, size=len(batch)).tolist(), strict=True))
                for batch in batches
            ]
        return self._batches


class _Views(Dataset[tuple[Tensor, int]]):
    """(s, s, 3) uint8 views of prepared pictures, each with its row."""

    def __init__(self, pixels: UInt8, view: Callable[[Tensor], Tensor]) -> None:
        self._pixels, self._view = pixels, view

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        row, seed = draw
        picture = torch.from_numpy(np.array(self._pixels[row])).permute(2, 0, 1)
        # Seed only the CPU's generator: seeding all would also restart the random numbers of a GPU.
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        view = self._view(picture).permute(1, 2, 0).contiguous()
        torch.set_rng_state(before)
        return view, row


class _LastCheckpoint(Checkpoint):
    """Writes the checkpoint that a killed training resumes from, then calls `on_epoch`."""

    def __init__(self, loop: _Loop, path: Path, on_epoch: Callable[[Row], None] | None) -> None:
        self._loop, self._path, self._on_epoch = loop, path, on_epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        part = self._path.with_suffix(".part")  # a kill while writing leaves the previous checkpoint intact
        trainer.save_checkpoint(part)
        part.replace(self._path)
        if self._on_epoch:
            self._on_epoch(self._loop.history[-1])


class _Progress(Callback):
    """Shows how far an epoch is: as a bar if stderr is a terminal, else in the log every `LOG_EVERY_S`."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._label = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        n_batches, self._n_pictures = int(trainer.num_training_batches), 0
        self._began_s = self._logged_s = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=n_batches, desc=self._label, file=sys.stderr, disable=not is_terminal, leave=False)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._bar.update()
        self._n_pictures += len(batch[1])
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s, elapsed_s = now_s, now_s - self._began_s
            done = (batch_idx + 1) / float(trainer.num_training_batches)
            rate, minutes = self._n_pictures / elapsed_s, elapsed_s * (1 / done - 1) / 60
            log.info("%s: %.0f%%, %.1f pictures/s, %.1f minutes left", self._label, 100 * done, rate, minutes)

    def on_train_epoch_end(self, *_: Any) -> None:
        self._bar.close()


class _QuietLightning(warnings.catch_warnings):
    """Silences Lightning's advice about workers and hardware."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
