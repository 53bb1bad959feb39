"""Small parts of a growing set are merged: few parts are read, no row is lost, and no bit of a vector changes."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.compaction import FAN_IN, FULL_BYTES, FULL_ROWS, FULL_TIER, Pieces, plan_merges
from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors, seal_view, stored_parts_of
from retrieval_core.artifacts.manifests import ClassSet, MaskSet, Part, VectorSet
from retrieval_core.artifacts.parts import (
    N_TOP_CLASSES,
    classes_bytes,
    load_classes,
    load_vectors,
    masks_bytes,
    read_masks,
    vectors_bytes,
)
from retrieval_core.artifacts.shards import DerivedSet, shard_name
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_vectors import derive

FAMILY, DIM = "family", 5
PARTS = f"vectors/{FAMILY}/parts/"
WEIGHTS = np.random.default_rng(0).normal(size=(DIM, 7)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def vector_of(content_id: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(content_id.encode()).digest()[:8])
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def vectors_of(content_ids: Iterable[str]) -> np.ndarray:
    return np.stack([vector_of(content_id) for content_id in content_ids])


def embed(store: Store, wanted: Iterable[str], shard_rows: int = 512) -> None:
    """Store the vectors of the ids that the store lacks, as a run does."""
    present = {content_id for part in stored_parts_of(store, "vectors", FAMILY) for content_id in part.content_ids}
    missing = [content_id for content_id in dict.fromkeys(wanted) if content_id not in present]
    for ids in (missing[start : start + shard_rows] for start in range(0, len(missing), shard_rows)):
        put_growing_part(store, "vectors", FAMILY, shard_name(ids), vectors_bytes(ids, vectors_of(ids)), len(ids))


def seal(store: Store, wanted: Iterable[str]) -> VectorSet:
    ids = sorted(wanted)
    return seal_vectors(store, FAMILY, "raw", DIM, hashlib.sha256("".join(ids).encode()).hexdigest()[:32], ids)


def update(store: Store, wanted: Iterable[str], shard_rows: int = 512) -> VectorSet:
    embed(store, wanted, shard_rows)
    return seal(store, wanted)


def project(vectors: np.ndarray) -> np.ndarray:
    """Stand in for a matrix product whose last bits depend on the size of the batch."""
    return vectors @ WEIGHTS + np.float32(len(vectors))


def boost(store: Store, view: VectorSet) -> VectorSet:
    return derive(store, view, DerivedSet(family="derived", variant="boosted", dim=7), project)


def most_parts(n_rows: int) -> int:
    """Return how many parts may be left of a set of rows."""
    return (FAN_IN - 1) * FULL_TIER + math.ceil(n_rows / FULL_ROWS)


def part(n_rows: int, n_bytes: int = 0, name: str = "") -> Part:
    sha256 = hashlib.sha256(f"{n_rows} {name}".encode()).hexdigest()
    return Part(key=sha256, sha256=sha256, n_rows=n_rows, n_bytes=n_bytes or n_rows * 100)


@given(st.lists(st.integers(1, 2 * FULL_ROWS), max_size=300), st.randoms())
def test_a_plan_leaves_few_parts_and_merges_no_part_twice(sizes: list[int], random: object) -> None:
    parts = [part(n_rows, name=str(number)) for number, n_rows in enumerate(sizes)]
    groups = plan_merges(parts)
    merged = [member for group in groups for member in group]
    assert len(merged) == len(set(merged))
    assert all(member.n_rows < FULL_ROWS for member in merged)
    assert all(sum(member.n_rows for member in group) < FAN_IN * FULL_ROWS for group in groups)
    assert len(parts) - len(merged) + len(groups) <= most_parts(sum(sizes))
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert plan_merges(parts) == groups


def test_large_files_are_not_merged_however_few_rows_they_have() -> None:
    assert plan_merges(part(10, FULL_BYTES, str(number)) for number in range(50)) == []
    assert len(plan_merges(part(10, FULL_BYTES // 8 - 1, str(number)) for number in range(8))) == 1


def test_a_row_is_rewritten_at_most_once_for_each_tier() -> None:
    rewritten, parts = 0, []
    for number in range(FULL_ROWS):
        parts.append(part(1, name=str(number)))
        for group in plan_merges(parts):
            n_rows = sum(member.n_rows for member in group)
            rewritten += n_rows
            parts = [member for member in parts if member not in group] + [part(n_rows, name=f"merge {number}")]
    assert rewritten <= FULL_TIER * FULL_ROWS
    assert len(parts) <= most_parts(FULL_ROWS)


def test_many_updates_are_few_parts_and_every_vector_keeps_its_bits(store: Store) -> None:
    wanted: list[str] = []
    for number in range(40):
        wanted += [f"{number}-{k}" for k in range(3)]
        view = update(store, wanted)
        assert len(view.parts) <= most_parts(len(wanted))
    assert np.array_equal(load_vectors(store, view, wanted), vectors_of(wanted))
    assert len(view.parts) < 15


def test_the_same_rows_are_sealed_under_the_same_name_after_a_merge(store: Store) -> None:
    for number in range(7, 10):
        view = update(store, [f"{k}" for k in range(number + 1)])
        assert update(store, [f"{k}" for k in range(number + 1)]).fingerprint == view.fingerprint


def test_a_run_reads_no_part_that_is_merged_into_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8, 65, 8):
        ids = [f"{k}" for k in range(number)]
        embed(store, ids, shard_rows=1)
        view = seal(store, ids)
    assert (len(view.parts), len(list(store.list(PARTS)))) == (1, 64 + 7 + 1)
    opened: list[str] = []
    original = type(store).local_path

    def record(self: Store, key: str, sha256: str | None = None) -> Path:
        opened.append(key)
        return original(self, key, sha256)

    monkeypatch.setattr(type(store), "local_path", record)
    stored_parts_of(store, "vectors", FAMILY)
    assert set(opened) == {member.key for member in view.parts}


def test_merging_is_the_same_whatever_happened_before(store: Store, tmp_path: Path) -> None:
    """Two stores with the same parts hold the same files after a merge; the second got its parts in another order."""
    other = open_store(str(tmp_path / "other"))
    for at, numbers in ((store, range(8)), (other, range(7, -1, -1))):
        for number in numbers:
            embed(at, [f"{number}"])
    views = [seal(at, [f"{number}" for number in range(8)]) for at in (store, other)]
    assert views[0].parts == views[1].parts
    assert len(views[0].parts) == 1


def test_a_set_derived_from_merged_parts_keeps_its_bits_and_so_does_one_derived_from_that(store: Store) -> None:
    wanted: list[str] = []
    before: dict[str, np.ndarray] = {}
    for number in range(20):
        added = [f"{number}-{k}" for k in range(1 + number % 3)]
        wanted += added
        derived = boost(store, update(store, wanted))
        reduced = DerivedSet(family="twice", variant="pca7", dim=7)
        twice = derive(store, derived, reduced, lambda rows: rows * np.float32(len(rows)))
        for content_id, row, again in zip(
            wanted, load_vectors(store, derived, wanted), load_vectors(store, twice, wanted), strict=True
        ):
            assert np.array_equal(before.setdefault(content_id, np.concatenate([row, again])), [*row, *again])
    assert len(derived.parts) == len(twice.parts) < 15


def test_a_damaged_merged_part_is_merged_again_while_its_pieces_exist(store: Store) -> None:
    wanted = [f"{number}" for number in range(8)]
    for content_id in wanted:
        embed(store, [content_id])
    view = seal(store, wanted)
    data = store.get(view.parts[0].key)
    store.put(view.parts[0].key, data[:-40])
    again = update(store, wanted)
    assert again.parts == view.parts
    assert store.get(view.parts[0].key) == data


def test_parts_that_overlap_are_merged_without_repeating_a_piece(store: Store) -> None:
    for number in range(9):
        embed(store, [f"{number}"])
    first = seal(store, [f"{number}" for number in range(8)])
    store.delete(first.parts[0].key)  # another run does not see it yet
    second = seal(store, [f"{number}" for number in range(1, 9)])
    store.put(first.parts[0].key, first_bytes(store, first))
    both = [f"{number}" for number in range(9)]
    view = seal(store, both)
    assert sum(member.n_rows for member in view.parts) == 16
    both += [f"{number}" for number in range(9, 57)]
    embed(store, both, shard_rows=1)
    view = seal(store, both)
    assert [member.n_rows for member in view.parts] == [57]
    assert second.counts == {"rows": 8}
    assert np.array_equal(load_vectors(store, view, both), vectors_of(both))


def first_bytes(store: Store, view: VectorSet) -> bytes:
    """Return the bytes of a merged part that is not stored now, merged again in a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        other = open_store(folder)
        for number in range(8):
            embed(other, [f"{number}"])
        return other.get(seal(other, [f"{number}" for number in range(8)]).parts[0].key)


