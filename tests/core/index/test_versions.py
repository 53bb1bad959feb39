"""Versions of the index: missing shards are made, others kept, and what production has is kept while it serves."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.fingerprints import reduced_family
from retrieval_core.artifacts.manifests import IndexSet, Ref, Release, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.config.stages import IndexConfig
from retrieval_core.index import versions
from retrieval_core.index.lookup import open_index
from retrieval_core.index.versions import (
    IndexPlan,
    make_shard,
    plan_index,
    previous_candidates,
    quantizer_serves,
    seal_index,
)
from retrieval_core.store.base import Store
from tests.core.sealed_vectors import items, seal_catalog, seal_set

CONFIG = IndexConfig(shards=3, sample_rows=200, tune_queries=20)


def plan(store: Store, numbers: range) -> IndexPlan:
    catalog = seal_catalog(store, numbers)
    return plan_index(store, catalog, seal_set(store, catalog, numbers), [], CONFIG)


def publish(store: Store, planned: IndexPlan) -> IndexSet:
    """Make the missing shards, and publish a release of the index."""
    for shard in planned.split():
        make_shard(store, shard)
    index = seal_index(store, planned, CONFIG)
    release = Release(
        fingerprint=index.fingerprint, config={"index": CONFIG.model_dump(mode="json")}, catalog=planned.catalog,
        backbone=NOWHERE, vectors=planned.vectors, index=index.ref, report=NOWHERE, variant="raw", gate="published",
    ).seal(store)  # fmt: skip
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)
    return index


def test_a_version_finds_every_row_and_is_sealed_once(local_store: Store) -> None:
    planned = plan(local_store, range(60))
    assert planned.missing == (0, 1, 2)
    index = publish(local_store, planned)
    assert (index.counts, index.recall) == ({"rows": 60, "shards": 3}, 1.0)
    table = items(range(60))
    vectors = VectorSet.open(local_store, planned.vectors)
    queries = load_vectors(local_store, vectors, table["content_id"].to_list())
    opened = open_index(local_store, index)
    _, nearest = opened.search(queries, queries, 1, rerank_depth=5)
    assert (nearest[:, 0] == table["row_id"].to_numpy()).all()
    again = plan(local_store, range(60))
    assert again.missing == ()
    assert seal_index(local_store, again, CONFIG).ref == index.ref


def test_an_updated_shard_holds_the_bytes_of_a_built_one(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(local_store, plan(local_store, range(60)))
    planned = plan(local_store, range(1, 62))
    assert planned.previous is not None
    assert 1 <= len(planned.missing) <= 3
    built = {}
    for can_update in (lambda template: False, versions.can_update):
        monkeypatch.setattr(versions, "can_update", can_update)
        for shard in planned.split():
            make_shard(local_store, shard)
        keys = [key for key in local_store.list("indexes/shards/") if key.rsplit("/", 2)[0] in planned.shards]
        built[can_update] = {key: local_store.get(key) for key in keys}
    first, second = built.values()
    assert first == second
    assert len(first) == 6


@pytest.mark.parametrize(
    ("imbalance", "recall", "serves"),
    [
        (1.2, 0.995, True),
        (1.79, 0.995, True),  # half as uneven again is allowed
        (1.9, 0.995, False),
        (1.2, 0.986, True),  # within the noise of the measurement
        (1.2, 0.98, False),
    ],
)
def test_trained_lists_serve_until_they_are_uneven_or_find_less(imbalance: float, recall: float, serves: bool) -> None:
    index = an_index(imbalance, recall, when_new={"imbalance": 1.2, "recall": 0.995})
    assert quantizer_serves(index, IndexConfig(recall_target=0.99)) is serves


def test_lists_that_never_found_enough_are_not_trained_every_night() -> None:
    index = an_index(1.2, 0.7, when_new={"imbalance": 1.2, "recall": 0.7})
    assert quantizer_serves(index, IndexConfig(recall_target=0.99))


def an_index(imbalance: float, recall: float, when_new: dict[str, float]) -> IndexSet:
    return IndexSet(
        fingerprint="i",
        recipe="IVF16,Flat",
        dim=8,
        candidate_dim=8,
        rerank_depth=1,
        family="f",
        template="t",
        imbalance=imbalance,
        recall=recall,
        when_new=when_new,
    )


SETS = tuple(
    VectorSet(fingerprint=f"{dim}-of-c", family=family, variant="raw", dim=dim)
    for dim, family in (
        (32, "v"),
        (16, reduced_family("r", "v", 16)),
        (8, reduced_family("r", "v", 8)),
    )
)
NOWHERE = Ref(kind="", key="none/none")


def published(reducer: str = "r", **config: object) -> Release:
    """A release of catalogue "c", whose candidates are the vectors of 8 dimensions."""
    return Release(
        fingerprint="last", config={"index": IndexConfig.model_validate(config).model_dump(mode="json")},
        catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE, report=NOWHERE, variant="raw",
        gate="published", reducer=Ref(kind="Reducer", key=f"reducers/{reducer}"),
    )  # fmt: skip


def current(dim: int = 8, family: str = "v", recall: float = 1.0) -> IndexSet:
    return IndexSet(
        fingerprint="i", recipe="Flat", dim=32, candidate_dim=dim, rerank_depth=1, family=family, template="t",
        recall=recall,
    )  # fmt: skip


def test_candidates_keep_their_dimensions_while_models_and_config_are_the_same_and_the_recall_is_reached() -> None:
    assert previous_candidates(published(), current(), SETS, IndexConfig()) == SETS[2]
    assert previous_candidates(published(), current(32), SETS, IndexConfig()) == SETS[0]


@pytest.mark.parametrize(
    ("release", "index", "sets", "config"),
    [
        (published(), current(family="w"), SETS, IndexConfig()),
        (published(), current(12), SETS, IndexConfig()),
        (published(), current(recall=0.98), SETS, IndexConfig()),
        (published("other"), current(), SETS, IndexConfig()),
        (published(), current(), SETS, IndexConfig(recall_target=0.9)),
        (published(recall_target=0.9), current(), SETS, IndexConfig()),
        (published().model_copy(update={"reducer": None}), current(), SETS, IndexConfig()),
    ],
)
def test_candidates_are_chosen_anew_when_anything_differs(
    release: Release, index: IndexSet, sets: tuple[VectorSet, ...], config: IndexConfig
) -> None:
    assert previous_candidates(release, index, sets, config) is None
