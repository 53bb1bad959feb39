"""Augment a batch of pictures together with their masks. Importing this module imports torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

MAX_LOG_ZOOM = 0.25
MAX_LOG_STRETCH = 0.1
MAX_TURN_RAD = 0.12
MAX_SHIFT = 0.12  # of half a side
MAX_LOG_CONTRAST = 0.25
MAX_LOG_TINT = 0.1
MAX_BRIGHTNESS = 18.0  # of 255


def augment(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return mirrored, zoomed, stretched, turned, shifted and recoloured copies of a batch.

    Images are (n, 3, s, s) float32 in 0 to 255, masks (n, s, s) float32 in 0 to 1, and so are the copies; a picture and
    its mask move together. The parameters are drawn on the CPU, so that every device gets the same copies.
    """
    moves = _random_moves(len(images), generator).to(images.device)
    grid = F.affine_grid(moves, [len(images), 1, *images.shape[-2:]], align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    moved_masks = F.grid_sample(masks[:, None], grid, padding_mode="reflection", align_corners=False)
    return _recolour(moved, generator), moved_masks[:, 0]


def _random_moves(n: int, generator: Generator) -> Tensor:
    """Return (n, 2, 3) affine maps from output to input coordinates, both in -1 to 1."""
    zoom = _spread(MAX_LOG_ZOOM, (n,), generator).exp()
    stretch = _spread(MAX_LOG_STRETCH, (n,), generator).exp()
    turn = _spread(MAX_TURN_RAD, (n,), generator)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    x_axis = torch.stack((mirror * zoom * stretch * turn.cos(), -zoom * turn.sin()), dim=1)
    y_axis = torch.stack((mirror * zoom * turn.sin(), zoom / stretch * turn.cos()), dim=1)
    shift = _spread(MAX_SHIFT, (n, 2), generator)
    return torch.cat((torch.stack((x_axis, y_axis), dim=1), shift[:, :, None]), dim=2)


def _recolour(images: Tensor, generator: Generator) -> Tensor:
    """Change contrast, tint and brightness, by other amounts in each picture; values stay in 0 to 255."""
    n = len(images)
    gain = _spread(MAX_LOG_CONTRAST, (n, 1, 1, 1), generator) + _spread(MAX_LOG_TINT, (n, 3, 1, 1), generator)
    offset = _spread(MAX_BRIGHTNESS, (n, 1, 1, 1), generator)
    return (images * gain.exp().to(images.device) + offset.to(images.device)).clamp(0, 255)


def _spread(limit: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw uniformly from -limit to limit."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit
