"""The status of a store: production, its releases, and the last run."""

from __future__ import annotations

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.anchors import FIRST, LOST, Anchor
from retrieval_core.artifacts.manifests import MANIFEST
from retrieval_core.maintenance.status import last_run, status
from retrieval_core.store.base import Store
from tests.core.damage import ITEMS
from tests.core.sealed_runs import SealedRuns


def test_an_empty_store_has_no_production_no_releases_and_no_run(local_store: Store) -> None:
    empty = status(local_store)

    assert (empty.production, empty.promotions, empty.releases, empty.last_run) == (None, (), [], None)
    assert empty.anchor is None


def test_the_anchor_is_described_and_is_production_itself_where_its_report_is_lost(runs: SealedRuns) -> None:
    store = runs.store
    first = releases.get_release(store, status(store).production or "")
    second = runs.seal(ITEMS[4:], anchor=first.fingerprint)
    assert status(store).anchor == Anchor(release=first.fingerprint, since=first.created, why=FIRST)
    store.delete(f"{second.report.key}/{MANIFEST}")
    assert status(store).anchor == Anchor(release=second.fingerprint, since=second.created, why=LOST)


def test_production_and_all_releases_are_listed(runs: SealedRuns) -> None:
    store = runs.store
    first = status(store).production
    second = runs.seal(ITEMS[4:])

    document = status(store)

    assert document.production == second.fingerprint
    assert {row.release for row in document.releases} == {first, second.fingerprint}
    assert [row.created for row in document.releases] == sorted(row.created for row in document.releases)
    row = next(row for row in document.releases if row.release == second.fingerprint)
    assert (row.gate, row.rows, row.variant, row.causes) == ("published", 10, "masked_boosted", ())


def test_a_rollback_and_a_promotion_by_hand_show(runs: SealedRuns) -> None:
    store = runs.store
    first, second = status(store).production, runs.seal(ITEMS[4:]).fingerprint
    releases.rollback(store)
    assert status(store).production == first

    releases.promote_by_hand(store, releases.Promotion(release=second, by="anna", at="2026-11-21T07:04:49+00:00"))

    assert status(store).production == second
    assert [(promotion.release, promotion.by) for promotion in status(store).promotions] == [(second, "anna")]


def test_the_last_run_is_the_latest_document(local_store: Store) -> None:
    local_store.put("runs/2026-11-20T02-00-00.json", b'{"release": "old"}')
    local_store.put("runs/2026-11-21T02-00-00.json", b'{"release": "new"}')
    local_store.put("runs/going/run-1", b"a lease, not a document")

    assert last_run(local_store) == {"release": "new"}
    assert status(local_store).last_run == {"release": "new"}
