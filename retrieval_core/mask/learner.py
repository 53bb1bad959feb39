"""Train a U-Net for an epoch, and average its weights. Importing this module imports torch."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.config.stages import MaskConfig
from retrieval_core.mask.augment import augment
from retrieval_core.mask.quality import Mask
from retrieval_core.mask.schedule import Epoch
from retrieval_core.mask.unet import UNet, to_images

WEIGHT_DECAY = 1e-2
WARMUP_EPOCHS = 1.0
MEMORY_STEPS = 50  # about as many steps enter the average of the weights
PREDICT_BATCH = 32

RGBBatch = UInt8


class Learner:
    """A U-Net, its optimiser, and a running mean of its weights, which scores better than the last weights."""

    def __init__(self, unet: UNet, config: MaskConfig, device: str) -> None:
        self.unet = unet.to(device)
        self.mean = deepcopy(unet).eval()
        self.config = config
        self.device = device
        self.loss = DiceLoss(mode="multilabel", from_logits=True)
        self.optimizer = torch.optim.AdamW(_decay_groups(unet), lr=config.learning_rate)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.n_steps = 0

    def learn(self, pixels: RGBBatch, masks: Mask, epoch: Epoch) -> float:
        """Train on (n, s, s, 3) uint8 pixels and (n, s, s) bool masks; return the mean loss, which may diverge."""
        self.unet.train()
        batches = self._batches(len(pixels))
        total = 0.0
        for step, rows in enumerate(batches):
            self._set_learning_rate(epoch, step / len(batches), len(batches))
            total += self._step(torch.from_numpy(pixels[rows]), torch.from_numpy(masks[rows]), epoch.size_px)
        return total / len(batches)

    def predict(self, pixels: RGBBatch, size_px: int) -> Mask:
        """Return (n, s, s) bool masks of (n, s, s, 3) uint8 pixels, predicted at `size_px` by the averaged weights."""
        side_px = pixels.shape[1]
        predicted = []
        with torch.inference_mode():
            for batch in torch.from_numpy(pixels).split(PREDICT_BATCH):
                images = _shrink(to_images(batch.to(self.device)), size_px)
                predicted.append((_enlarge(self.mean.logits(images), side_px) > 0).cpu().numpy())
        return np.concatenate(predicted)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the averaged weights on the CPU, under the names of `segmentation_models_pytorch`."""
        return {name: value.cpu().contiguous().clone() for name, value in self.mean.net.state_dict().items()}

    def _batches(self, n: int) -> list[Int64]:
        """Return shuffled rows in full batches; the remaining rows are left to other epochs."""
        order = torch.randperm(n, generator=self.generator)
        size = min(self.config.batch_size, n)
        return [rows.numpy() for rows in order[: n - n % size].split(size)]

    def _step(self, pixels: Tensor, masks: Tensor, size_px: int) -> float:
        images = _shrink(to_images(pixels.to(self.device)), size_px)
        truth = _shrink(masks.to(self.device).float()[:, None], size_px)[:, 0]
        images, truth = augment(images, truth, self.generator)
        # Pictures take the place of classes, so that Dice is averaged over pictures, as the IoU is.
        loss = self.loss(self.unet.logits(images)[None], (truth > 0.5).float()[None])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.n_steps += 1
        self._average()
        return loss.item()

    def _set_learning_rate(self, epoch: Epoch, share_done: float, steps_per_epoch: int) -> None:
        """Raise the rate linearly over the first steps, and lower it along a cosine over the whole training."""
        warm = min(1.0, (self.n_steps + 1) / (WARMUP_EPOCHS * steps_per_epoch))
        progress = epoch.begins + (epoch.ends - epoch.begins) * share_done
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm * (1 + math.cos(math.pi * progress)) / 2

    def _average(self) -> None:
        """Move the mean towards the current weights, in the first steps by more, to leave the start behind."""
        keep = min(1 - 1 / MEMORY_STEPS, (1 + self.n_steps) / (10 + self.n_steps))
        with torch.no_grad():
            for mean, current in zip(self.mean.state_dict().values(), self.unet.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(current, 1 - keep)
                else:
                    mean.copy_(current)


def _decay_groups(unet: UNet) -> list[dict[str, object]]:
    """Return optimiser groups: kernels with weight decay, biases and norms without."""
    kernels = [p for p in unet.parameters() if p.ndim > 1]
    others = [p for p in unet.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def _shrink(images: Tensor, size_px: int) -> Tensor:
    return images if images.shape[-1] == size_px else F.interpolate(images, (size_px, size_px), mode="area")


def _enlarge(logits: Tensor, size_px: int) -> Tensor:
    if logits.shape[-1] == size_px:
        return logits
    return F.interpolate(logits[:, None], (size_px, size_px), mode="bilinear")[:, 0]
