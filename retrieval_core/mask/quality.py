"""Judge masks: by their overlap with true masks, or by their shape alone."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Bool, Float64
from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import DimensionMismatch

Mask = Bool


def example_iou(predicted: Mask, truth: Mask) -> Float64:
    """Return (n,) float64 in 0 to 1: intersection over union (Jaccard index) of each pair of (n, h, w) bool masks.

    Two empty masks score 1. Raises `DimensionMismatch` when the shapes differ.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise DimensionMismatch(f"masks of shape {predicted.shape} against {truth.shape}; expected twice (n, h, w)")
    intersection = np.count_nonzero(predicted & truth, axis=(1, 2))
    union = np.count_nonzero(predicted | truth, axis=(1, 2))
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def distrust(mask: Mask, config: MaskConfig) -> str:
    """Return why an (h, w) bool mask should not be used; "" where it can be trusted.

    A mask is distrusted when it is empty, when it covers a share of the picture outside `min_area` to `max_area`, or
    when its largest connected component (8 neighbours) holds less than `min_largest_part` of it.
    """
    area = float(mask.mean()) if mask.size else 0.0
    if area == 0:
        return "the mask is empty"
    if area < config.min_area:
        return f"area {_percent(area)} below {_percent(config.min_area)}"
    if area > config.max_area:
        return f"area {_percent(area)} above {_percent(config.max_area)}"
    part = _largest_part(mask)
    if part < config.min_largest_part:
        return f"largest part {_percent(part)} of the mask, below {_percent(config.min_largest_part)}"
    return ""


def _largest_part(mask: Mask) -> float:
    """Return the share of a mask's pixels in its largest connected component; the mask is not empty."""
    from scipy import ndimage

    components, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    return float(sizes.max() / sizes.sum())


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
