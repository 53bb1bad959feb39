"""Train the shallow multi-task net that boosts vectors: Linear → ReLU → one softmax per attribute, a sigmoid per label.

It learns on frozen embeddings. All tasks share the hidden layer, and what they predict joins the embedding.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.config.stages import HeadConfig
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt
from retrieval_core.head.apply import SCALE, boosted_dim, predict
from retrieval_core.head.scores import best_threshold, example_metrics
from retrieval_core.head.targets import CATEGORY, LABELS, UNKNOWN, Targets

if TYPE_CHECKING:
    import torch

VAL_FRACTION = 0.1
STD_COLUMNS = 64
MIN_EPOCHS = 3  # a large catalogue is learned in so few; with many more, by heart
MIN_STEPS = 200  # a small catalogue takes more epochs
STEPS_PER_EPOCH, MIN_BATCH_SIZE = 16, 16  # of a small catalogue, whose batches are smaller than `batch_size`
WARM_UP = 0.1  # share of the training in which the learning rate rises
# Directions with less than about this share of the average variance are noise, and are not scaled up to full variance.
RIDGE = 0.3
CATEGORY_WEIGHT = 3.0  # among the predicted classes of a boosted vector, where any other task weighs 1


class TrainedHead(NamedTuple):
    """A head for `retrieval_core.head.apply`, its scores on the validation rows, and one history row per epoch.

    `metrics` holds f1_example, accuracy_example, precision_example, recall_example and threshold where there are
    labels, and accuracy/<task> for each single-valued task; `history` epoch, train_loss, val_loss and learning_rate.
    """

    weights: dict[str, Float32]
    dim: int
    metrics: dict[str, float]
    history: tuple[dict[str, float], ...]


class _Length(NamedTuple):
    """How long a head is trained on `n_rows`, and in batches of how many rows."""

    epochs: int
    batch_size: int
    steps_per_epoch: int


def _length(n_rows: int, config: HeadConfig) -> _Length:
    batch_size = min(config.batch_size, max(n_rows // STEPS_PER_EPOCH, MIN_BATCH_SIZE))
    steps_per_epoch = -(-n_rows // batch_size)
    epochs = min(config.max_epochs, max(MIN_EPOCHS, -(-MIN_STEPS // steps_per_epoch)))
    return _Length(epochs, batch_size, steps_per_epoch)


class _Rows(NamedTuple):
    """Whitened inputs and their targets on the training device."""

    inputs: torch.Tensor
    single: dict[str, torch.Tensor]
    multi: torch.Tensor | None

    def take(self, rows: torch.Tensor) -> _Rows:
        single = {name: codes[rows] for name, codes in self.single.items()}
        return _Rows(self.inputs[rows], single, None if self.multi is None else self.multi[rows])


def train_head(
    vectors: Float32,
    targets: Targets,
    val_rows: Bool,
    config: HeadConfig,
    *,
    device: str = "cpu",
) -> TrainedHead:
    """Fit a head to embeddings (n, d) float32 and their targets; `val_rows` (n,) bool are only validated on.

    AdamW minimises the mean loss of all properties: every attribute is one, and the labels are together as many as a
    labelled picture has on average. The learning rate rises, then falls to 0 along a cosine (Loshchilov & Hutter,
    2017), over as many epochs as make 200 steps, within 3 and `config.max_epochs`. Training stops `config.patience`
    epochs after the best epoch, whose weights are kept. Pictures without a target are ignored. When `val_rows` marks no
    picture with a target, a tenth is held out by `config.seed`; with fewer than ten pictures the training rows are
    validated on. The same call gives the same weights, and the global random state is not changed.

    Raises `BadConfig` when there is nothing to learn from, `DimensionMismatch` when the rows do not match,
    `ShardCorrupt` for vectors that are not finite.
    """
    _check(vectors, targets, val_rows)
    vectors = vectors.astype(np.float32, copy=False)
    train, val = _split(targets.known(), val_rows, config.seed)
    mean, std = _standardisation(vectors[train])
    standardised = vectors - mean
    standardised /= std
    mixing = _decorrelation(standardised[train])
    inputs: Float32 = np.matmul(standardised, mixing)
    del standardised
    learned = _to_device(inputs[train], targets.take(train), device)
    watched = _to_device(inputs[val], targets.take(val), device)
    net, history = _fit(learned, watched, targets, config)
    weights = {"mean": mean, "std": std, **_export(net, targets)}
    weights["hidden.weight"] = weights["hidden.weight"] @ mixing.T
    if config.boosting == "classes":
        weights |= class_scales(list(targets.tasks), config.classes_weight)
    metrics = _validate(predict(weights, vectors[val]), targets.take(val))
    return TrainedHead(weights, boosted_dim(weights), metrics, history)


def class_scales(tasks: list[str], classes_weight: float) -> dict[str, Float32]:
    """Return the length of each task's part of a boosted vector, the root of its weight, as `boost` reads it."""
    weights = {task: CATEGORY_WEIGHT if task == CATEGORY else 1.0 for task in tasks}
    factor = classes_weight / sum(weights.values())
    return {SCALE + task: np.array([math.sqrt(factor * weight)], np.float32) for task, weight in weights.items()}


