"""Which pictures are the same but for encoding, size, a trim of the edge or a change of tone."""

from __future__ import annotations

import numpy as np

from retrieval_core.arrays import Float32, Int64, UInt8
from retrieval_core.metrics.exact_knn import exact_topk

THUMBNAIL_PX = 24
COARSE_PX = 8
N_NEIGHBOURS = 10
# Root mean square difference of the mean colours of 64 regions, in levels of 255. Encoding a picture again, or at
# another size, moves them by less than 1.
SAME_PICTURE_RMS = 4.0
# Correlation of grey thumbnails in their best position. Chosen on 1,550 street photographs: ten pairs are one picture
# cut or toned twice, at 0.91 to 1.00; all others, also of one person in another pose, stay below 0.87. With the
# background masked away others come up to 0.93, so that a few of them are taken for the same.
ALIKE_CORRELATION = 0.9
MAX_SHIFT_PX = 2  # of a thumbnail: 8% of the side
FLAT_LEVELS = 2.0  # a thumbnail that deviates by less from its mean shows nothing to correlate
GREY = np.array([0.299, 0.587, 0.114], np.float32)
BLOCK = 1024


def thumbnails(pixels: UInt8) -> UInt8:
    """(n, 24, 24, 3) uint8: the mean colours of a 24 by 24 grid over (n, s, s, 3) uint8 pictures."""
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


def near_duplicates(small: UInt8) -> list[tuple[int, int]]:
    """Pairs of rows of (n, 24, 24, 3) uint8 `thumbnails` that show the same picture.

    Among each row's ten nearest by colour: all that are the same but for their encoding, and the one that correlates
    best, where it does so well enough. One alone, because pictures of a kind, such as shirts on white, resemble each
    other in long chains, and a chain would put all of them on one side.
    """
    if len(small) < 2:
        return []
    found, rms = _nearest_by_colour(small)
    rows, ranks = np.nonzero(rms <= SAME_PICTURE_RMS)
    same = zip(rows, found[rows, ranks], strict=True)
    best, correlation = _best_correlated(small @ GREY, found)
    alike = ((row, best[row]) for row in np.flatnonzero(correlation >= ALIKE_CORRELATION))
    return [(int(a), int(b)) for a, b in (*same, *alike)]


def _nearest_by_colour(small: UInt8) -> tuple[Int64, Float32]:
    """(n, 10) nearest rows, -1 where there are fewer, and the root mean square difference of their coarse colours."""
    n_fine = THUMBNAIL_PX // COARSE_PX
    coarse = small.reshape(-1, COARSE_PX, n_fine, COARSE_PX, n_fine, 3).mean(axis=(2, 4), dtype=np.float32)
    centred = coarse.reshape(len(small), -1)
    centred -= centred.mean(axis=0, keepdims=True)
    squares = np.square(centred).sum(axis=1, keepdims=True)
    # The largest 2 ab - b² is the nearest b: a search by inner product that finds by distance.
    scores, found = exact_topk(
        np.hstack([2 * centred, -np.ones_like(squares)]),
        np.hstack([centred, squares]),
        N_NEIGHBOURS,
        exclude=np.arange(len(small)),
    )
    return found, np.sqrt(np.maximum(squares - scores, 0) / centred.shape[1])


def _best_correlated(grey: Float32, found: Int64) -> tuple[Int64, Float32]:
    """(n,) the row among those `found` for each that correlates best with it at any small shift, and how well: -1 to 1.

    `grey` is (n, 24, 24) float32. Whatever is missing or flat correlates by -1 or 0.
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
    """(…, 400) windows of (…, 24, 24) thumbnails, of mean 0 and length 1; a flat one is 0."""
    side = THUMBNAIL_PX - 2 * MAX_SHIFT_PX
    window = grey[..., top : top + side, left : left + side].reshape(*grey.shape[:-2], side * side)
    window = window - window.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(window, axis=-1, keepdims=True)
    return np.where(length < FLAT_LEVELS * side, 0, window / np.maximum(length, 1))
