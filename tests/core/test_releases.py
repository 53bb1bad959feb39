"""Aliases move by compare-and-swap, remember where they pointed, and never point at nothing."""

import threading
from pathlib import Path

import pytest

from retrieval_core import releases
from retrieval_core.artifacts import Ref, Release
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, ShardCorrupt
from retrieval_core.store import Store, open_store

NOWHERE = Ref(kind="Catalog", key="catalogs/none")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def seal(store: Store, name: str) -> str:
    Release(
        fingerprint=name,
        catalog=NOWHERE,
        backbone=NOWHERE,
        vectors=NOWHERE,
        index=NOWHERE,
        report=NOWHERE,
        variant="raw",
        gate="published",
        counts={"rows": 1},
    ).seal(store)
    return name


def test_promote_and_roll_back_walk_the_same_way(store: Store) -> None:
    seal(store, "a1"), seal(store, "b2"), seal(store, "c3")
    for name, before in (("a1", None), ("b2", "a1"), ("c3", "b2")):
        releases.promote(store, name, before)
    assert releases.rollback(store).release == "b2"
    assert releases.rollback(store).release == "a1"
    with pytest.raises(NotFound, match="no earlier release"):
        releases.rollback(store)
    assert releases.read_alias(store, "production") == releases.Alias(release="a1", withdrawn="b2")
    assert releases.promote(store, "c3", "a1") == releases.Alias(release="c3", history=("a1",))


def test_promoting_twice_changes_nothing(store: Store) -> None:
    seal(store, "a1")
    once = releases.promote(store, "a1", None)
    assert releases.promote(store, "a1", "a1") == once


def test_a_release_that_is_not_there_is_never_promoted(store: Store) -> None:
    with pytest.raises(NotFound, match="no release 'ghost'"):
        releases.promote(store, "ghost", None)
    assert releases.read_alias(store, "production") is None


def test_who_compared_with_another_production_does_not_publish(store: Store) -> None:
    seal(store, "a1"), seal(store, "b2"), seal(store, "c3")
    releases.promote(store, "a1", None)
    releases.promote(store, "b2", "a1")
    with pytest.raises(AliasConflict, match="moved from a1 to b2"):
        releases.promote(store, "c3", "a1")
    assert releases.read_alias(store, "production").release == "b2"


def test_of_eight_concurrent_promotions_one_wins_and_the_others_notice(store: Store) -> None:
    names = [seal(store, f"n{i}") for i in range(8)]
    won, lost = [], []

    def race(name: str) -> None:
        try:
            releases.promote(store, name, None)
            won.append(name)
        except AliasConflict:
            lost.append(name)

    threads = [threading.Thread(target=race, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert releases.read_alias(store, "production").release == won[0]


def test_a_release_is_found_by_the_unique_start_of_its_name(store: Store) -> None:
    seal(store, "abc1"), seal(store, "abd2")
    assert releases.get_release(store, "abc").fingerprint == "abc1"
    with pytest.raises(BadConfig, match="ambiguous: abc1, abd2"):
        releases.get_release(store, "ab")
    with pytest.raises(NotFound):
        releases.get_release(store, "x")


def test_a_damaged_alias_is_named_not_followed(store: Store) -> None:
    store.compare_and_swap("aliases/production", b"{", None)
    with pytest.raises(ShardCorrupt, match="production"):
        releases.read_alias(store, "production")
