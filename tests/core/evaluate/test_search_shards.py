"""An exact search in shards finds what one search of everything finds, to the last bit, also where it was killed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import unit_length, vectors_bytes
from retrieval_core.artifacts.variants import Variant
from retrieval_core.errors import ShardCorrupt
from retrieval_core.evaluate.measure.exact_search import Gallery, stored_gallery
from retrieval_core.evaluate.measure.measure import measure
from retrieval_core.evaluate.search_shards import Machines, SearchShard, ShardedSearch, search_shard
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.local import LocalStore
from tests.core.sealed_runs import CONFIG


def put_vectors(store: Store, names: Sequence[str], vectors: np.ndarray, parts: Sequence[Sequence[int]]) -> VectorSet:
    """Store vectors in these parts, given by their rows, and seal the set of all of them."""
    for number, rows in enumerate(map(list, parts)):
        part = vectors_bytes([names[row] for row in rows], vectors[rows])
        put_growing_part(store, VectorSet.folder, "drawn", f"part{number}", part, len(rows))
    return seal_vectors(store, "drawn", Variant(), vectors.shape[1], "catalog", names)


def items_of(names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"item-{row}" for row in range(len(names))], "content_id": names})


def backwards(store: Store, made: list[SearchShard]) -> Callable[[Sequence[SearchShard]], None]:
    """Makes shards, the last one first, and notes each."""

    def run(shards: Sequence[SearchShard]) -> None:
        for shard in reversed(shards):
            search_shard(store, SearchShard.model_validate_json(shard.model_dump_json()))
            made.append(shard)

    return run


def nearest_in_shards(store: Store, stored: VectorSet, gallery: Gallery, k: int, shard_rows: int, made: list) -> object:
    machines = Machines(backwards(store, made), min_pairs=1, shard_rows=shard_rows)
    return ShardedSearch(store, [stored], machines).nearest(gallery, k)


@given(data=st.data())
@settings(max_examples=40)
def test_shards_find_what_one_search_finds(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60), "pictures")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    whole = rng.integers(-1, 2, (n, 3)).astype(np.float32)  # every product is exact, so many rows tie
    vectors = whole if data.draw(st.booleans(), "ties") else unit_length(rng.standard_normal((n, 24), np.float32))
    names = [f"{row:032x}" for row in range(n)]
    parts = np.split(rng.permutation(n), np.sort(rng.integers(0, n + 1, data.draw(st.integers(0, 6), "cuts"))))
    pictures = rng.integers(0, n, data.draw(st.integers(1, 80), "items"))  # some show one picture, some parts nothing
    items = items_of([names[row] for row in pictures])
    queries = np.sort(rng.permutation(len(items))[: data.draw(st.integers(1, 8), "queries")])
    gallery_rows = np.sort(rng.permutation(len(items))[: data.draw(st.integers(1, 80), "gallery")])
    k = data.draw(st.integers(1, 12), "k")
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        stored = put_vectors(store, names, vectors, [rows for rows in parts if len(rows)])
        gallery = stored_gallery(store, stored, items, queries, gallery_rows)
        if data.draw(st.booleans(), "codes"):
            codes = rng.integers(-1, 3, len(items))
            gallery = gallery._replace(codes=(np.maximum(codes[queries], 0), codes[gallery_rows]))
        made: list[SearchShard] = []
        found = nearest_in_shards(store, stored, gallery, k, data.draw(st.integers(1, 60), "shard rows"), made)
        np.testing.assert_array_equal(found, gallery.nearest(k))
        assert {shard.number for shard in made} == set(range(made[0].n_shards))


@pytest.fixture
def drawn(local_store: Store, draw_vectors) -> tuple[VectorSet, Gallery]:
    """A set of four parts, and a gallery that is all of it."""
    names = [f"{row:032x}" for row in range(200)]
    stored = put_vectors(local_store, names, draw_vectors(200), np.array_split(np.arange(200), 4))
    return stored, stored_gallery(local_store, stored, items_of(names), np.arange(9), np.arange(200))


def test_a_killed_search_makes_only_the_shards_that_it_lacks(local_store, drawn):
    stored, gallery = drawn

    def killed(shards: Sequence[SearchShard]) -> None:
        search_shard(local_store, shards[2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ShardedSearch(local_store, [stored], Machines(killed, min_pairs=1, shard_rows=50)).nearest(gallery, 5)
    made: list[SearchShard] = []
    for expected in ([3, 1, 0], []):  # and once all are made, none
        made.clear()
        found = nearest_in_shards(local_store, stored, gallery, 5, 50, made)
        np.testing.assert_array_equal(found, gallery.nearest(5))
        assert [shard.number for shard in made] == expected
    for deeper in (gallery, gallery._replace(codes=(np.zeros(9), np.ones(200)))):
        made.clear()
        nearest_in_shards(local_store, stored, deeper, 6, 50, made)
        assert len(made) == 4, "another search has shards of its own"


def test_a_damaged_result_is_made_again(local_store, drawn):
    stored, gallery = drawn
    made: list[SearchShard] = []
    nearest_in_shards(local_store, stored, gallery, 5, 50, made)
    local_store.put(made[1].found_key, local_store.get(made[1].found_key)[:-40])
    again: list[SearchShard] = []
    np.testing.assert_array_equal(nearest_in_shards(local_store, stored, gallery, 5, 50, again), gallery.nearest(5))
    assert again == [made[1]]


def test_a_damaged_part_and_one_that_is_gone_end_the_search(local_store, drawn):
    stored, gallery = drawn
    fewer = stored.model_copy(update={"parts": stored.parts[1:]})
    with pytest.raises(ShardCorrupt, match="lacks 50 of the wanted vectors"):
        nearest_in_shards(local_store, fewer, gallery, 5, 50, [])

    def damage(shards: Sequence[SearchShard]) -> None:
        local_store.put(stored.parts[1].key, b"damaged")
        backwards(local_store, [])(shards)

    with pytest.raises(ShardCorrupt, match=stored.parts[1].key):
        ShardedSearch(local_store, [stored], Machines(damage, min_pairs=1, shard_rows=50)).nearest(gallery, 5)


def test_short_searches_and_unknown_sets_are_searched_by_the_run_itself(local_store, drawn):
    stored, gallery = drawn
    made: list[SearchShard] = []
    for sets, min_pairs in (([stored], 9 * 200 + 1), ([], 1)):
        search = ShardedSearch(local_store, sets, Machines(backwards(local_store, made), min_pairs, 50))
        np.testing.assert_array_equal(search.nearest(gallery, 5), gallery.nearest(5))
    assert made == []
    assert not list(local_store.list("vectors/drawn/plans/"))


def test_a_run_measures_the_same_with_and_without_other_machines(local_store, labelled_run):
    outputs, local = labelled_run(60), Settings.load(store=local_store.url, threads=1)
    alone = measure(local_store, outputs, CONFIG, local)
    made: list[SearchShard] = []
    machines = Machines(backwards(local_store, made), min_pairs=1, shard_rows=8)
    together = measure(local_store, outputs, CONFIG, local, machines=machines)
    families = {ref.key.split("/")[1] for ref in outputs.variants}
    assert {shard.folder.split("/")[1] for shard in made} == families
    assert together.setup.kept.tables() == alone.setup.kept.tables()
    assert together.metrics == alone.metrics
    assert together.per_query.equals(alone.per_query)
    assert together.confidence == alone.confidence
