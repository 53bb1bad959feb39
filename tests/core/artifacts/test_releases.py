"""Aliases move by compare-and-swap, remember where they pointed, and never point at nothing."""

import threading
from pathlib import Path
from typing import Literal

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Ref, Release
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, ShardCorrupt
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

NOWHERE = Ref(kind="Catalog", key="catalogs/none")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def seal(
    store: Store, name: str, gate: Literal["published", "held"] = "published", causes: tuple[str, ...] = ()
) -> str:
    Release(
        fingerprint=name,
        catalog=NOWHERE,
        backbone=NOWHERE,
        vectors=NOWHERE,
        index=NOWHERE,
        report=NOWHERE,
        variant="raw",
        gate=gate,
        gate_reason=f"Held: {'; '.join(causes)}." if causes else "",
        gate_causes=causes,
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
    alias = releases.read_alias(store, "production")
    assert alias is not None
    assert (alias.release, alias.history, alias.withdrawn) == ("a1", (), "b2")
    promoted = releases.promote(store, "c3", "a1")
    assert (promoted.release, promoted.history, promoted.withdrawn) == ("c3", ("a1",), "")


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


def test_a_release_that_is_removed_while_it_is_promoted_is_not_left_in_production(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a vacuum that looked before the alias moved."""
    first, second = seal(store, "first"), seal(store, "second")
    before = releases.promote(store, first, None)
    swap = type(store).compare_and_swap

    def swap_late(self: Store, key: str, data: bytes, expected: bytes | None) -> bool:
        self.delete(f"releases/{second}/manifest.json")
        return swap(self, key, data, expected)

    monkeypatch.setattr(type(store), "compare_and_swap", swap_late)
    with pytest.raises(NotFound, match="removed at the same moment"):
        releases.promote(store, second, first)
    assert releases.read_alias(store, "production") == before


LOSS = "recall@1 fell from 0.700 to 0.650"


def word(release: str, why: str = "") -> releases.Promotion:
    return releases.Promotion(release=release, by="anna", at="2026-11-21T07:04:49+00:00", why=why)


def test_what_the_gate_held_is_promoted_by_hand_only_anyway_and_with_a_why(store: Store) -> None:
    seal(store, "a1"), seal(store, "b2", "held", (LOSS,))
    before = releases.promote(store, "a1", None)
    for why in ("", "I know better"):
        with pytest.raises(BadConfig, match=f"keeps release b2 back. Held: {LOSS}.*--anyway --why"):
            releases.promote_by_hand(store, word("b2", why))
    with pytest.raises(BadConfig, match="--anyway goes with --why"):
        releases.promote_by_hand(store, word("b2", " \n"), anyway=True)
    assert releases.read_alias(store, "production") == before
    moved = releases.promote_by_hand(store, word("b", "the buyers\n looked at it"), anyway=True)
    said = word("b2", "the buyers looked at it").model_copy(update={"overruled": (LOSS,)})
    assert (moved.release, moved.history, moved.promotions) == ("b2", ("a1",), (said,))
    assert releases.read_alias(store, "production") == moved
    assert said.as_sentence() == (
        "Promoted by anna, against the gate, at 2026-11-21T07:04:49+00:00: the buyers looked at it."
    )


def test_what_merely_waits_is_promoted_by_a_word(store: Store) -> None:
    """Of mode hold, of a backfill, or rolled back."""
    seal(store, "a1"), seal(store, "b2", "held")
    releases.promote(store, "a1", None)
    moved = releases.promote_by_hand(store, word("b2"))
    assert (moved.release, moved.promotions) == ("b2", (word("b2"),))
    assert moved.promoted_by_hand == word("b2")
    releases.rollback(store)
    assert releases.promote_by_hand(store, word("b2", "again")).release == "b2"


def test_what_the_gate_published_with_a_warning_needs_no_why_again(store: Store) -> None:
    seal(store, "a1", "published", (LOSS,))
    assert releases.promote_by_hand(store, word("a1")).promotions[-1].overruled == ()


def test_no_move_of_the_alias_forgets_who_promoted_what(store: Store) -> None:
    for name in ("a1", "b2", "c3", "d4"):
        seal(store, name, "held")
    for name in ("a1", "b2"):
        releases.promote_by_hand(store, word(name))
    releases.promote(store, "c3", "b2")
    releases.promote(store, "d4", "c3")
    releases.rollback(store)
    releases.roll_back_to(store, "a1", "c3")
    kept = releases.forget(store, "production", {"b2"})
    assert kept.promotions == (word("a1"), word("b2"))
    assert kept.promoted_by_hand == word("a1")
    assert releases.promote(store, "d4", "a1").promoted_by_hand is None


def test_promoting_production_by_hand_changes_and_records_nothing(store: Store) -> None:
    seal(store, "a1")
    once = releases.promote(store, "a1", None)
    assert releases.promote_by_hand(store, word("a1", "to be sure")) == once
    with pytest.raises(NotFound, match="no release 'ghost'"):
        releases.promote_by_hand(store, word("ghost"))


def test_of_promotions_by_hand_at_one_time_none_is_lost(store: Store) -> None:
    names = [seal(store, f"n{i}") for i in range(6)]
    threads = [threading.Thread(target=releases.promote_by_hand, args=(store, word(name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alias = releases.read_alias(store, "production")
    assert sorted(said.release for said in alias.promotions) == names
    assert sorted((*alias.history, alias.release)) == names
