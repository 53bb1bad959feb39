"""The pictures of a training: decoded once into one array on disk, seen through random crops and mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.artifacts.manifests import Reject
from retrieval_core.embed.extract import Picture, SquareLoader
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 8 / 7  # prepared pictures are larger than the network's square by this where its own crop leaves no room
MIN_CROP_AREA = 0.5
CHUNK = 64


class Prepared(NamedTuple):
    """(n, side, side, 3) uint8 memory-mapped pixels of the pictures that could be read, and (n,) their positions."""

    pixels: UInt8
    positions: Int64
    rejects: list[Reject]


def training_square(how: Preprocess) -> Preprocess:
    """The larger square that crops are drawn from; its centre is what `how` shows, up to a pixel's rounding."""
    if how.crop == "center" and how.crop_fraction < 1:
        side_px = int(how.size_px / how.crop_fraction)
    else:
        side_px = int(np.ceil(how.size_px * ROOM))
    return how.model_copy(update={"size_px": side_px, "crop_fraction": 1.0})


def prepare_pictures(
    pictures: Sequence[Picture],
    load: SquareLoader,
    side_px: int,
    path: Path,
    threads: int,
    on_done: Callable[[int], None] | None = None,
) -> Prepared:
    """Decode `pictures`, whose item_ids are unique, once into the array file `path`; `load` gives squares of `side_px`.

    The row of a picture that cannot be read stays black; `on_done` is told the number done since the last time.
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


def training_view(how: Preprocess, augment: bool) -> Callable[[Tensor], Tensor]:
    """From a (3, side, side) uint8 prepared picture to the (3, size, size) uint8 that is trained on.

    Random crops of at least half the area and mirror images, drawn from torch's global generator; without `augment`
    the same view that `validation_view` gives.
    """
    from torchvision.transforms import v2

    if not augment:
        return validation_view(how)
    crop = v2.RandomResizedCrop(
        how.size_px, scale=(MIN_CROP_AREA, 1.0), interpolation=v2.InterpolationMode(how.interpolation), antialias=True
    )
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def validation_view(how: Preprocess) -> Callable[[Tensor], Tensor]:
    """From a (3, side, side) uint8 prepared picture to what the embedder is shown of it in use."""
    from torchvision.transforms import v2

    if how.crop == "center" and how.crop_fraction < 1:
        return v2.CenterCrop(how.size_px)
    return v2.Resize(how.size_px, v2.InterpolationMode(how.interpolation), antialias=True)