def test_masks_and_classes_keep_their_bits(store: Store) -> None:
    rng = np.random.default_rng(1)
    ids = [f"{number}" for number in range(20)]
    drawn = {content_id: rng.random((3, 4)) > 0.5 for content_id in ids}
    for number, content_id in enumerate(ids):
        data = masks_bytes([content_id], [drawn[content_id]], ["small" if number % 2 else ""])
        put_growing_part(store, "masks", FAMILY, content_id, data, 1)
        row = np.full((1, N_TOP_CLASSES), number, np.int32)
        put_growing_part(store, "classes", FAMILY, content_id, classes_bytes([content_id], row, row.astype("f4")), 1)
    masks, classes = (seal_view(store, kind, FAMILY, "cat", ids) for kind in (MaskSet, ClassSet))
    assert len(masks.parts) == len(classes.parts) == 2 + 4
    stored = read_masks(store, masks, ids)
    assert all(np.array_equal(stored[content_id].array(), drawn[content_id]) for content_id in ids)
    assert [stored[content_id].reason for content_id in ids] == ["", "small"] * 10
    assert load_classes(store, classes, pl.Series(ids))[:, 0].tolist() == list(range(20))


class Killed(Exception):
    """The process ended before an operation of the store."""


class KilledStore:
    """Raises before the nth write to a store."""

    def __init__(self, store: Store, n_writes: int) -> None:
        self._store, self._n_left = store, n_writes

    def __getattr__(self, name: str) -> object:
        if name in ("put", "put_if_absent"):
            self._n_left -= 1
            if self._n_left < 0:
                raise Killed
        return getattr(self._store, name)


