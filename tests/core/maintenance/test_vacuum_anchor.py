"""A vacuum keeps the anchor of production, with which the next release is compared."""

from __future__ import annotations

import time

from retrieval_core.artifacts.manifests import MANIFEST
from retrieval_core.evaluate.measure.indexed_rows import open_indexed
from retrieval_core.maintenance.vacuum import DAY_S, Policy, apply, plan_vacuum
from retrieval_core.store.base import Store
from tests.core.sealed_runs import SealedRuns

ITEMS = [f"item-{number}" for number in range(14)]


def vacuum(store: Store) -> tuple[str, ...]:
    plan = plan_vacuum(store, Policy(keep=0), time.time() + 30 * DAY_S)
    apply(store, plan)
    return plan.kept


def test_the_anchor_of_production_is_kept_and_can_be_searched(local_store: Store) -> None:
    runs = SealedRuns(local_store)
    anchor = runs.seal(ITEMS)
    runs.seal(ITEMS[1:], anchor=anchor.fingerprint)
    production = runs.seal(ITEMS[2:], anchor=anchor.fingerprint)
    assert set(vacuum(local_store)) == {anchor.fingerprint, production.fingerprint}
    assert len(open_indexed(local_store, anchor).items) == len(ITEMS)
    local_store.delete(f"{anchor.key}/{MANIFEST}")
    assert vacuum(local_store) == (production.fingerprint,), "an anchor that is absent is not needed"
