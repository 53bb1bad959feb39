"""Sets derived from a set of vectors in shards: nothing is derived twice, and shards change no byte."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import growing_sets
from retrieval_core.artifacts.growing_sets import derived_bytes, derived_name, put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import load_vectors, vectors_bytes
from retrieval_core.artifacts.shards import (
    DerivationPlan,
    DerivedSet,
    PartShard,
    derive_shard,
    plan_derivation,
    seal_derived,
)
from retrieval_core.errors import NotFound
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

FAMILY, DIM = "family", 3
BOOSTED = DerivedSet(family="boosted", variant="boosted", dim=DIM, made_by={"head": "h"})
REDUCED = DerivedSet(family="reduced", variant="pca2", dim=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def embed(store: Store, sizes: Sequence[int]) -> VectorSet:
    """Store a part of vectors for each of these numbers of rows, and seal them as a set."""
    wanted = []
    for number, n_rows in enumerate(sizes):
        ids = [f"{number}-{row}" for row in range(n_rows)]
        vectors = np.random.default_rng(number).normal(size=(n_rows, DIM)).astype(np.float32)
        put_growing_part(store, "vectors", FAMILY, f"p{number}", vectors_bytes(ids, vectors), n_rows)
        wanted += ids
    return seal_vectors(store, FAMILY, "raw", DIM, f"catalog-{len(wanted)}", wanted)


def transform_of(wanted: DerivedSet) -> Callable[[np.ndarray], np.ndarray]:
    """Stand in for a head or a PCA, whose last bits depend on the size of the batch."""
    return lambda rows: rows[:, : wanted.dim] * np.float32(len(rows))


def make(store: Store, shards: Sequence[PartShard]) -> None:
    for shard in shards:
        derive_shard(store, shard, transform_of)


def derive(store: Store, source: VectorSet, shard_rows: int = 100) -> list[VectorSet]:
    plan = plan_derivation(store, source, [BOOSTED, REDUCED], shard_rows)
    make(store, plan.shards)
    return seal_derived(store, plan)


def work_of(plan: DerivationPlan) -> list[tuple[int, str]]:
    return [(number, wanted.family) for shard in plan.shards for number in shard.parts for wanted in shard.sets]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7), shard_rows=st.integers(1, 20), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_plan_has_what_is_missing_once_in_shards_within_bounds(
    sizes: list[int], shard_rows: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    source = embed(store, sizes)
    all_work = [(number, wanted) for number in range(len(source.parts)) for wanted in (BOOSTED, REDUCED)]
    done = [work for work in all_work if data.draw(st.booleans())]
    for number, wanted in done:
        part = source.parts[number]
        (content,) = derived_bytes(store.local_path(part.key), [transform_of(wanted)])
        put_growing_part(store, "vectors", wanted.family, derived_name(part), content, part.n_rows)
    plan = plan_derivation(store, source, [BOOSTED, REDUCED], shard_rows)
    assert sorted(work_of(plan)) == sorted((n, wanted.family) for n, wanted in all_work if (n, wanted) not in done)
    assert [shard.number for shard in plan.shards] == list(range(len(plan.shards)))
    for shard in plan.shards:
        assert len(shard.parts) == 1 or sum(source.parts[number].n_rows for number in shard.parts) <= shard_rows


@pytest.mark.parametrize("shard_rows", [1, 5, 1000])
def test_shards_of_any_size_make_the_bytes_that_each_part_gives_alone(store: Store, shard_rows: int) -> None:
    source = embed(store, [2, 3, 1, 4])
    for derived, wanted in zip(derive(store, source, shard_rows), (BOOSTED, REDUCED), strict=True):
        assert derived.parents == {"catalog": "catalog-10", "vectors": source.fingerprint, **wanted.made_by}
        assert (derived.variant, derived.dim, derived.counts) == (wanted.variant, wanted.dim, source.counts)
        for part, made in zip(source.parts, derived.parts, strict=True):
            (alone,) = derived_bytes(store.local_path(part.key), [transform_of(wanted)])
            assert store.get(made.key) == alone


def test_only_new_parts_are_derived_and_an_unchanged_set_plans_no_shard(store: Store) -> None:
    derive(store, embed(store, [2, 3]))
    grown = embed(store, [2, 3, 4])
    plan = plan_derivation(store, grown, [BOOSTED, REDUCED])
    assert [grown.parts[number].n_rows for number, _ in work_of(plan)] == [4, 4]
    make(store, plan.shards)
    boosted, _ = seal_derived(store, plan)
    expected = load_vectors(store, grown, ["2-1", "0-0"]) * np.array([[4], [2]], np.float32)
    assert np.array_equal(load_vectors(store, boosted, ["2-1", "0-0"]), expected)
    unchanged = plan_derivation(store, grown, [BOOSTED, REDUCED])
    assert (unchanged.shards, seal_derived(store, unchanged)[0]) == ((), boosted)


def test_a_derivation_that_was_killed_half_way_is_resumed_to_the_same_sets(store: Store, tmp_path: Path) -> None:
    sizes = [2, 3, 4, 5]
    expected = derive(
        open_store(str(tmp_path / "undisturbed")), embed(open_store(str(tmp_path / "undisturbed")), sizes)
    )
    source = embed(store, sizes)
    plan = plan_derivation(store, source, [BOOSTED, REDUCED], shard_rows=5)
    make(store, plan.shards[:1])
    with pytest.raises(NotFound, match="run again"):
        seal_derived(store, plan)
    resumed = plan_derivation(store, source, [BOOSTED, REDUCED], shard_rows=5)
    assert not {number for number, _ in work_of(resumed)} & set(plan.shards[0].parts)
    make(store, resumed.shards)
    assert seal_derived(store, resumed) == expected


def test_a_part_is_read_once_for_all_sets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = embed(store, [2, 3])
    read, opened = growing_sets.read_vectors, []
    monkeypatch.setattr(growing_sets, "read_vectors", lambda path: opened.append(path) or read(path))
    derive(store, source)
    assert len(opened) == len(source.parts)


def test_a_damaged_part_is_derived_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    source = embed(store, [2, 3])
    boosted, reduced = derive(store, source)
    data = store.get(reduced.parts[1].key)
    store.put(reduced.parts[1].key, data[:-9])
    plan = plan_derivation(store, source, [BOOSTED, REDUCED])
    assert work_of(plan) == [(1, "reduced")]
    assert "it is made again" in caplog.text
    make(store, plan.shards)
    assert seal_derived(store, plan) == [boosted, reduced]
    assert store.get(reduced.parts[1].key) == data


def test_a_shard_of_many_parts_is_asked_for_in_few_bytes(store: Store) -> None:
    plan = plan_derivation(store, embed(store, [4096] * 40), [BOOSTED, REDUCED])
    assert [len(shard.parts) for shard in plan.shards] == [16, 16, 8]
    assert max(len(pickle.dumps(shard)) for shard in plan.shards) < 2_000
