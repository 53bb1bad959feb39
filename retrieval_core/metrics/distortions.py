"""Pictures changed so that they still show the same item: how a searcher's photo may differ from the catalogue's.

Pictures are upright (h, w, 3) uint8; what is drawn comes from the generator alone, so that the same one changes a
picture alike every night.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64
from retrieval_core.images import RGB, apply_mask

MIN_SIDE, MAX_SIDE = 0.7, 0.9  # of the picture's sides that a crop keeps
MAX_GAIN = 1.25  # of a colour channel; the least is its inverse
LATTICE = 4  # drawn colours along either side of a background

Change = Callable[[RGB, Bool | None, np.random.Generator], RGB | None]


class Distortion(NamedTuple):
    """A way to change a picture: `change(picture, mask, rng)`, None where it takes a mask and there is none.

    `mask` is (h2, w2) bool, True on the product, stretched over the picture.
    """

    name: str
    meaning: str
    change: Change


def crop(image: RGB, rng: np.random.Generator) -> RGB:
    """A window anywhere in the picture, `MIN_SIDE` to `MAX_SIDE` of its height and as much of its width."""
    share = rng.uniform(MIN_SIDE, MAX_SIDE)
    height, width = (max(1, round(share * side)) for side in image.shape[:2])
    top, left = (
        int(rng.integers(0, side - kept + 1)) for side, kept in zip(image.shape, (height, width), strict=False)
    )
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def flip(image: RGB) -> RGB:
    """Left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


def shift_colour(image: RGB, rng: np.random.Generator) -> RGB:
    """Another light: each channel times a gain of its own, 1 / `MAX_GAIN` to `MAX_GAIN`, evenly on a log scale.

    The diagonal model of von Kries, by which white balance is done.
    """
    gains = MAX_GAIN ** rng.uniform(-1, 1, 3)
    levels = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return np.stack([levels[image[..., channel], channel] for channel in range(3)], axis=2)


def replace_background(image: RGB, mask: Bool, rng: np.random.Generator) -> RGB:
    """Whatever is outside the mask in one drawn colour or, as often, in a smooth pattern of drawn colours."""
    colours = rng.integers(0, 256, (LATTICE, LATTICE, 3)).astype(np.float64)
    if rng.random() < 0.5:
        colours[:] = colours[0, 0]
    height, width = image.shape[:2]
    backdrop = np.rint(_stretched(_stretched(colours, height).swapaxes(0, 1), width).swapaxes(0, 1)).astype(np.uint8)
    return apply_mask(image, mask) + apply_mask(backdrop, ~mask)


def _stretched(values: Float64, n: int) -> Float64:
    """(n, …) of (m, …) values, linear between them."""
    place = np.linspace(0, len(values) - 1, n)
    low = np.minimum(place.astype(np.int64), len(values) - 2)
    share = (place - low)[:, None, None]
    return (1 - share) * values[low] + share * values[low + 1]


def _with_new_background(image: RGB, mask: Bool | None, rng: np.random.Generator) -> RGB | None:
    return None if mask is None else replace_background(image, mask, rng)


DISTORTIONS = (
    Distortion(
        "crop",
        f"a window of {MIN_SIDE:.0%} to {MAX_SIDE:.0%} of the picture's sides, anywhere in it",
        lambda image, _, rng: crop(image, rng),
    ),
    Distortion("flip", "left and right exchanged", lambda image, _, __: flip(image)),
    Distortion(
        "colour",
        f"another light: each colour channel brighter or darker by up to {MAX_GAIN - 1:.0%}",
        lambda image, _, rng: shift_colour(image, rng),
    ),
    Distortion("background", "another background behind the product, plain or drawn", _with_new_background),
)
