"""A head is fitted once for its vectors, and boosts them; where nothing can be learned there is none."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_core.artifacts.catalog_rows import inner_validation
from retrieval_core.artifacts.manifests import Head
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.artifacts.shards import seal_derived
from retrieval_core.config.stages import HeadConfig
from retrieval_core.head.fit import boost_shard, fit_head, plan_boosting
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_vectors import items, seal_catalog, seal_set

NUMBERS = range(100)
CONFIG = HeadConfig(hidden_dim=16, max_epochs=40)


def test_a_head_is_fitted_and_sealed_once(local_store: Store) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    fitted = fit_head(local_store, catalog, vectors, CONFIG)
    assert fitted is not None
    assert fitted.trained
    head = Head.open(local_store, fitted.ref)
    assert head.tasks == {"category": ["coat", "dress"]}
    assert head.metrics["accuracy/category"] == 1.0
    assert head.counts == {"rows": 80, "validation": int(inner_validation(items(NUMBERS), CONFIG.seed).sum())}
    assert (head.input_dim, head.dim, head.parents["vectors"]) == (8, 10, vectors.family)
    again = fit_head(local_store, catalog, vectors, CONFIG)
    assert again is not None
    assert (again.ref, again.trained) == (fitted.ref, False)


def test_boosted_vectors_are_of_unit_length_and_tell_their_head(local_store: Store) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    fitted = fit_head(local_store, catalog, vectors, CONFIG)
    assert fitted is not None
    head = Head.open(local_store, fitted.ref)
    plan = plan_boosting(local_store, vectors, head)
    for shard in plan.shards:
        boost_shard(local_store, shard, head)
    (boosted,) = seal_derived(local_store, plan)
    rows = load_vectors(local_store, boosted, [f"c{n}" for n in NUMBERS])
    assert rows.shape == (100, 8 + 2)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    similarity = rows @ rows.T
    assert similarity[1::2, 1::2].mean() > similarity[1::2, ::2].mean() + 0.2
    assert (str(boosted.variant), boosted.parents["head"]) == ("boosted", fitted.ref.name)
    assert len(boosted.parts) == len(vectors.parts)


def test_of_more_rows_than_the_bound_a_sample_trains_the_same_head_every_time(local_store: Store, tmp_path) -> None:
    config = CONFIG.model_copy(update={"max_rows": 40, "max_epochs": 2})
    heads = []
    for store in (local_store, open_store(str(tmp_path / "other"))):
        catalog = seal_catalog(store, NUMBERS)
        fitted = fit_head(store, catalog, seal_set(store, catalog, NUMBERS), config)
        assert fitted is not None
        heads.append(Head.open(store, fitted.ref))
    assert heads[0].counts["rows"] == 40
    assert heads[0].parts == heads[1].parts


def test_a_bound_that_does_not_bind_changes_no_weight(local_store: Store, tmp_path) -> None:
    weights = []
    for store, max_rows in ((local_store, 100), (open_store(str(tmp_path / "other")), 200_000)):
        catalog = seal_catalog(store, NUMBERS)
        config = CONFIG.model_copy(update={"max_rows": max_rows, "max_epochs": 2})
        fitted = fit_head(store, catalog, seal_set(store, catalog, NUMBERS), config)
        assert fitted is not None
        weights.append(Head.open(store, fitted.ref).parts[0].sha256)
    assert weights[0] == weights[1]


def test_a_catalogue_without_frequent_labels_has_no_head(local_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    catalog = seal_catalog(local_store, NUMBERS)
    vectors = seal_set(local_store, catalog, NUMBERS)
    assert fit_head(local_store, catalog, vectors, HeadConfig(min_count=1_000)) is None
    assert "no label is frequent enough" in caplog.text
    assert list(local_store.list(f"{Head.folder}/")) == []
