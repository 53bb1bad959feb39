"""Curves in the drawing plane: (n, 2) float64 points, x to the right and y down, both from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from retrieval_core.arrays import Float64

Points = Float64
Step = tuple[float, ...]  # (x, y): a straight line to there; (cx, cy, x, y): a quadratic Bézier curve to there
BEZIER_POINTS = 14


def trace(*steps: Step) -> Points:
    """Return the curve along the steps, the first of which is a point."""
    points = [np.array(steps[0][-2:], dtype=np.float64)]
    t = np.linspace(0, 1, BEZIER_POINTS)[1:, None]
    for step in steps[1:]:
        start, end = points[-1], np.array(step[-2:], dtype=np.float64)
        if len(step) == 2:
            points.append(end)
        else:
            control = np.array(step[:2], dtype=np.float64)
            points.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)
    return np.array(points)


def symmetric(*steps: Step) -> Points:
    """Return the closed outline whose right half runs along the steps, from the middle of the top to the bottom."""
    right = trace(*steps)
    return np.concatenate([right, mirror(right)[::-1]])


def mirror(points: Points) -> Points:
    """Return the curve mirrored at the vertical middle line."""
    return np.stack([1 - points[:, 0], points[:, 1]], axis=1)


def strip(points: Points, width: float) -> Points:
    """Return the closed outline of a band of this width along a curve."""
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal *= width / 2 / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return np.concatenate([points + normal, (points - normal)[::-1]])


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.012) -> Points:
    """Return a rectangle with rounded corners."""
    c = corner
    return trace(
        (left + c, top), (right - c, top), (right, top, right, top + c), (right, bottom - c),
        (right, bottom, right - c, bottom), (left + c, bottom), (left, bottom, left, bottom - c),
        (left, top + c), (left, top, left + c, top),
    )  # fmt: skip


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    turn = np.linspace(0, math.tau, 40, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def star(x: float, y: float, radius: float, n_tips: int, inner: float) -> Points:
    """Return a star with `n_tips` tips, and valleys at `inner` times the radius."""
    turn = np.arange(2 * n_tips) * math.pi / n_tips - math.pi / 2
    reach = np.where(np.arange(2 * n_tips) % 2 == 0, radius, radius * inner)
    return np.stack([x + reach * np.cos(turn), y + reach * np.sin(turn)], axis=1)


def motif(name: str, x: float, y: float, radius: float) -> Points:
    """Return the outline of a print: star, heart, sun, moon, bolt or diamond."""
    if name in ("star", "sun", "diamond"):
        n_tips, inner = {"star": (5, 0.42), "sun": (12, 0.68), "diamond": (2, 0.45)}[name]
        return star(x, y, radius, n_tips, inner)
    shapes: dict[str, Sequence[Step]] = {
        "heart": ((0, 0.9), (-1.1, 0.1, -0.95, -0.4), (-0.8, -0.95, -0.4, -0.85), (-0.1, -0.8, 0, -0.4),
                  (0.1, -0.8, 0.4, -0.85), (0.8, -0.95, 0.95, -0.4), (1.1, 0.1, 0, 0.9)),
        "moon": ((0.3, -1), (-1.1, -0.8, -0.9, 0.1), (-0.6, 1.1, 0.6, 0.8), (-0.3, 0.5, -0.3, -0.1),
                 (-0.3, -0.7, 0.3, -1)),
        "bolt": ((0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.05, -0.25)),
    }  # fmt: skip
    return trace(*shapes[name]) * radius + np.array([x, y])
