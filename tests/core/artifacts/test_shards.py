"""Shards of work: only missing pictures are planned, and what a killed run stored is kept."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import shards
from retrieval_core.artifacts.growing_sets import seal_vectors
from retrieval_core.artifacts.manifests import ClassSet, MaskSet
from retrieval_core.artifacts.parts import masks_bytes, vectors_bytes
from retrieval_core.artifacts.pictures import Picture, usable_pictures
from retrieval_core.artifacts.shards import (
    Target,
    WorkPlan,
    log_progress,
    plan_pictures,
    plan_work,
    put_shard,
    read_shard,
    seal_pictures,
    shard_pictures,
)
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_vectors import seal_catalog

FAMILY = "fam"
MASKS, VECTORS = (Target(folder=folder, family=FAMILY) for folder in ("masks", "vectors"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def pictures(*content_ids: str) -> pl.DataFrame:
    rows = [(key, f"/pictures/{key}.jpg", f"item-{key}") for key in content_ids]
    return pl.DataFrame(rows, schema=dict.fromkeys(["content_id", "image_uri", "item_id"], pl.String), orient="row")


def vector_of(content_id: str) -> np.ndarray:
    return np.full(3, ord(content_id[0]), np.float32)


def embed(store: Store, plan: WorkPlan, numbers: list[int] | None = None) -> None:
    """Stand in for the embedding of some shards of a plan."""
    for shard in plan.split():
        if numbers is None or shard.number in numbers:
            names = [picture.content_id for picture in shard_pictures(store, shard)]
            vectors = np.stack([vector_of(key) for key in names])
            assert put_shard(
                store, shard, VECTORS, names, lambda ids=names, rows=vectors: vectors_bytes(ids, rows)
            ) == len(names)


ids = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=12)


@given(wanted=ids, present=ids, shard_rows=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_plan_covers_what_is_missing_once_within_bounds(
    wanted: list[str], present: list[str], shard_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    embed(store, plan_work(store, [VECTORS], pictures(*present), shard_rows=20))
    plan = plan_work(store, [VECTORS], pictures(*wanted), shard_rows)
    planned = [[picture.content_id for picture in shard_pictures(store, shard)] for shard in plan.split()]
    assert [key for shard in planned for key in shard] == sorted(set(wanted) - set(present))
    assert [len(shard) for shard in planned[:-1]] == [shard_rows] * (len(planned) - 1)
    assert all(1 <= len(shard) <= shard_rows for shard in planned)
    assert len(set(plan.shards)) == len(planned)


@given(wanted=ids, shard_rows=st.integers(1, 5), data=st.data())
@settings(max_examples=30, deadline=None)
def test_planning_again_after_a_crash_names_the_remaining_shards_alike(
    wanted: list[str], shard_rows: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    undisturbed = plan_work(store, [VECTORS], pictures(*wanted), shard_rows)
    done = [shard.number for shard in undisturbed.split() if data.draw(st.booleans())]
    embed(store, undisturbed, done)
    remaining = plan_work(store, [VECTORS], pictures(*wanted), shard_rows)
    assert remaining.shards == tuple(names for n, names in enumerate(undisturbed.shards) if n not in done)


def test_a_second_run_plans_only_what_is_new(store: Store) -> None:
    embed(store, plan_work(store, [VECTORS], pictures("a", "b", "c"), shard_rows=2))
    plan = plan_work(store, [VECTORS], pictures("b", "c", "d"), shard_rows=2)
    assert plan.n_missing == 1
    expected = Picture(content_id="d", image_uri="/pictures/d.jpg", item_id="item-d")
    assert shard_pictures(store, plan.split()[0]) == [expected]
    embed(store, plan)
    assert plan_work(store, [VECTORS], pictures("b", "c", "d"), shard_rows=2).shards == ()


def test_two_items_with_one_picture_are_embedded_once(store: Store) -> None:
    twice = pl.concat([pictures("a"), pictures("a").with_columns(item_id=pl.lit("another"))])
    plan = plan_work(store, [VECTORS], twice, shard_rows=10)
    assert plan.n_missing == 1
    assert [picture.item_id for picture in shard_pictures(store, plan.split()[0])] == ["another"]


def test_a_run_killed_half_way_is_resumed_with_the_remaining_shards(store: Store, tmp_path: Path) -> None:
    wanted = pictures(*"abcdefg")
    embed(store, plan_work(store, [VECTORS], wanted, shard_rows=2), numbers=[0, 2])
    embed(store, plan_work(store, [VECTORS], wanted, shard_rows=2))
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    embed(undisturbed, plan_work(undisturbed, [VECTORS], wanted, shard_rows=2))
    views = [seal_vectors(at, FAMILY, "raw", 3, "cat", wanted["content_id"]) for at in (store, undisturbed)]
    assert views[0].parts == views[1].parts
    assert views[0].fingerprint == views[1].fingerprint


def test_an_unreadable_part_is_made_again(store: Store) -> None:
    plan = plan_work(store, [VECTORS], pictures("a", "b"), shard_rows=2)
    embed(store, plan)
    (key,) = store.list(f"vectors/{FAMILY}/parts/")
    store.put(key, b"half a part")
    again = plan_work(store, [VECTORS], pictures("a", "b"), shard_rows=2)
    assert again.shards == plan.shards


def mask(store: Store, plan: WorkPlan, numbers: list[int]) -> None:
    """Stand in for the masking of some shards of a plan that masks and embeds."""
    for shard in plan.split():
        ids = sorted(read_shard(store, shard).missing[MASKS])
        if shard.number in numbers:
            put_shard(
                store,
                shard,
                MASKS,
                ids,
                lambda ids=ids: masks_bytes(ids, [np.ones((2, 2), bool)] * len(ids), [""] * len(ids)),
            )


@given(masked=st.sets(st.sampled_from("abcdefg")), embedded=st.sets(st.sampled_from("abcdefg")))
@settings(max_examples=25)
def test_a_plan_of_two_sets_covers_what_either_lacks(
    masked: set[str], embedded: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    mask(store, plan_work(store, [MASKS], pictures(*masked), shard_rows=10), [0])
    embed(store, plan_work(store, [VECTORS], pictures(*embedded), shard_rows=10))
    plan = plan_work(store, [MASKS, VECTORS], pictures(*"abcdefg"), shard_rows=3)
    works = [read_shard(store, shard) for shard in plan.split()]
    planned = [picture.content_id for work in works for picture in work.pictures]
    assert planned == sorted(set("abcdefg") - (masked & embedded))
    for target, present in ((MASKS, masked), (VECTORS, embedded)):
        assert set().union(*(work.missing[target] for work in works)) == set("abcdefg") - present


def test_a_run_killed_between_two_parts_of_a_shard_is_resumed_with_the_same_parts(store: Store) -> None:
    undisturbed = plan_work(store, [MASKS, VECTORS], pictures(*"abcdefg"), shard_rows=3)
    mask(store, undisturbed, [0, 1])
    embed(store, undisturbed, [0])
    resumed = plan_work(store, [MASKS, VECTORS], pictures(*"abcdefg"), shard_rows=3)
    assert [names[1] for names in resumed.shards] == [names[1] for names in undisturbed.shards[1:]]
    assert resumed.shards[-1] == undisturbed.shards[-1]
    assert [len(read_shard(store, shard).missing[MASKS]) for shard in resumed.split()] == [0, 1]


def test_only_pictures_that_are_not_quarantined_are_planned(store: Store) -> None:
    catalog = seal_catalog(store, range(6))
    assert usable_pictures(store, catalog)["content_id"].sort().to_list() == [f"c{n}" for n in range(6)]
    plan = plan_pictures(store, [VECTORS], catalog, shard_rows=4)
    assert [len(shard_pictures(store, shard)) for shard in plan.split()] == [4, 2]
    assert [shard.label for shard in plan.split()] == ["shard 1 of 2", "shard 2 of 2"]


def test_a_shard_that_gives_nothing_stores_no_part(store: Store) -> None:
    (shard,) = plan_work(store, [MASKS], pictures("a"), shard_rows=1).split()

    def refuse() -> bytes:
        raise AssertionError("there is nothing to encode")

    assert put_shard(store, shard, MASKS, [], refuse) == 0
    assert not list(store.list(f"masks/{FAMILY}/parts/"))


def test_the_masks_of_a_catalogue_are_sealed_as_far_as_they_are_stored(store: Store) -> None:
    catalog = seal_catalog(store, range(3))
    plan = plan_pictures(store, [MASKS], catalog, shard_rows=1)
    for shard in plan.split()[:2]:
        ids = [picture.content_id for picture in shard_pictures(store, shard)]
        put_shard(store, shard, MASKS, ids, lambda ids=ids: masks_bytes(ids, [np.ones((2, 2), np.bool_)], [""]))
    masks = seal_pictures(store, MaskSet, FAMILY, catalog)
    assert (masks.counts, masks.family, masks.parents) == ({"rows": 2}, FAMILY, {"catalog": catalog.name})
    assert seal_pictures(store, ClassSet, FAMILY, catalog).counts == {"rows": 0}


def test_progress_is_logged_at_most_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter([0.0, 1.0, 11.0, 12.0, 22.5])
    monkeypatch.setattr(shards.time, "monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO, "retrieval_core"):
        advance = log_progress("masks", 40)
        for _ in range(4):
            advance(10)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["masks: 20 of 40, 1.8/s", "masks: 40 of 40, 1.8/s"]
