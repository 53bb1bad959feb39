"""Train a segmenter on pictures with masks: when to stop, which weights to keep, how to store them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import UInt8
from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch
from retrieval_core.mask.quality import Mask, example_iou
from retrieval_core.mask.schedule import Epoch, plan_phases

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval_core.mask.learner import Learner

WEIGHTS_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"
VAL_BLOCK = 1_024  # validation pictures compared with their masks at a time


class SegmentationData(NamedTuple):
    """Pictures squashed to a square, with their masks: (n, s, s, 3) uint8 and (n, s, s) bool, True on the product."""

    pixels: UInt8
    masks: Mask


class TrainedSegmenter(NamedTuple):
    """The best weights of a training, on the CPU, their mean validation IoU, and one history row per epoch."""

    state: dict[str, Tensor]
    val_iou: float
    history: tuple[dict[str, float], ...]


def square_mask(mask: Mask, size_px: int) -> Mask:
    """Squash an (h, w) bool mask to (size_px, size_px) like its picture: True where most of the area is True."""
    import torch
    from torchvision.transforms.v2.functional import resize

    area = resize(torch.from_numpy(np.asarray(mask, np.float32))[None], [size_px, size_px], antialias=True)[0]
    square: Mask = (area > 0.5).numpy()
    return square


def train_segmenter(
    train: SegmentationData,
    val: SegmentationData,
    config: MaskConfig,
    device: str = "cpu",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainedSegmenter:
    """Train a U-Net with Dice loss and keep the weights of the epoch with the best mean example-wise IoU on `val`.

    The first epochs train at half size, the others at `config.size_px`, and only weights of the latter are kept. Each
    of the two phases ends early when the IoU reaches `target_iou` or has not risen for `patience` epochs. After each
    epoch `on_epoch` is called with epoch (from 1), size_px, loss, val_iou and seconds, which also enter `history`.

    The same data and config give the same weights on the same kind of CPU with the same number of threads; the global
    random state is left as it was. Raises `CatalogInvalid` when a set has no product in any mask, `DimensionMismatch`
    when it is not of `config.size_px`, `WeightsInvalid` for a bad weights file, and `BadConfig` for an unknown encoder
    or kind of weights and when the training diverges.
    """
    _check(train, "training", config)
    _check(val, "validation", config)
    from retrieval_core.mask.learner import Learner
    from retrieval_core.mask.unet import build_unet

    learner = Learner(build_unet(config), config, device)
    history: list[dict[str, float]] = []
    best = _Best()
    for phase in plan_phases(config):
        best = _Best()
        for epoch in phase:
            row = {"epoch": len(history) + 1} | _run_epoch(learner, train, val, epoch)
            if not math.isfinite(row["loss"]):
                raise BadConfig(
                    f"segmenter training diverged in epoch {row['epoch']}: its loss is {row['loss']}; "
                    f"lower mask.learning_rate, now {config.learning_rate:g}"
                )
            history.append(row)
            if on_epoch:
                on_epoch(row)
            best.update(row["val_iou"], learner)
            if row["val_iou"] >= config.target_iou or best.epochs_since >= config.patience:
                break
    return TrainedSegmenter(best.state, best.val_iou, tuple(history))


def save_segmenter(trained: TrainedSegmenter, config: MaskConfig, folder: Path) -> None:
    """Write `weights.safetensors` and `model.onnx` into an existing folder.

    The ONNX model maps pixels, (n, s, s, 3) uint8 for any n, to probability, (n, s, s) float32 of the product.
    """
    import torch
    from safetensors.torch import save_file

    from retrieval_core.mask.unet import rebuild_unet
    from retrieval_core.state_dict import export_graph

    save_file(trained.state, folder / WEIGHTS_FILE)
    example = torch.zeros(2, config.size_px, config.size_px, 3, dtype=torch.uint8)
    export_graph(rebuild_unet(trained.state, config.encoder), example, "probability", folder / ONNX_FILE)


def _run_epoch(learner: Learner, train: SegmentationData, val: SegmentationData, epoch: Epoch) -> dict[str, float]:
    started = time.perf_counter()
    loss = learner.learn(train.pixels, train.masks, epoch)
    blocks = (slice(start, start + VAL_BLOCK) for start in range(0, len(val.pixels), VAL_BLOCK))
    ious = [example_iou(learner.predict(val.pixels[block], epoch.size_px), val.masks[block]) for block in blocks]
    val_iou = float(np.concatenate(ious).mean())
    return {"size_px": epoch.size_px, "loss": loss, "val_iou": val_iou, "seconds": time.perf_counter() - started}


class _Best:
    """The weights with the best score so far, and the number of epochs since."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.val_iou = -1.0
        self.epochs_since = 0

    def update(self, val_iou: float, learner: Learner) -> None:
        self.epochs_since += 1
        if val_iou > self.val_iou:
            self.state, self.val_iou, self.epochs_since = learner.state(), val_iou, 0


def _check(data: SegmentationData, name: str, config: MaskConfig) -> None:
    square = (len(data.pixels), config.size_px, config.size_px)
    if data.masks.shape != square or data.pixels.shape != (*square, 3):
        raise DimensionMismatch(
            f"{name} pixels {data.pixels.shape} and masks {data.masks.shape}; "
            f"expected (n, {config.size_px}, {config.size_px}, 3) and (n, {config.size_px}, {config.size_px})"
        )
    if not data.masks.any():
        raise CatalogInvalid(
            f"none of the {len(data.masks)} {name} pictures has a product in its mask; "
            f"give more pictures with masks or set mask.enabled=false"
        )