def _check(vectors: Float32, targets: Targets, val_rows: Bool) -> None:
    if not targets.tasks:
        raise BadConfig(
            "no attribute or label to train a head on: the catalogue names too few, or each fewer than head.min_count "
            "times; add labels, lower head.min_count, or set head.enabled=false"
        )
    for name, classes in targets.tasks.items():
        if name != LABELS and len(classes) < 2:
            raise BadConfig(f"task {name!r} has {len(classes)} class, two or more are needed; leave it out")
    lengths = {len(codes) for codes in targets.single.values()} | {len(val_rows)}
    if targets.multi is not None:
        lengths.add(len(targets.multi))
    if vectors.ndim != 2 or lengths != {len(vectors)}:
        raise DimensionMismatch(f"vectors of shape {vectors.shape} for {sorted(lengths)} rows of targets and val_rows")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ShardCorrupt(
            f"{len(bad)} of {len(vectors)} vectors hold NaN or infinity, the first in row {bad[0]}; "
            "remove their part and embed again"
        )


def _split(known: Bool, val_rows: Bool, seed: int) -> tuple[Int64, Int64]:
    train, val = np.flatnonzero(known & ~val_rows), np.flatnonzero(known & val_rows)
    if len(train) == 0:
        raise BadConfig("every picture with a target is a validation row; leave some to train the head on")
    if len(val) == 0:
        shuffled = np.random.default_rng(seed).permutation(train)
        n_val = int(len(train) * VAL_FRACTION)
        train, val = np.sort(shuffled[n_val:]), np.sort(shuffled[:n_val])
    return train, val if len(val) else train


