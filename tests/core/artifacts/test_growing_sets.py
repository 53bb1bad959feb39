"""Content-addressed sets that grow, survive a crash, and are sealed as views."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.growing_sets import (
    derive_vectors,
    indexable_items,
    part_key,
    sample_vectors,
    seal_vectors,
)
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import load_vectors, put_part, vectors_bytes
from retrieval_core.artifacts.shards import plan_work, shard_pictures
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

FAMILY = "fam"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def pictures(*content_ids: str) -> pl.DataFrame:
    rows = [(key, f"/pictures/{key}.jpg", f"item-{key}") for key in content_ids]
    return pl.DataFrame(rows, schema=["content_id", "image_uri", "item_id"], orient="row")


def vector_of(content_id: str) -> np.ndarray:
    return np.full(3, ord(content_id[0]), np.float32)


def embed(store: Store, plan, numbers: list[int] | None = None) -> None:
    """Stand in for the embedding of some shards of a plan."""
    for shard in plan.split():
        if numbers is None or shard.number in numbers:
            names = shard_pictures(store, shard)["content_id"].to_list()
            data = vectors_bytes(names, np.stack([vector_of(key) for key in names]))
            put_part(store, shard.part_key, data, len(names))


def test_a_second_night_plans_only_what_is_new(store: Store) -> None:
    embed(store, plan_work(store, "vectors", FAMILY, pictures("a", "b", "c"), shard_rows=2))
    plan = plan_work(store, "vectors", FAMILY, pictures("b", "c", "d"), shard_rows=2)
    assert plan.n_missing == 1
    assert shard_pictures(store, plan.split()[0]).row(0, named=True) == {
        "content_id": "d",
        "image_uri": "/pictures/d.jpg",
        "item_id": "item-d",
    }
    embed(store, plan)
    assert plan_work(store, "vectors", FAMILY, pictures("b", "c", "d"), shard_rows=2).shards == ()


def test_two_items_with_one_picture_are_embedded_once(store: Store) -> None:
    twice = pl.concat([pictures("a"), pictures("a").with_columns(item_id=pl.lit("another"))])
    plan = plan_work(store, "vectors", FAMILY, twice, shard_rows=10)
    assert plan.n_missing == 1
    assert shard_pictures(store, plan.split()[0])["item_id"].to_list() == ["another"]


def test_a_run_killed_half_way_goes_on_with_the_remaining_shards(store: Store, tmp_path: Path) -> None:
    wanted = pictures(*"abcdefg")
    embed(store, plan_work(store, "vectors", FAMILY, wanted, shard_rows=2), numbers=[0, 2])
    embed(store, plan_work(store, "vectors", FAMILY, wanted, shard_rows=2))
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    embed(undisturbed, plan_work(undisturbed, "vectors", FAMILY, wanted, shard_rows=2))
    views = [seal_vectors(at, FAMILY, "raw", 3, "cat", wanted["content_id"]) for at in (store, undisturbed)]
    assert views[0].parts == views[1].parts
    assert views[0].fingerprint == views[1].fingerprint


def test_an_unreadable_part_is_made_again(store: Store) -> None:
    plan = plan_work(store, "vectors", FAMILY, pictures("a", "b"), shard_rows=2)
    embed(store, plan)
    store.put(part_key("vectors", FAMILY, plan.shards[0]), b"half a part")
    again = plan_work(store, "vectors", FAMILY, pictures("a", "b"), shard_rows=2)
    assert again.shards == plan.shards


def test_a_view_leaves_out_parts_nobody_wants(store: Store) -> None:
    for key in "ab":
        embed(store, plan_work(store, "vectors", FAMILY, pictures(key), shard_rows=1))
    view = seal_vectors(store, FAMILY, "raw", 3, "cat", ["b", "never embedded"])
    assert len(view.parts) == 1
    assert view.counts == {"rows": 1}


def test_a_derived_set_transforms_only_new_parts(store: Store) -> None:
    calls = []

    def double(rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        return 2 * rows

    embed(store, plan_work(store, "vectors", FAMILY, pictures("a", "b"), shard_rows=2))
    first = seal_vectors(store, FAMILY, "raw", 3, "night-1", ["a", "b"])
    derive_vectors(store, first, "doubled", "boosted", 3, double, {"head": "h"})
    embed(store, plan_work(store, "vectors", FAMILY, pictures("c"), shard_rows=2))
    second = seal_vectors(store, FAMILY, "raw", 3, "night-2", ["a", "b", "c"])
    derived = derive_vectors(store, second, "doubled", "boosted", 3, double, {"head": "h"})
    assert calls == [2, 1]
    assert np.array_equal(load_vectors(store, derived, ["c", "a"]), 2 * np.stack([vector_of("c"), vector_of("a")]))
    assert derived.parents == {"catalog": "night-2", "vectors": second.fingerprint, "head": "h"}


def test_a_sample_is_random_rows_of_every_part_without_repetition(store: Store) -> None:
    names = [f"{i:03d}" for i in range(100)]
    for start in range(0, 100, 25):
        chunk = names[start : start + 25]
        rows = np.array([[int(key)] for key in chunk], np.float32)
        put_part(store, part_key("vectors", "s", f"p{start}"), vectors_bytes(chunk, rows), 25)
    view = seal_vectors(store, "s", "raw", 1, "cat", names)
    drawn = np.concatenate(list(sample_vectors(store, view, 40, seed=1)))[:, 0]
    assert len(set(drawn.tolist())) == 40
    assert all(((drawn >= low) & (drawn < low + 25)).any() for low in (0, 25, 50, 75))
    again = np.concatenate(list(sample_vectors(store, view, 40, seed=1)))[:, 0]
    assert np.array_equal(drawn, again)


def test_only_good_rows_with_a_vector_are_indexed(store: Store) -> None:
    embed(store, plan_work(store, "vectors", FAMILY, pictures("a"), shard_rows=1))
    view: VectorSet = seal_vectors(store, FAMILY, "raw", 3, "cat", ["a"])
    items = pl.DataFrame(
        {
            "item_id": ["2", "1", "3", "4"],
            "content_id": ["a", "a", "b", None],
            "status": ["ok", "ok", "ok", "quarantined"],
        }
    )
    assert indexable_items(store, items, view)["item_id"].to_list() == ["1", "2"]
