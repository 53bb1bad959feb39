"""Principal components of the pixels themselves (eigenpictures), the baseline without a network.

Turk and Pentland, "Eigenfaces for Recognition", 1991. Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from retrieval_core.arrays import Float64, UInt8
from retrieval_core.errors import BadConfig

# Below this share of the largest variance a direction is rounding noise.
NEGLIGIBLE_VARIANCE = 1e-10


class PixelPca(nn.Module):
    """Map (n, 3, size, size) float32 in 0 to 1 to (n, dim) coordinates along the principal components."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1) - self.mean) @ self.components.T


def fit_pixel_pca(pixels: UInt8, dim: int) -> PixelPca:
    """Return the first `dim` principal components of (n, size, size, 3) uint8 pictures, their signs fixed.

    With fewer pictures than components the last components are zero. Raises `BadConfig` for fewer than two pictures.
    """
    n_rows = len(pixels)
    if n_rows < 2:
        raise BadConfig(f"pca_pixels is fitted on the catalogue's own pictures and needs at least two, got {n_rows}")
    rows = pixels.transpose(0, 3, 1, 2).reshape(n_rows, -1) / np.float64(255)
    mean = rows.mean(axis=0)
    directions = _principal_directions(rows - mean)[:dim]
    components = np.zeros((dim, rows.shape[1]))
    components[: len(directions)] = directions
    return PixelPca(torch.from_numpy(mean).float(), torch.from_numpy(components).float())


def _principal_directions(centred: Float64) -> Float64:
    """Return (k, d) orthonormal rows by falling variance, the entry of largest magnitude of each positive.

    Decomposes the smaller of X Xᵀ and Xᵀ X: there are usually fewer pictures than pixels.
    """
    n_rows, width = centred.shape
    is_wide = n_rows < width
    variances, basis = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)  # ascending
    variances, basis = variances[::-1], basis[:, ::-1]
    kept = variances > NEGLIGIBLE_VARIANCE * max(variances[0], np.finfo(np.float64).tiny)
    directions = basis[:, kept].T
    if is_wide:
        directions = directions @ centred / np.sqrt(variances[kept])[:, None]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return directions * signs[:, None]
