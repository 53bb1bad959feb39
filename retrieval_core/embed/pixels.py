"""The baseline without a network: principal components of the pixels themselves (eigenpictures).

Turk and Pentland, "Eigenfaces for Recognition", 1991. Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
import torch

from retrieval_core.arrays import Float64, UInt8
from retrieval_core.embed.networks import PixelPca
from retrieval_core.errors import BadConfig

# Below this share of the largest variance a direction is rounding noise.
NEGLIGIBLE_VARIANCE = 1e-10


def fit_pixel_pca(pixels: UInt8, dim: int) -> PixelPca:
    """The first `dim` principal components of (n, size, size, 3) uint8 pictures, their signs fixed.

    Fewer pictures than components leave the last components zero. Raises `BadConfig` for fewer than two pictures.
    """
    n_rows = len(pixels)
    if n_rows < 2:
        raise BadConfig(f"pca_pixels is fitted on the catalogue's own pictures and wants at least two, got {n_rows}")
    rows = pixels.transpose(0, 3, 1, 2).reshape(n_rows, -1) / np.float64(255)
    mean = rows.mean(axis=0)
    directions = _principal_directions(rows - mean)[:dim]
    components = np.zeros((dim, rows.shape[1]))
    components[: len(directions)] = directions
    return PixelPca(torch.from_numpy(mean).float(), torch.from_numpy(components).float())


def _principal_directions(centred: Float64) -> Float64:
    """(k, d) orthonormal rows by falling variance, the entry of largest magnitude of each positive.

    Decomposes whichever of X Xᵀ and Xᵀ X is smaller: there are mostly fewer pictures than pixels.
    """
    n_rows, width = centred.shape
    wide = n_rows < width
    variances, basis = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)  # ascending
    variances, basis = variances[::-1], basis[:, ::-1]
    kept = variances > NEGLIGIBLE_VARIANCE * max(variances[0], np.finfo(np.float64).tiny)
    directions = basis[:, kept].T
    if wide:
        directions = directions @ centred / np.sqrt(variances[kept])[:, None]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return directions * signs[:, None]