def _standardisation(vectors: Float32) -> tuple[Float32, Float32]:
    mean = vectors.mean(axis=0, dtype=np.float64)
    # By columns, because numpy squares the differences in float64; the sums are the same to the last bit.
    blocks = np.array_split(vectors, -(-vectors.shape[1] // STD_COLUMNS), axis=1)
    std = np.concatenate([block.std(axis=0, dtype=np.float64) for block in blocks])
    # A dimension that varies by rounding only counts as constant: scaled up, its noise would dominate the input.
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


def _decorrelation(standardised: Float32) -> Float32:
    """Return the (d, d) symmetric matrix that makes the inputs nearly uncorrelated: ridge-regularised ZCA whitening.

    The strongest directions of an embedding (brightness, framing) rarely tell labels apart, but would dominate the
    first layer for as many epochs as a small catalogue takes to overfit. A matrix before a linear layer can be
    multiplied into it, so the head stays Linear → ReLU on standardised inputs.
    """
    covariance = np.matmul(standardised.T, standardised) / len(standardised)
    variances, directions = np.linalg.eigh(covariance.astype(np.float64))
    variances = variances.clip(min=0.0)
    if not variances.any():
        return np.eye(len(variances), dtype=np.float32)
    scale = 1 / np.sqrt(variances + RIDGE * variances.mean())
    scale /= np.sqrt(np.mean(variances * scale**2))  # inputs of variance 1 on average
    return ((directions * scale) @ directions.T).astype(np.float32)


def _to_device(inputs: Float32, targets: Targets, device: str) -> _Rows:
    import torch

    single = {name: torch.from_numpy(codes).to(device) for name, codes in targets.single.items()}
    multi = None if targets.multi is None else torch.from_numpy(targets.multi).to(device)
    return _Rows(torch.from_numpy(inputs).to(device), single, multi)


def _fit(
    train: _Rows, val: _Rows, targets: Targets, config: HeadConfig
) -> tuple[torch.nn.Sequential, tuple[dict[str, float], ...]]:
    import torch
    from tqdm import tqdm

    loss_of = _Loss(targets, train)
    length = _length(len(train.inputs), config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        net = _build(train.inputs.shape[1], targets, config).to(train.inputs.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        n_steps = length.epochs * length.steps_per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / n_steps))
        history: list[dict[str, float]] = []
        best_loss, best_epoch, best_state = float("inf"), 0, copy.deepcopy(net.state_dict())
        for epoch in tqdm(
            range(1, length.epochs + 1), "epochs of the head", disable=not sys.stderr.isatty(), leave=False
        ):
            train_loss, learning_rate = _train_epoch(net, schedule, loss_of, train, length.batch_size)
            net.eval()
            with torch.inference_mode():
                val_loss = float(loss_of(net, val))
            history.append(
                {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "learning_rate": learning_rate}
            )
            if val_loss < best_loss:
                best_loss, best_epoch, best_state = val_loss, epoch, copy.deepcopy(net.state_dict())
            if epoch - best_epoch >= config.patience:
                break
    if best_epoch == 0:
        raise BadConfig(f"the head diverged at once; lower head.learning_rate, now {config.learning_rate}")
    net.load_state_dict(best_state)
    return net, tuple(history)


def _rate(progress: float) -> float:
    """Return the share of the highest learning rate after a share of all steps, each in 0 to 1."""
    return min((progress + 0.001) / WARM_UP, 1.0) * (1 + math.cos(math.pi * progress)) / 2


def _build(input_dim: int, targets: Targets, config: HeadConfig) -> torch.nn.Sequential:
    """Build the net; one output layer holds the classes of all tasks side by side, in the order of `targets.tasks`."""
    from torch import nn

    hidden_dim = config.hidden_dim or input_dim
    n_outputs = sum(len(classes) for classes in targets.tasks.values())
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(hidden_dim, n_outputs)
    )


def _task_slices(targets: Targets) -> Iterator[tuple[str, slice]]:
    start = 0
    for name, classes in targets.tasks.items():
        yield name, slice(start, start + len(classes))
        start += len(classes)


def _train_epoch(
    net: torch.nn.Sequential,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss_of: _Loss,
    train: _Rows,
    batch_size: int,
) -> tuple[float, float]:
    """Take one step for each batch of the rows; return the mean loss and the last learning rate."""
    import torch

    net.train()
    total = 0.0
    for rows in torch.randperm(len(train.inputs)).split(batch_size):
        loss = loss_of(net, train.take(rows.to(train.inputs.device)))
        schedule.optimizer.zero_grad()
        loss.backward()
        schedule.optimizer.step()
        learning_rate = float(schedule.get_last_lr()[0])
        schedule.step()
        total += float(loss.detach()) * len(rows)
    return total / len(train.inputs), learning_rate


class _Loss:
    """The mean loss of the properties with a target among some rows, given a net and the rows.

    All labels together count as the number of properties that `train` has labels on average: with one vote for each
    label, hundreds of words would outvote the attributes, and with one for all of them, a single attribute that cannot
    be learned would weigh as much.
    """

    def __init__(self, targets: Targets, train: _Rows) -> None:
        self._columns = dict(_task_slices(targets))
        self._label_weight = 0.0
        if train.multi is not None:
            self._label_weight = max(float(train.multi.nansum() / (~train.multi.isnan().any(dim=1)).sum().clamp(1)), 1)

    def __call__(self, net: torch.nn.Sequential, rows: _Rows) -> torch.Tensor:
        import torch
        from torch.nn import functional

        logits = net(rows.inputs)
        losses, weights = [], []
        for name, columns in self._columns.items():
            if name == LABELS and rows.multi is not None:
                known = ~rows.multi.isnan().any(dim=1)
                if known.any():
                    losses.append(
                        functional.binary_cross_entropy_with_logits(logits[known, columns], rows.multi[known])
                    )
                    weights.append(self._label_weight)
            elif (rows.single[name] != UNKNOWN).any():
                losses.append(functional.cross_entropy(logits[:, columns], rows.single[name], ignore_index=UNKNOWN))
                weights.append(1.0)
        return torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum() / sum(weights)


def _export(net: torch.nn.Sequential, targets: Targets) -> dict[str, Float32]:
    hidden_weight, hidden_bias, output_weight, output_bias = (p.detach().cpu().numpy() for p in net.parameters())
    weights = {"hidden.weight": hidden_weight, "hidden.bias": hidden_bias}
    for name, columns in _task_slices(targets):
        weights[f"task.{name}.weight"] = output_weight[columns]
        weights[f"task.{name}.bias"] = output_bias[columns]
    return weights


def _validate(probabilities: dict[str, Float32], targets: Targets) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if targets.multi is not None:
        known = ~np.isnan(targets.multi).any(axis=1)
        if known.any():
            truth, scores = targets.multi[known] == 1, probabilities[LABELS][known]
            metrics |= example_metrics(truth, scores, best_threshold(truth, scores))
    for name, codes in targets.single.items():
        known = codes != UNKNOWN
        if known.any():
            hits = probabilities[name].argmax(axis=1)[known] == codes[known]
            metrics[f"accuracy/{name}"] = float(hits.mean())
    return metrics
