"""PCA against scikit-learn, against how its rows were batched, and against data that does not span the space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import decomposition

from retrieval_core.arrays import Float32, Float64
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt
from retrieval_core.reduce.pca import Pca, apply_pca, fit_pca, load_pca, project, save_pca


def draw(n_rows: int = 200, dim: int = 12, seed: int = 0, offset: float = 0.0) -> Float32:
    """Rows whose variances differ clearly by direction, in a rotated frame."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    spread = 0.7 ** np.arange(dim)
    return (rng.normal(size=(n_rows, dim)) * spread @ rotation + offset).astype(np.float32)


def covariance_kept(pca: Pca) -> Float64:
    """What the components say about the data, whatever their signs and the order of equal variances."""
    components = pca.components.astype(np.float64)
    return components.T @ (pca.variances[:, None] * components)


@pytest.mark.parametrize("dim", [12, 600])  # of many dimensions, few components are found in another way
def test_agrees_with_scikit_learn(dim: int) -> None:
    vectors = draw(dim=dim)
    ours, theirs = fit_pca([vectors], 5), decomposition.PCA(5, svd_solver="full").fit(vectors.astype(np.float64))
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-6)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(ours.components * theirs.components_, axis=1)), 1, atol=1e-6)
    assert ours.explained_variance(3) == pytest.approx(theirs.explained_variance_ratio_[:3].sum())


