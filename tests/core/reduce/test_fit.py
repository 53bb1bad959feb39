"""A reducer is fitted once for its vectors, and reduces them to each of its dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.artifacts.fingerprints import reducer_question
from retrieval_core.artifacts.manifests import Reducer, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.artifacts.shards import seal_derived
from retrieval_core.config.stages import ReduceConfig
from retrieval_core.reduce.fit import fit_reducer, plan_reducing, reduce_shard
from retrieval_core.store.base import Store
from tests.core.sealed_vectors import seal_catalog, seal_set

NUMBERS = range(40)


def reduce_all(store: Store, vectors: VectorSet, reducer: Reducer, config: ReduceConfig) -> list[VectorSet]:
    plan = plan_reducing(store, vectors, reducer)
    for shard in plan.shards:
        reduce_shard(store, shard, reducer, config)
    return seal_derived(store, plan)


def test_a_reducer_is_fitted_and_sealed_once(local_store: Store) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    config = ReduceConfig(dims=(4, 2))
    fitted = fit_reducer(local_store, catalog, vectors, config)
    reducer = Reducer.open(local_store, fitted.ref)
    assert fitted.trained
    assert (reducer.input_dim, reducer.dims) == (8, (4, 2))
    assert 0 < reducer.explained_variance["2"] < reducer.explained_variance["4"] < 1
    again = fit_reducer(local_store, catalog, vectors, config)
    assert (again.ref, again.trained) == (fitted.ref, False)


def test_reduced_vectors_are_of_unit_length_in_each_dimension(local_store: Store) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    config = ReduceConfig(dims=(4, 2))
    reducer = Reducer.open(local_store, fit_reducer(local_store, catalog, vectors, config).ref)
    reduced = reduce_all(local_store, vectors, reducer, config)
    assert [(str(made.variant), made.dim) for made in reduced] == [("pca4", 4), ("pca2", 2)]
    for made in reduced:
        rows = load_vectors(local_store, made, [f"c{n}" for n in NUMBERS])
        assert rows.shape == (40, made.dim)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_vectors_are_cut_off_where_the_backbone_was_trained_for_it(local_store: Store) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    by_pca, config = ReduceConfig(dims=(4, 2)), ReduceConfig(dims=(4, 2), method="truncate")
    reducer = Reducer.open(local_store, fit_reducer(local_store, catalog, vectors, config).ref)
    assert reducer.fingerprint != fit_reducer(local_store, catalog, vectors, by_pca).ref.name
    assert 0 < reducer.explained_variance["2"] < reducer.explained_variance["4"] < 1
    ids = [f"c{number}" for number in NUMBERS]
    whole = load_vectors(local_store, vectors, ids)
    for made in reduce_all(local_store, vectors, reducer, config):
        leading = whole[:, : made.dim]
        expected = leading / np.linalg.norm(leading, axis=1, keepdims=True)
        np.testing.assert_allclose(load_vectors(local_store, made, ids), expected, atol=1e-6)


def test_the_way_to_reduce_renames_no_reducer_that_was_fitted_before_there_was_a_choice() -> None:
    assert "method" not in reducer_question(ReduceConfig())
    assert reducer_question(ReduceConfig(method="truncate"))["method"] == "truncate"


def test_narrow_vectors_are_reduced_to_no_more_dimensions_than_they_have(
    local_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    fitted = fit_reducer(local_store, catalog, vectors, ReduceConfig(dims=(128, 64)))
    assert Reducer.open(local_store, fitted.ref).dims == (8,)
    assert "vectors have 8 dimensions" in caplog.text
