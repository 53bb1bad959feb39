"""The schedule of a training: the size of the pictures in each epoch."""

from __future__ import annotations

from typing import NamedTuple

from retrieval_core.config.stages import MaskConfig

HALF_SHARE = 0.7  # of the epochs, at half size, where an epoch costs a quarter
SIDE_STEP_PX = 32  # an encoder halves the picture five times
MIN_SIDE_PX = 64


class Epoch(NamedTuple):
    """One pass over the data at `size_px`; it begins and ends at these shares of the whole training, 0 to 1."""

    size_px: int
    begins: float
    ends: float


def plan_phases(config: MaskConfig) -> list[list[Epoch]]:
    """Return `max_epochs` epochs in two phases, at half and at full size; in one where half size shows too little."""
    half_px = config.size_px // 2 // SIDE_STEP_PX * SIDE_STEP_PX
    n_half = int(HALF_SHARE * config.max_epochs) if half_px >= MIN_SIDE_PX else 0
    sizes = [half_px] * n_half + [config.size_px] * (config.max_epochs - n_half)
    epochs = [Epoch(size, i / len(sizes), (i + 1) / len(sizes)) for i, size in enumerate(sizes)]
    return [phase for phase in (epochs[:n_half], epochs[n_half:]) if phase]
