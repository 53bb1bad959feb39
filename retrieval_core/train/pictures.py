"""The pictures of a training: decoded once into one array on disk, then seen in random crops, mirrors and lights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.artifacts.manifests import Reject
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.embed.extract import SquareLoader
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

CROP_ROOM = 8 / 7  # prepared squares are this much larger than the network's if its own crop leaves no room
MIN_CROP_AREA = 0.5
LIGHT_SHARE = 0.5  # of the training pictures that are seen in another light; the others keep true colours
CHUNK = 64


class Prepared(NamedTuple):
    """Decoded pictures: (n, side, side, 3) uint8 memory-mapped `pixels` of all n pictures, black where unreadable.

    `positions` are the (m,) int64 rows that could be read, ascending; `rejects` say why the others could not.
    """

    pixels: UInt8
    positions: Int64
    rejects: list[Reject]


def training_square(preprocess: Preprocess) -> Preprocess:
    """Return the larger square to draw crops from; up to a pixel's rounding, `preprocess` shows its centre."""
    if preprocess.crop == "center" and preprocess.crop_fraction < 1:
        side_px = int(preprocess.size_px / preprocess.crop_fraction)
    else:
        side_px = int(np.ceil(preprocess.size_px * CROP_ROOM))
    return preprocess.model_copy(update={"size_px": side_px, "crop_fraction": 1.0})


def prepare_pictures(
    pictures: Sequence[Picture],
    load: SquareLoader,
    side_px: int,
    path: Path,
    threads: int,
    on_done: Callable[[int], None] | None = None,
) -> Prepared:
    """Decode `pictures`, whose item_ids are unique, into the array file `path`; `load` returns squares of `side_px`.

    Pictures that cannot be read are left black. `on_done` gets the number of pictures done since its last call.
    """
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(pictures), side_px, side_px, 3))
    starts = range(0, len(pictures), CHUNK)
    rejects: list[Reject] = []

    def fill(start: int) -> tuple[list[int], list[Reject]]:
        chunk = pictures[start : start + CHUNK]
        loaded = load(chunk)
        refused = {reject.item_id for reject in loaded.rejects}
        rows = [row for row, picture in enumerate(chunk, start) if picture.item_id not in refused]
        pixels[rows] = loaded.pixels
        return rows, loaded.rejects

    readable: list[int] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        for rows, refused in pool.map(fill, starts):
            readable.extend(rows)
            rejects.extend(refused)
            if on_done:
                on_done(len(rows) + len(refused))
    return Prepared(pixels, np.array(readable, np.int64), rejects)


def training_view(preprocess: Preprocess, augment: bool, light_gain: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Return the function from a (3, side, side) uint8 prepared picture to the (3, size, size) uint8 to train on.

    It draws crops of at least half the area, mirror images and changes of light by up to `light_gain` from torch's
    global generator; without `augment` it is `validation_view`.
    """
    from torchvision.transforms import v2

    if not augment:
        return validation_view(preprocess)
    crop = v2.RandomResizedCrop(
        preprocess.size_px,
        scale=(MIN_CROP_AREA, 1.0),
        interpolation=v2.InterpolationMode(preprocess.interpolation),
        antialias=True,
    )
    steps = [crop, v2.RandomHorizontalFlip()]
    if light_gain > 1:
        steps.append(v2.RandomApply([v2.Lambda(partial(change_light, max_gain=light_gain))], LIGHT_SHARE))
    return v2.Compose(steps)


def change_light(pixels: Tensor, max_gain: float) -> Tensor:
    """Multiply each channel of a (3, h, w) uint8 picture by a gain of 1 / `max_gain` to `max_gain`.

    The gains are drawn from torch's global generator, uniform on a log scale. They are the von Kries model of a change
    of light, as in `metrics.distortions.shift_colour`.
    """
    import torch

    gains = max_gain ** (2 * torch.rand(3, 1, 1) - 1)
    return (pixels * gains).round_().clamp_(0, 255).to(torch.uint8)


def validation_view(preprocess: Preprocess) -> Callable[[Tensor], Tensor]:
    """Return the function from a (3, side, side) uint8 prepared picture to the square that the embedder sees in use."""
    from torchvision.transforms import v2

    if preprocess.crop == "center" and preprocess.crop_fraction < 1:
        return v2.CenterCrop(preprocess.size_px)
    return v2.Resize(preprocess.size_px, v2.InterpolationMode(preprocess.interpolation), antialias=True)
