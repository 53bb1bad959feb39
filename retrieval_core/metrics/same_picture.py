"""Tell one picture twice from two pictures of a product in several colours, and both from different products.

Two thumbnails are laid over each other by the best shift and scale of each axis, and then compared region by region.
One picture that was encoded again, resized or trimmed differs only where it has edges. Another colour of a product
leaves its edges where they are, and differs in its plain regions: there its hue changes, in one region and not in
another, while a change of tone moves the whole picture along one curve.

On a white background that stays white, a change of tone looks like another colour of the product. So a tone is taken
for one only where the background moved with it, or where there is none; such pairs count as recoloured otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float32, Int64, UInt8

SIDE_PX = 32
N_PX = SIDE_PX * SIDE_PX
BLOCK = 256  # pairs at once
N_STEPS = 6
MAX_SCALE, MAX_SHIFT_PX = 1.25, 4.0
GREY = np.array([0.299, 0.587, 0.114], np.float32)

# The thresholds were chosen on planted copies against the nearest pairs of 22,029 product photographs of 60 by 80
# pixels; levels are of 255. docs/reliability.md has what they find.
MOVED_PX = 0.3  # a larger shift of the edge is a trim
MAX_EXCESS, MAX_MOVED_EXCESS = 5.0, 8.0  # levels by which a region may differ beyond what its edges explain
EDGE_SHARE, MOVED_EDGE_SHARE = 0.1, 0.35  # of its edges that an encoding and a resampling may change at most
MIN_PRODUCT = 0.2  # share of a trimmed picture that is not background: less has nothing but edges
MIN_LOCAL = 0.7  # correlation that all but a few windows reach
MIN_DETAIL = 0.97  # correlation of the fine details of a product in two colours
EDGE_LEVELS = 8.0  # smaller steps are no edge
N_WINDOWS, N_WORST_WINDOWS = 13 * 13, 8
LIGHT_LEVEL, CAST_LEVELS, MIN_LIGHT = 225, 4.0, 0.15  # a background, what moves it, and the share that makes one
MIN_GAIN, MAX_GAIN = 0.75, 1.3
MIN_GAMMA, MAX_GAMMA = 0.7, 1.43

CENTRE = (SIDE_PX - 1) / 2
_ROW, _COLUMN = np.divmod(np.arange(N_PX), SIDE_PX)
X, Y = (_COLUMN - CENTRE).astype(np.float32), (_ROW - CENTRE).astype(np.float32)


class Likeness(NamedTuple):
    """(n,) whether two pictures are the same, and whether they show one design in other colours; never both."""

    is_same: Bool
    is_recoloured: Bool


class _Aligned(NamedTuple):
    """`first` laid over `second`, both (n, p, 3) levels, `inside` (n, p) 1 where both have a pixel, and the move."""

    first: Float32
    second: Float32
    inside: Float32
    moved_px: Float32

    def take(self, rows: Int64) -> _Aligned:
        return _Aligned(*(values[rows] for values in self))


def shrink(pixels: UInt8) -> Float32:
    """Return the mean colours of a 32 by 32 grid over square pictures: (n, s, s, 3) to (n, 32, 32, 3) levels.

    `s` is a multiple of 32.
    """
    n, cell = len(pixels), pixels.shape[1] // SIDE_PX
    grid = pixels.reshape(n, SIDE_PX, cell, SIDE_PX, cell, 3)
    return grid.mean(axis=(2, 4), dtype=np.float32)


def compare_pictures(first: Float32, second: Float32) -> Likeness:
    """Compare pairs of shrunk pictures, (n, 32, 32, 3) each. A pair is judged alone, whatever else is compared."""
    blocks = [
        _compare(_align(first[start : start + BLOCK], second[start : start + BLOCK]))
        for start in range(0, len(first), BLOCK)
    ]
    nothing = Likeness(np.zeros(0, bool), np.zeros(0, bool))
    return Likeness(*(np.concatenate(parts) for parts in zip(nothing, *blocks, strict=True)))


def _compare(pair: _Aligned) -> Likeness:
    is_same = np.zeros(len(pair.first), bool)
    steady = np.flatnonzero(_local_correlation(pair) >= MIN_LOCAL)
    is_same[steady] = _has_same_colours(pair.take(steady))
    return Likeness(is_same, ~is_same & (_detail_correlation(pair) >= MIN_DETAIL))


def _has_same_colours(pair: _Aligned) -> Bool:
    """Return (n,) whether the colours differ by encoding and resampling alone, or by a tone that can be told."""
    light = pair.inside * (pair.first.min(axis=2) > LIGHT_LEVEL)
    n_light, n_inside = light.sum(axis=1), pair.inside.sum(axis=1)
    change = np.einsum("np,npc->nc", light, pair.second - pair.first) / np.maximum(n_light, 1)[:, None]
    shows_tone = (n_light < MIN_LIGHT * n_inside) | (np.abs(change).max(axis=1) > CAST_LEVELS)
    shows_product = n_light < (1 - MIN_PRODUCT) * n_inside
    strict, lenient = _excess(pair, pair.first)
    is_trim = shows_product & (lenient < MAX_MOVED_EXCESS)
    is_same = np.where(pair.moved_px > MOVED_PX, is_trim, strict < MAX_EXCESS)
    shows_tone &= (pair.first @ GREY).std(axis=1) > EDGE_LEVELS  # a flat picture has every tone
    toned = np.flatnonzero(shows_tone & ~is_same)
    some = pair.take(toned)
    is_same[toned] = np.any([_excess(some, tone)[1] < MAX_MOVED_EXCESS for tone in _tones(some)], axis=0)
    return np.asarray(is_same)


def _align(first: Float32, second: Float32) -> _Aligned:
    """Lay the first pictures over the second by Gauss-Newton steps on shift, scale, gain and offset of the greys.

    (Lucas and Kanade, "An Iterative Image Registration Technique", IJCAI 1981.)
    """
    n = len(first)
    grey, goal = first @ GREY, (second @ GREY).reshape(n, N_PX)
    slopes = np.stack([grey, *np.gradient(grey, axis=(2, 1))], axis=3)
    moves = np.tile(np.array([1, 0, 1, 0], np.float32), (n, 1))
    for _ in range(N_STEPS):
        moved, inside = _moved(slopes, moves)
        level, by_x, by_y = moved[..., 0], moved[..., 1], moved[..., 2]
        columns = np.stack([by_x * X, by_x, by_y * Y, by_y, level, np.ones_like(level)], axis=2)
        weighted = columns * inside[..., None]
        normal = np.matmul(weighted.transpose(0, 2, 1), columns)
        damping = 1e-6 * np.trace(normal, axis1=1, axis2=2) + 1e-3
        normal += damping[:, None, None] * np.eye(6, dtype=np.float32)
        solved = np.linalg.solve(normal, np.matmul(weighted.transpose(0, 2, 1), goal[..., None]))[..., 0]
        step = solved[:, :4] / np.where(np.abs(solved[:, 4:5]) < 0.2, 0.2, solved[:, 4:5])
        step = np.clip(step, [-0.08, -2, -0.08, -2], [0.08, 2, 0.08, 2])
        limits = [MAX_SCALE, MAX_SHIFT_PX, MAX_SCALE, MAX_SHIFT_PX]
        lowest = [1 / MAX_SCALE, -MAX_SHIFT_PX, 1 / MAX_SCALE, -MAX_SHIFT_PX]
        moves = np.clip(moves + step, lowest, limits).astype(np.float32)
    laid, inside = _moved(first, moves)
    stretched_px = np.abs(moves[:, [0, 2]] - 1).max(axis=1) * SIDE_PX / 2
    moved_px = np.maximum(stretched_px, np.abs(moves[:, [1, 3]]).max(axis=1))
    return _Aligned(laid, second.reshape(n, N_PX, 3), inside, moved_px)


def _moved(pictures: Float32, moves: Float32) -> tuple[Float32, Float32]:
    """Sample (n, 32, 32, c) pictures between pixels at (n, 4) moves; return (n, p, c), and 1 where a sample is inside.

    A move is the scale and the shift of x, then of y.
    """
    x = moves[:, 0:1] * X + moves[:, 1:2] + np.float32(CENTRE)
    y = moves[:, 2:3] * Y + moves[:, 3:4] + np.float32(CENTRE)
    inside = ((x >= -0.5) & (x <= SIDE_PX - 0.5) & (y >= -0.5) & (y <= SIDE_PX - 0.5)).astype(np.float32)
    x, y = np.clip(x, 0, SIDE_PX - 1.001), np.clip(y, 0, SIDE_PX - 1.001)
    left, top = np.floor(x), np.floor(y)
    right_share, lower_share = (x - left)[..., None], (y - top)[..., None]
    flat = pictures.reshape(-1, pictures.shape[3])
    at = np.arange(len(pictures))[:, None] * N_PX + (top * SIDE_PX + left).astype(np.int64)
    upper = flat[at] * (1 - right_share) + flat[at + 1] * right_share
    lower = flat[at + SIDE_PX] * (1 - right_share) + flat[at + SIDE_PX + 1] * right_share
    return upper * (1 - lower_share) + lower * lower_share, inside


def _tones(pair: _Aligned) -> Iterator[Float32]:
    """Yield the first pictures in the tone of the second: by contrast and cast, by gains of the channels, by gamma."""
    unclipped = pair.inside * ((pair.second > 6) & (pair.second < 249)).all(axis=2)
    used = np.where(unclipped.sum(axis=1, keepdims=True) < 20, pair.inside, unclipped)
    n_used = used.sum(axis=1)[:, None]
    mean, goal = (np.einsum("np,npc->nc", used, side) / n_used for side in (pair.first, pair.second))
    centred = pair.first - mean[:, None]
    squares = np.einsum("np,npc,npc->n", used, centred, centred)
    contrast = np.einsum("np,npc,npc->n", used, centred, pair.second - goal[:, None]) / np.maximum(squares, 1)
    contrast = np.clip(contrast, MIN_GAIN, MAX_GAIN)
    yield np.clip(contrast[:, None, None] * centred + goal[:, None], 0, 255)
    squares_by_channel = np.einsum("np,npc,npc->nc", used, pair.first, pair.first)
    gains = np.einsum("np,npc,npc->nc", used, pair.first, pair.second) / np.maximum(squares_by_channel, 1)
    yield np.clip(np.clip(gains, MIN_GAIN, MAX_GAIN)[:, None] * pair.first, 0, 255)
    share = np.clip(pair.first, 4, 252) / 255
    logs, weights = np.log(share), pair.inside[..., None] * (share > 0.05) * (share < 0.96) * share
    goals = np.log(np.clip(pair.second, 4, 252) / 255)
    gamma = (weights * logs * goals).sum(axis=(1, 2)) / np.maximum((weights * logs * logs).sum(axis=(1, 2)), 1e-3)
    yield 255 * (np.clip(pair.first, 0, 255) / 255) ** np.clip(gamma, MIN_GAMMA, MAX_GAMMA)[:, None, None]


def _excess(pair: _Aligned, first: Float32) -> tuple[Float32, Float32]:
    """Return the largest difference of a region beyond what its edges explain, (n,) levels, strict and lenient.

    Encoding and resampling change a picture in proportion to its edges, by a share that is estimated on the picture
    itself, as the median over its edges, and bounded.
    """
    n = len(first)
    difference = ((first - pair.second) * pair.inside[..., None]).reshape(n, SIDE_PX, SIDE_PX, 3)
    changed = np.abs(_blurred(difference, 1)).max(axis=3).reshape(n, N_PX)
    edges = _edges(pair)
    share = np.where(edges > EDGE_LEVELS, changed / np.maximum(edges, 1), np.nan)
    usual = np.zeros(n, np.float32)
    has_edges = ~np.isnan(share).all(axis=1)
    usual[has_edges] = np.nanmedian(share[has_edges], axis=1)
    strict, lenient = np.minimum(2 * usual, EDGE_SHARE), np.minimum(4 * usual, MOVED_EDGE_SHARE)
    return (changed - strict[:, None] * edges).max(axis=1), (changed - lenient[:, None] * edges).max(axis=1)


def _edges(pair: _Aligned) -> Float32:
    """Return (n, p) the mean step to the next pixels around each pixel, the smaller one of the two pictures."""
    n = len(pair.first)
    first, second = (side.reshape(n, SIDE_PX, SIDE_PX, 3) for side in (pair.first, pair.second))
    steps = np.minimum(_steps(first), _steps(second))
    return _blurred((steps.reshape(n, N_PX) * pair.inside).reshape(n, SIDE_PX, SIDE_PX, 1), 1).reshape(n, N_PX)


def _steps(pictures: Float32) -> Float32:
    """Return (n, 32, 32) the largest difference of each pixel to a neighbour, in any channel."""
    across, down = (np.abs(np.diff(pictures, axis=axis)).max(axis=3) for axis in (2, 1))
    steps = np.zeros(pictures.shape[:3], np.float32)
    steps[:, :, 1:] = across
    np.maximum(steps[:, :, :-1], across, out=steps[:, :, :-1])
    np.maximum(steps[:, 1:], down, out=steps[:, 1:])
    np.maximum(steps[:, :-1], down, out=steps[:, :-1])
    return steps


def _blurred(pictures: Float32, radius: int) -> Float32:
    """Return the means of squares of 2 radius + 1 pixels; the border repeats."""
    padded = np.pad(pictures, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    return _box_means(padded, 2 * radius + 1)


def _box_means(pictures: Float32, side: int) -> Float32:
    for axis in (1, 2):
        zeros = np.zeros_like(np.take(pictures, [0], axis=axis))
        sums = np.concatenate([zeros, np.cumsum(pictures, axis=axis)], axis=axis)
        last = sums.shape[axis]
        pictures = np.take(sums, range(side, last), axis=axis) - np.take(sums, range(last - side), axis=axis)
    return np.asarray(pictures / side**2, np.float32)


def _local_correlation(pair: _Aligned) -> Float32:
    """Return (n,) the correlation of the greys that all but the eight worst of 169 windows of 7 by 7 reach."""
    n = len(pair.first)
    a, b = ((side @ GREY).reshape(n, SIDE_PX, SIDE_PX, 1) for side in (pair.first, pair.second))
    mean_a, mean_b, aa, bb, ab = (_box_means(values, 7)[:, ::2, ::2, 0] for values in (a, b, a * a, b * b, a * b))
    spread_a, spread_b = np.maximum(aa - mean_a**2, 0), np.maximum(bb - mean_b**2, 0)
    # Four squared levels of noise, so that two plain windows agree.
    correlation = (ab - mean_a * mean_b + 4) / np.sqrt((spread_a + 4) * (spread_b + 4))
    worst = np.partition(correlation.reshape(n, N_WINDOWS), N_WORST_WINDOWS, axis=1)
    return np.asarray(worst[:, N_WORST_WINDOWS], np.float32)


def _detail_correlation(pair: _Aligned) -> Float32:
    """Return (n,) the correlation of the greys without what a blur of five pixels keeps."""
    n = len(pair.first)
    a, b = (
        ((side - _blurred(side.reshape(n, SIDE_PX, SIDE_PX, 3), 2).reshape(n, N_PX, 3)) @ GREY) * pair.inside
        for side in (pair.first, pair.second)
    )
    length = np.sqrt(np.einsum("np,np->n", a, a) * np.einsum("np,np->n", b, b))
    return np.asarray(np.einsum("np,np->n", a, b) / np.maximum(length, 1e-6), np.float32)
