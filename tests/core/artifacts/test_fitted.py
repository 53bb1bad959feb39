"""A model is fitted once: the sealed one is found again, and production's serves while little has changed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from retrieval_core.artifacts import fingerprints, releases
from retrieval_core.artifacts.fitted import FitQuestion, changed_fraction, fit_or_reuse, still_serves
from retrieval_core.artifacts.manifests import Catalog, Reducer, Ref, Release
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.config.stages import ReduceConfig
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

NOWHERE = Ref(kind="", key="none/none")


def items(*content_ids: str) -> pl.DataFrame:
    rows = [(f"i{n}", content_id) for n, content_id in enumerate(content_ids)]
    return pl.DataFrame(rows, schema={"item_id": pl.String, "content_id": pl.String}, orient="row")


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (items(*"abcd"), 0.0),
        (items(*"abcx"), 0.25),
        (items(*"abc"), 0.25),
        (items(*"abcde"), 0.2),
        (items(), 1.0),
    ],
)
def test_change_is_the_share_of_items_that_are_not_as_they_were(current: pl.DataFrame, expected: float) -> None:
    assert changed_fraction(items(*"abcd"), current) == pytest.approx(expected)
    assert changed_fraction(current, items(*"abcd")) == pytest.approx(expected)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the catalogue `previous`, and two of which two and three items in ten are others."""
    store = open_store(str(tmp_path))
    catalogs = {"previous": "abcdefghij", "fifth": "abcdefghxy", "third": "abcdefgxyz"}
    for name, content_ids in catalogs.items():
        part = put_part(store, f"catalogs/{name}/items.parquet", table_bytes(items(*content_ids)), 10)
        Catalog(fingerprint=name, parts=(part,)).seal(store)
    return store


def question(config: ReduceConfig, catalog: str = "previous", vectors: str = "family") -> FitQuestion:
    return FitQuestion(
        fingerprint=fingerprints.reducer_fingerprint(config, catalog, vectors),
        config=fingerprints.reducer_question(config),
        parents={"catalog": catalog, "vectors": vectors},
        refit_after_change=config.refit_after_change,
    )


def reducer(asked: FitQuestion) -> Reducer:
    return Reducer(fingerprint=asked.fingerprint, config=asked.config, parents=asked.parents, input_dim=8, dims=(4,))


def publish(store: Store, model: Reducer) -> Reducer:
    sealed = model.seal(store)
    release = Release(
        fingerprint="r" * 32, config={}, catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE,
        report=NOWHERE, variant="raw", gate="published", reducer=sealed.ref,
    ).seal(store)  # fmt: skip
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)
    return sealed


def test_a_model_serves_until_too_much_has_changed(store: Store) -> None:
    config = ReduceConfig(refit_after_change=0.2)
    model = reducer(question(config))
    assert still_serves(store, model, question(config, "fifth"))
    assert not still_serves(store, model, question(config, "third"))


def test_a_model_of_another_question_or_other_vectors_never_serves(store: Store) -> None:
    config = ReduceConfig()
    model = reducer(question(config))
    assert still_serves(store, model, question(config))
    assert not still_serves(store, reducer(question(ReduceConfig(whiten=True))), question(config))
    assert not still_serves(store, model, question(config, vectors="other"))
    assert not still_serves(store, reducer(question(config, catalog="vacuumed")), question(config))


def refuse() -> Reducer:
    raise AssertionError("a model was fitted although one serves")


def test_a_model_is_fitted_and_sealed_once(store: Store) -> None:
    asked = question(ReduceConfig())
    first = fit_or_reuse(store, Reducer, asked, lambda: reducer(asked))
    assert first.trained
    assert Reducer.open(store, first.ref) == Reducer.find(store, asked.fingerprint)
    again = fit_or_reuse(store, Reducer, asked, refuse)
    assert (again.ref, again.trained) == (first.ref, False)


def test_the_model_of_production_is_reused_while_it_serves(store: Store) -> None:
    config = ReduceConfig(refit_after_change=0.2)
    model = publish(store, reducer(question(config)))
    reused = fit_or_reuse(store, Reducer, question(config, "fifth"), refuse)
    assert (reused.ref, reused.trained) == (model.ref, False)
    changed = question(config, "third")
    refitted = fit_or_reuse(store, Reducer, changed, lambda: reducer(changed))
    assert (refitted.ref.name, refitted.trained) == (changed.fingerprint, True)


def test_any_model_of_production_can_be_reused_where_no_other_can_be_fitted(store: Store) -> None:
    model = publish(store, reducer(question(ReduceConfig(whiten=True))))
    reused = fit_or_reuse(store, Reducer, question(ReduceConfig(), "third"), refuse, reuse_any=True)
    assert reused.ref == model.ref


def test_there_is_no_model_where_nothing_can_be_fitted(store: Store) -> None:
    asked = question(ReduceConfig())
    assert fit_or_reuse(store, Reducer, asked, lambda: None) is None
    assert Reducer.find(store, asked.fingerprint) is None
