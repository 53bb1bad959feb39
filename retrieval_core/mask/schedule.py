"""The course of a training: at which size each epoch sees the pictures."""

from __future__ import annotations

from typing import NamedTuple

from retrieval_core.config import MaskConfig

HALF_SHARE = 0.7  # of the epochs are at half size, where one costs a quarter
SIDE_STEP_PX = 32  # an encoder halves the picture five times
MIN_SIDE_PX = 64


class Epoch(NamedTuple):
    """One pass over the data: the side the network sees, and the share of the training before and after it."""

    size_px: int
    begins: float
    ends: float


def plan_phases(config: MaskConfig) -> list[list[Epoch]]:
    """`max_epochs` in two phases, at half size and at full size; in one where half a side is too small to see much."""
    half_px = config.size_px // 2 // SIDE_STEP_PX * SIDE_STEP_PX
    n_half = int(HALF_SHARE * config.max_epochs) if half_px >= MIN_SIDE_PX else 0
    sizes = [half_px] * n_half + [config.size_px] * (config.max_epochs - n_half)
    epochs = [Epoch(size, i / len(sizes), (i + 1) / len(sizes)) for i, size in enumerate(sizes)]
    return [phase for phase in (epochs[:n_half], epochs[n_half:]) if phase]