def test_few_components_of_many_dimensions_are_those_of_constant_and_of_short_data() -> None:
    assert fit_pca([np.full((5, 300), 0.1, np.float32)], 2).explained_variance(2) == 1
    line = np.outer(np.arange(4, dtype=np.float32), np.eye(1, 300, dtype=np.float32))
    pca = fit_pca([line], 3)
    np.testing.assert_allclose(pca.variances, [5 / 3, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(pca.components[0], np.eye(1, 300)[0], atol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
def test_projects_as_scikit_learn_does_up_to_signs(whiten: bool) -> None:
    vectors, fresh = draw(seed=1), draw(n_rows=9, seed=2)
    theirs = decomposition.PCA(4, svd_solver="full", whiten=whiten).fit(vectors.astype(np.float64)).transform(fresh)
    ours = project(fit_pca([vectors], 6), fresh, 4, whiten)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), seed=st.integers(0, 1000))
def test_the_fit_does_not_depend_on_how_rows_are_batched(cuts: list[int], seed: int) -> None:
    vectors = draw(n_rows=60, dim=7, seed=seed)
    whole, split = fit_pca([vectors], 7), fit_pca(np.split(vectors, sorted(cuts)), 7)
    np.testing.assert_allclose(split.mean, whole.mean, atol=1e-7)
    np.testing.assert_allclose(split.variances, whole.variances, rtol=1e-9)
    np.testing.assert_allclose(covariance_kept(split), covariance_kept(whole), atol=1e-6)


def test_batches_longer_than_one_chunk_count_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = draw(n_rows=100)
    whole = fit_pca([vectors], 12)
    monkeypatch.setattr("retrieval_core.reduce.pca.CHUNK_ROWS", 7)
    np.testing.assert_allclose(fit_pca([vectors], 12).variances, whole.variances, rtol=1e-9)


def test_a_mean_far_from_zero_does_not_cancel_the_variance() -> None:
    far = draw(offset=1e4)
    exact = np.linalg.eigvalsh(np.cov(far.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(fit_pca([far], 12).variances, exact, rtol=1e-6, atol=1e-10)


def test_a_smaller_pca_is_a_prefix_of_a_larger_one() -> None:
    vectors = draw()
    large, small = fit_pca([vectors], 9), fit_pca([vectors], 3)
    np.testing.assert_array_equal(large.components[:3], small.components)
    np.testing.assert_array_equal(project(large, vectors, 9)[:, :3], project(small, vectors, 3))


@settings(max_examples=30)
@given(n_rows=st.integers(1, 30), dim=st.integers(1, 10), seed=st.integers(0, 1000))
def test_components_are_orthonormal_ordered_and_signed(n_rows: int, dim: int, seed: int) -> None:
    pca = fit_pca([draw(n_rows, dim, seed)], dim)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(dim), atol=1e-5)
    assert (np.diff(pca.variances) <= 0).all()
    assert (pca.variances >= 0).all()
    assert (pca.components[np.arange(dim), np.abs(pca.components).argmax(axis=1)] > 0).all()
    assert pca.explained_variance(dim) == pytest.approx(1)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_pca(fit_pca([draw()], 5), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reduced_vectors_have_unit_length() -> None:
    vectors = draw()
    reduced = apply_pca(fit_pca([vectors], 8), vectors, 3)
    assert reduced.shape == (200, 3)
    assert reduced.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, atol=1e-6)


def test_whitened_coordinates_have_unit_variance() -> None:
    vectors = draw(n_rows=400)
    coordinates = project(fit_pca([vectors], 12), vectors, 12, whiten=True)
    np.testing.assert_allclose(np.cov(coordinates.T), np.eye(12), atol=1e-3)


def test_whitening_leaves_directions_without_variance_at_zero() -> None:
    plane = draw(n_rows=50, dim=2) @ draw(n_rows=2, dim=10, seed=3)
    pca = fit_pca([plane], 10)
    coordinates = project(pca, plane, 10, whiten=True)
    np.testing.assert_allclose(coordinates[:, :2].var(axis=0, ddof=1), 1, atol=1e-3)
    assert (coordinates[:, 2:] == 0).all()
    assert pca.explained_variance(2) == pytest.approx(1)


def test_fewer_rows_than_dimensions_keep_all_distances() -> None:
    few = draw(n_rows=5, dim=20)
    coordinates = project(fit_pca([few], 4), few, 4)
    np.testing.assert_allclose(
        np.linalg.norm(coordinates[0] - coordinates[1:], axis=1), np.linalg.norm(few[0] - few[1:], axis=1), rtol=1e-4
    )


@pytest.mark.parametrize("n_rows", [1, 30])
@pytest.mark.parametrize("whiten", [False, True])
def test_constant_data_reduces_to_zero_vectors(n_rows: int, whiten: bool) -> None:
    constant = np.full((n_rows, 6), 0.1, np.float32)
    pca = fit_pca([constant], 3)
    assert pca.total_variance == 0
    assert pca.explained_variance(3) == 1
    assert (apply_pca(pca, constant, 3, whiten) == 0).all()


def test_no_queries_give_no_vectors() -> None:
    assert apply_pca(fit_pca([draw()], 4), np.empty((0, 12), np.float32), 2).shape == (0, 2)


@pytest.mark.parametrize("max_dim", [0, -1, 13])
def test_a_dimension_the_data_cannot_give_is_bad_config(max_dim: int) -> None:
    with pytest.raises(BadConfig, match="from 1 to 12"):
        fit_pca([draw()], max_dim)


@pytest.mark.parametrize("batches", [[], [np.empty((0, 4), np.float32)]])
def test_no_rows_are_bad_config(batches: list[Float32]) -> None:
    with pytest.raises(BadConfig, match="no vectors"):
        fit_pca(batches, 2)


@pytest.mark.parametrize("second", [np.zeros((3, 5), np.float32), np.zeros(4, np.float32)])
def test_batches_of_different_shape_are_refused(second: Float32) -> None:
    with pytest.raises(DimensionMismatch):
        fit_pca([np.zeros((3, 4), np.float32), second], 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    vectors = draw()
    vectors[17, 3] = value
    with pytest.raises(ShardCorrupt, match="NaN or infinity"):
        fit_pca([vectors], 2)


@pytest.mark.parametrize("shape", [(4, 11), (4, 13), (12,)])
def test_vectors_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch, match="width 12"):
        apply_pca(fit_pca([draw()], 4), np.zeros(shape, np.float32), 2)


@pytest.mark.parametrize("dim", [0, 5])
def test_more_dimensions_than_were_fitted_are_bad_config(dim: int) -> None:
    with pytest.raises(BadConfig, match="holds 4 components"):
        apply_pca(fit_pca([draw()], 4), draw(), dim)


def test_a_saved_pca_comes_back_bit_for_bit(tmp_path: Path) -> None:
    pca = fit_pca([draw()], 5)
    save_pca(pca, tmp_path / "pca.safetensors")
    for saved, loaded in zip(pca, load_pca(tmp_path / "pca.safetensors"), strict=True):
        np.testing.assert_array_equal(loaded, saved)
        assert np.asarray(loaded).dtype == np.asarray(saved).dtype


def test_a_file_that_is_no_pca_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "pca.safetensors"
    save_pca(fit_pca([draw()], 5), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardCorrupt, match="fit it again"):
        load_pca(path)
    with pytest.raises(ShardCorrupt):
        load_pca(tmp_path / "absent")
