"""Find pictures that are the same except for encoding, size, trimmed edges or tone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int64, UInt8
from retrieval_core.metrics.exact_knn import exact_topk

THUMBNAIL_PX = 24
COARSE_PX = 8
N_NEIGHBOURS = 10
# Root mean square difference of the mean colours of 64 regions, in levels of 255. Re-encoding or resizing a picture
# changes them by less than 1.
SAME_PICTURE_RMS = 4.0
# Correlation of grey thumbnails at the best shift. Chosen on 1,550 street photographs: ten pairs are one picture,
# trimmed or toned differently, with 0.91 to 1.00; all other pairs, even of one person in another pose, stay below 0.87.
# With masked backgrounds, different pictures reach 0.93, so that a few of them are taken for the same.
ALIKE_CORRELATION = 0.9
MAX_SHIFT_PX = 2  # 8% of a thumbnail's side
FLAT_LEVELS = 2.0  # a thumbnail with a smaller standard deviation has nothing to correlate
GREY = np.array([0.299, 0.587, 0.114], np.float32)
BLOCK = 1024


def thumbnails(pixels: UInt8) -> UInt8:
    """Return the mean colours of a 24 by 24 grid over square pictures: (n, s, s, 3) to (n, 24, 24, 3)."""
    side = pixels.shape[1]
    repeat = -(-THUMBNAIL_PX // side)
    edges = np.linspace(0, side * repeat, THUMBNAIL_PX + 1).astype(np.int64)
    cells = np.diff(edges)
    out = np.empty((len(pixels), THUMBNAIL_PX, THUMBNAIL_PX, 3), np.uint8)
    for row, picture in enumerate(pixels):
        large = picture.repeat(repeat, axis=0).repeat(repeat, axis=1).astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(large, edges[:-1], axis=0), edges[:-1], axis=1)
        out[row] = np.rint(sums / (cells[:, None] * cells)[..., None])
    return out


class Duplicates(NamedTuple):
    """Pairs of rows that show one picture: `copies` differ in their encoding only, `alike` also in edges or tone."""

    copies: list[tuple[int, int]]
    alike: list[tuple[int, int]]


def near_duplicates(small: UInt8) -> Duplicates:
    """Return the pairs of rows of `thumbnails`, (n, 24, 24, 3), that show the same picture.

    Each row is compared with its ten nearest by colour. Of those, only the one that correlates best, if it correlates
    enough, is alike, because pictures of one kind, such as shirts on white, resemble each other in long chains.
    """
    if len(small) < 2:
        return Duplicates([], [])
    found, rms = _nearest_by_colour(small)
    rows, ranks = np.nonzero(rms <= SAME_PICTURE_RMS)
    best, correlation = _best_correlated(small @ GREY, found)
    alike = np.flatnonzero(correlation >= ALIKE_CORRELATION)
    return Duplicates(_pairs(rows, found[rows, ranks]), _pairs(alike, best[alike]))


def _pairs(rows: Int64, others: Int64) -> list[tuple[int, int]]:
    return list(zip(rows.tolist(), others.tolist(), strict=True))


def _nearest_by_colour(small: UInt8) -> tuple[Int64, Float32]:
    """Return the ten nearest rows, (n, 10) with -1 for none, and the RMS differences of their coarse colours."""
    n_fine = THUMBNAIL_PX // COARSE_PX
    coarse = small.reshape(-1, COARSE_PX, n_fine, COARSE_PX, n_fine, 3).mean(axis=(2, 4), dtype=np.float32)
    centred = coarse.reshape(len(small), -1)
    centred -= centred.mean(axis=0, keepdims=True)
    squares = np.square(centred).sum(axis=1, keepdims=True)
    # The nearest b has the largest 2ab - b², so that a search by inner product finds by distance.
    scores, found = exact_topk(
        np.hstack([2 * centred, -np.ones_like(squares)]),
        np.hstack([centred, squares]),
        N_NEIGHBOURS,
        exclude=np.arange(len(small)),
    )
    return found, np.sqrt(np.maximum(squares - scores, 0) / centred.shape[1])


def _best_correlated(grey: Float32, found: Int64) -> tuple[Int64, Float32]:
    """Return for each row the one of `found` that correlates best at any small shift, (n,), and its correlation.

    `grey` is (n, 24, 24). The correlation is -1 to 1; it is -1 for a missing row and 0 for a flat one.
    """
    n = len(grey)
    best, correlation = np.zeros(n, np.int64), np.full(n, -1, np.float32)
    for start in range(0, n, BLOCK):
        near = found[start : start + BLOCK]
        centre = _windows(grey[start : start + BLOCK], MAX_SHIFT_PX, MAX_SHIFT_PX)
        others = grey[near]
        highest = np.full(near.shape, -1, np.float32)
        for top in range(2 * MAX_SHIFT_PX + 1):
            for left in range(2 * MAX_SHIFT_PX + 1):
                shifted = np.einsum("bi,bki->bk", centre, _windows(others, top, left))
                highest = np.maximum(highest, np.where(near < 0, -1, shifted))
        rank = highest.argmax(axis=1, keepdims=True)
        best[start : start + BLOCK] = np.take_along_axis(near, rank, axis=1)[:, 0]
        correlation[start : start + BLOCK] = np.take_along_axis(highest, rank, axis=1)[:, 0]
    return best, correlation


def _windows(grey: Float32, top: int, left: int) -> Float32:
    """Return windows of thumbnails, (…, 24, 24) to (…, 400), of mean 0 and length 1; a flat one is all 0."""
    side = THUMBNAIL_PX - 2 * MAX_SHIFT_PX
    window = grey[..., top : top + side, left : left + side].reshape(*grey.shape[:-2], side * side)
    window = window - window.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(window, axis=-1, keepdims=True)
    return np.where(length < FLAT_LEVELS * side, 0, window / np.maximum(length, 1))
