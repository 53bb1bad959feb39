"""The anchor of production: derived from its alias and reports, and replaced where it is gone."""

from __future__ import annotations

import time

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.anchors import BETTER, FIRST, Anchor, anchor_of, describe_anchor, find_anchors
from retrieval_core.artifacts.manifests import MANIFEST, Ref, Release, Report
from retrieval_core.artifacts.releases import PRODUCTION, Promotion
from retrieval_core.evaluate.measure.indexed_rows import open_indexed
from retrieval_core.maintenance.vacuum import DAY_S, Policy, apply, plan_vacuum
from retrieval_core.store.base import Store
from tests.core.sealed_runs import SealedRuns

NOWHERE = Ref(kind="VectorSet", key="vectors/none/none")
AT = "2026-11-21T07:04:49+00:00"


@pytest.fixture
def publish(local_store: Store):
    """`publish(name, anchor)` makes a release production whose report names this anchor, compared with `compared`."""

    def make(name: str, anchor: str = "", compared: str = "") -> Release:
        config = {"anchor": compared or anchor} if compared or anchor else {}
        report = Report(fingerprint=f"report-{name}", config=config, gate="published", gate_reason="", anchor=anchor)
        release = Release(
            fingerprint=name, catalog=NOWHERE, backbone=NOWHERE, vectors=NOWHERE, index=NOWHERE, variant="raw",
            report=report.seal(local_store).ref, gate="published", counts={"rows": 1},
        ).seal(local_store)  # fmt: skip
        releases.point_alias(local_store, PRODUCTION, name)
        return release

    return make


def names(store: Store, release: Release) -> list[str]:
    return [candidate.fingerprint for candidate in find_anchors(store, release)]


def test_the_first_release_is_its_own_anchor(local_store: Store, publish) -> None:
    first = publish("first")
    assert anchor_of(local_store, first) == "first"
    assert names(local_store, first) == ["first"]
    assert describe_anchor(local_store, first) == Anchor(release="first", since=first.created, why=FIRST)


def test_the_anchor_stays_while_production_moves(local_store: Store, publish) -> None:
    publish("first")
    publish("second", "first")
    third = publish("third", "first")
    assert anchor_of(local_store, third) == "first"
    assert names(local_store, third) == ["first", "second", "third"]


def test_a_release_that_was_clearly_better_is_the_anchor(local_store: Store, publish) -> None:
    publish("first")
    better = publish("better", compared="first")
    later = publish("later", "better")
    assert names(local_store, later) == ["better", "later"]
    assert describe_anchor(local_store, better).why == BETTER


def test_a_promotion_by_a_person_resets_the_anchor(local_store: Store, publish) -> None:
    publish("first")
    publish("second", "first")
    held = publish("third", "first")
    releases.rollback(local_store)
    releases.promote_by_hand(local_store, Promotion(release="third", by="anna", at=AT, why="the season"))
    assert names(local_store, held) == ["third"]
    described = describe_anchor(local_store, held)
    assert (described.since, described.why) == (AT, f"Promoted by anna at {AT}: the season.")
    assert names(local_store, publish("fourth", "third")) == ["third", "fourth"]


def test_a_rollback_goes_back_to_the_anchor_of_that_release(local_store: Store, publish) -> None:
    publish("first")
    second = publish("second", "first")
    publish("better", compared="first")
    assert releases.rollback(local_store).release == "second"
    assert anchor_of(local_store, second) == "first"


@pytest.mark.parametrize("damage", ["removed", "unreadable"])
def test_a_later_release_stands_in_for_an_anchor_that_cannot_be_read(local_store: Store, publish, damage: str) -> None:
    publish("first")
    publish("second", "first")
    production = publish("third", "first")
    local_store.delete(f"releases/first/{MANIFEST}")
    if damage == "unreadable":
        local_store.put(f"releases/first/{MANIFEST}", b"{")
    assert names(local_store, production) == ["second", "third"]
    fourth = publish("fourth", "second")
    assert names(local_store, fourth) == ["second", "third", "fourth"]
    stand_in = next(find_anchors(local_store, fourth))
    assert (
        describe_anchor(local_store, stand_in).why == "The oldest release that can be compared with, in place of first."
    )


def test_an_anchor_that_left_the_history_is_still_found(local_store: Store, publish) -> None:
    publish("first")
    publish("second", "first")
    production = publish("third", "first")
    releases.forget(local_store, PRODUCTION, ["first"])
    assert names(local_store, production) == ["first", "second", "third"]


def test_a_vacuum_keeps_the_anchor_of_production_so_that_it_can_be_searched(local_store: Store) -> None:
    def vacuum() -> set[str]:
        plan = plan_vacuum(local_store, Policy(keep=0), time.time() + 30 * DAY_S)
        apply(local_store, plan)
        return set(plan.kept)

    items, runs = [f"item-{number}" for number in range(14)], SealedRuns(local_store)
    anchor = runs.seal(items)
    runs.seal(items[1:], anchor=anchor.fingerprint)
    production = runs.seal(items[2:], anchor=anchor.fingerprint)
    assert vacuum() == {anchor.fingerprint, production.fingerprint}
    assert len(open_indexed(local_store, anchor).items) == len(items)
    local_store.delete(f"{anchor.key}/{MANIFEST}")
    assert vacuum() == {production.fingerprint}, "an anchor that is absent is not needed"