IDS = st.sets(st.integers(0, 60).map(str), min_size=1, max_size=12)


@settings(max_examples=6)
@given(st.lists(st.tuples(IDS, IDS, st.integers(0, 9), st.booleans()), min_size=6, max_size=14))
def test_random_updates_lose_nothing(updates: list[tuple[set[str], set[str], int, bool]]) -> None:
    """Items are added, removed and return; runs are killed at any write, or run side by side; old parts are swept."""
    with tempfile.TemporaryDirectory() as folder:
        store, wanted = open_store(folder), set[str]()
        for number, (added, removed, n_writes, is_swept) in enumerate(updates):
            stale = stored_parts_of(store, "vectors", FAMILY)
            wanted = (wanted | added) - removed | {"always"}
            try:
                update(KilledStore(store, n_writes), wanted, shard_rows=2)  # type: ignore[arg-type]
            except Killed:
                seal(store, sorted(wanted)[::2])  # another catalogue's run merges in between
            view = update(store, wanted)
            assert view.counts == {"rows": len(wanted)}
            assert np.array_equal(load_vectors(store, view, sorted(wanted)), vectors_of(sorted(wanted)))
            read = stored_parts_of(store, "vectors", FAMILY)
            assert len(view.parts) <= len(read)
            assert len(view.parts) <= most_parts(sum(member.n_rows for member in view.parts))
            assert all(store.exists(member.part.key) for member in stale), number  # another run may be reading them
            if is_swept:
                kept = {member.key for member in view.parts}
                for key in [key for key in store.list(PARTS) if key not in kept]:
                    store.delete(key)


def test_pieces_replace_themselves_and_what_they_were_merged_to_before() -> None:
    assert Pieces(n_rows={"a": 1, "b": 2}, merged=("c",)).replaced == {"a", "b", "c"}
