"""Principal component analysis, fitted in one pass over batches with O(dim²) memory for any number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from retrieval_core.arrays import Float32, Float64
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt

CHUNK_ROWS = 8192
FEW = 100  # times as many dimensions as components are found by Lanczos' method in a fraction of the time
PCA_FILE = "pca.safetensors"
# A component below this share of the largest variance holds rounding noise, which whitening must not scale up.
NEGLIGIBLE_VARIANCE = 1e-10


class Pca(NamedTuple):
    """Orthonormal directions by decreasing variance, so that the first rows are the PCA of any smaller dimension.

    `variances` (n - 1 in the denominator) belong to the kept components, `total_variance` to all of the data.
    """

    mean: Float32  # (d,)
    components: Float32  # (k, d)
    variances: Float64  # (k,)
    total_variance: float

    def explained_variance(self, dim: int) -> float:
        """Return the share of the total variance (0 to 1) in the first `dim` components; 1 for constant data."""
        if self.total_variance == 0:
            return 1.0
        return min(1.0, float(self.variances[:dim].sum()) / self.total_variance)


def fit_pca(batches: Iterable[Float32], max_dim: int) -> Pca:
    """Fit the first `max_dim` principal components of all rows of `batches`, each (n, d) float32; n may vary or be 0.

    Sums and outer products are kept in float64 and decomposed by `eigh`, or by Lanczos' method for few of many
    components; the entry of largest magnitude of each is positive. With fewer rows than dimensions the last components
    have variance 0 and complete the basis.

    Raises `BadConfig` without rows or when `max_dim` is not in 1..d, `DimensionMismatch` when widths differ,
    `ShardCorrupt` for values that are not finite.
    """
    mean, covariance = _moments_of(batches, max_dim)
    eigenvalues, eigenvectors = _decomposed(covariance, max_dim)  # ascending
    components = eigenvectors[:, ::-1][:, :max_dim].T
    largest = np.abs(components).argmax(axis=1)
    signs = np.where(components[np.arange(max_dim), largest] < 0, -1.0, 1.0)
    return Pca(
        mean=mean.astype(np.float32),
        components=np.ascontiguousarray(components * signs[:, None], dtype=np.float32),
        variances=eigenvalues[::-1][:max_dim].clip(min=0.0),
        total_variance=float(np.trace(covariance).clip(min=0.0)),
    )


def _decomposed(covariance: Float64, n: int) -> tuple[Float64, Float64]:
    """Return the (d,) eigenvalues, ascending, and (d, d) eigenvectors; the `n` largest alone where d is far more."""
    if len(covariance) < FEW * n or not covariance.any():
        return np.linalg.eigh(covariance)
    from scipy.sparse.linalg import eigsh

    return eigsh(covariance, n, v0=np.random.default_rng(0).standard_normal(len(covariance)))


def fit_truncation(batches: Iterable[Float32], max_dim: int) -> Pca:
    """Return the projection to the first `max_dim` coordinates, with their variances; raises as `fit_pca` does.

    Vectors trained on slices (Matryoshka) hold in their leading coordinates what matters most. The mean is left in.
    """
    mean, covariance = _moments_of(batches, max_dim)
    variances = covariance.diagonal().clip(min=0.0)
    return Pca(
        mean=np.zeros(len(mean), np.float32),
        components=np.eye(max_dim, len(mean), dtype=np.float32),
        variances=variances[:max_dim],
        total_variance=float(variances.sum()),
    )


def _moments_of(batches: Iterable[Float32], max_dim: int) -> tuple[Float64, Float64]:
    """Return the mean (d,) and the covariance (d, d) of all rows. Raises as `fit_pca` does."""
    moments = _stream_moments(batches)
    dim = len(moments.origin)
    if not 1 <= max_dim <= dim:
        raise BadConfig(f"cannot reduce vectors of width {dim} to {max_dim}; choose reduce.dims from 1 to {dim}")
    shift = moments.total / moments.n_rows
    scatter = moments.outer - moments.n_rows * np.outer(shift, shift)
    return moments.origin + shift, scatter / max(moments.n_rows - 1, 1)


class _Moments(NamedTuple):
    n_rows: int
    origin: Float64  # (d,) the first row, subtracted from all: else a mean far from 0 would cancel the variance
    total: Float64  # (d,) sum of the rows minus the origin
    outer: Float64  # (d, d) sum of their outer products


def _stream_moments(batches: Iterable[Float32]) -> _Moments:
    n_rows = 0
    origin = total = outer = np.empty(0)
    for chunk in _checked_chunks(batches):
        if n_rows == 0:
            origin = chunk[0].copy()
            total, outer = np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
        elif chunk.shape[1] != len(origin):
            raise DimensionMismatch(f"a batch of width {chunk.shape[1]} follows batches of width {len(origin)}")
        chunk -= origin
        n_rows += len(chunk)
        total += chunk.sum(axis=0)
        outer += chunk.T @ chunk
    if n_rows == 0:
        raise BadConfig("no vectors to fit a PCA on; embed at least one picture first")
    return _Moments(n_rows, origin, total, outer)


def _checked_chunks(batches: Iterable[Float32]) -> Iterator[Float64]:
    for batch in batches:
        if batch.ndim != 2:
            raise DimensionMismatch(f"PCA expects batches of shape (n, d), got {batch.shape}")
        for start in range(0, len(batch), CHUNK_ROWS):
            chunk = batch[start : start + CHUNK_ROWS].astype(np.float64)
            if not np.isfinite(chunk).all():
                raise ShardCorrupt("vectors to fit a PCA on hold NaN or infinity; remove their part and embed again")
            yield chunk


def project(pca: Pca, vectors: Float32, dim: int, whiten: bool = False) -> Float32:
    """Return the coordinates (n, dim) float32 of (n, d) `vectors` on the first `dim` components, not normalised.

    Whitened coordinates have variance 1 over the fitted rows, and are 0 for components without variance.
    Raises `DimensionMismatch` for another width, `BadConfig` when `dim` is not in 1..k.
    """
    n_components, width = pca.components.shape
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise DimensionMismatch(f"the PCA was fitted on vectors of width {width}, got shape {vectors.shape}")
    if not 1 <= dim <= n_components:
        raise BadConfig(f"the PCA holds {n_components} components, {dim} were asked for; fit it with a larger max_dim")
    centred = vectors.astype(np.float32, copy=False) - pca.mean
    coordinates: Float32 = np.matmul(centred, pca.components[:dim].T)
    if whiten:
        coordinates *= _whitening_scale(pca.variances)[:dim]
    return coordinates


def _whitening_scale(variances: Float64) -> Float32:
    varies = variances > NEGLIGIBLE_VARIANCE * variances[0]
    return np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0).astype(np.float32)


def apply_pca(pca: Pca, vectors: Float32, dim: int, whiten: bool = False) -> Float32:
    """Return reduced vectors (n, dim) float32 of unit length from (n, d); a vector equal to the mean stays zero.

    Raises as `project` does.
    """
    return unit_length(project(pca, vectors, dim, whiten))


def save_pca(pca: Pca, path: Path) -> None:
    """Write the PCA as safetensors; equal PCAs give equal bytes."""
    tensors = {**pca._asdict(), "total_variance": np.array([pca.total_variance])}
    save_file(tensors, path)


def load_pca(path: Path) -> Pca:
    """Return the PCA that `save_pca` wrote, bit for bit. Raises `ShardCorrupt` when the file holds none."""
    try:
        tensors = load_file(path)
        return Pca(
            mean=tensors["mean"],
            components=tensors["components"],
            variances=tensors["variances"],
            total_variance=float(tensors["total_variance"][0]),
        )
    except (SafetensorError, OSError, KeyError, IndexError) as error:
        raise ShardCorrupt(f"{path} is not a fitted PCA: {error}; fit it again") from error
