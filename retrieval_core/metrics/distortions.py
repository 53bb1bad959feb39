"""Distortions of a picture that keep the item it shows, as a user's photo may differ from the catalogue's.

Pictures are upright (h, w, 3). Random choices come only from the generator that is passed, so that the same generator
distorts a picture in the same way in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64
from retrieval_core.images import RGB, apply_mask

MIN_SIDE, MAX_SIDE = 0.7, 0.9  # share of the picture's sides that a crop keeps
MAX_GAIN = 1.25  # of a colour channel; the minimum is its inverse
LATTICE = 4  # random colours along each side of a background

Change = Callable[[RGB, Bool | None, np.random.Generator], RGB | None]


class Distortion(NamedTuple):
    """A way to distort a picture; `change(picture, mask, rng)` gives None where it needs a mask and there is none.

    `mask` is (h2, w2), True on the product, and is scaled to the picture.
    """

    name: str
    meaning: str
    change: Change


def crop(image: RGB, rng: np.random.Generator) -> RGB:
    """Return a random window of `MIN_SIDE` to `MAX_SIDE` of the picture's height and the same share of its width."""
    share = rng.uniform(MIN_SIDE, MAX_SIDE)
    height, width = (max(1, round(share * side)) for side in image.shape[:2])
    top, left = (
        int(rng.integers(0, side - kept + 1)) for side, kept in zip(image.shape, (height, width), strict=False)
    )
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def flip(image: RGB) -> RGB:
    """Mirror the picture horizontally."""
    return np.ascontiguousarray(image[:, ::-1])


def shift_colour(image: RGB, rng: np.random.Generator) -> RGB:
    """Multiply each channel by a gain of 1 / `MAX_GAIN` to `MAX_GAIN`, uniform on a log scale.

    This is the von Kries model of a change of light, which white balance uses.
    """
    gains = MAX_GAIN ** rng.uniform(-1, 1, 3)
    levels = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return np.stack([levels[image[..., channel], channel] for channel in range(3)], axis=2)


def replace_background(image: RGB, mask: Bool, rng: np.random.Generator) -> RGB:
    """Replace everything outside the mask by one random colour or, as often, by a smooth random pattern."""
    colours = rng.integers(0, 256, (LATTICE, LATTICE, 3)).astype(np.float64)
    if rng.random() < 0.5:
        colours[:] = colours[0, 0]
    height, width = image.shape[:2]
    backdrop = np.rint(_stretched(_stretched(colours, height).swapaxes(0, 1), width).swapaxes(0, 1)).astype(np.uint8)
    return apply_mask(image, mask) + apply_mask(backdrop, ~mask)


def _stretched(values: Float64, n: int) -> Float64:
    """Interpolate (m, …) values linearly to (n, …)."""
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
