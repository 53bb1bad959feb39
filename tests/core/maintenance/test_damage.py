"""What keeps a release from being searched; no person moves production to such a release."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import IndexSet, Release
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.index.plan import template_key
from retrieval_core.maintenance.damage import damage_to_search, promote_checked, roll_back_checked
from retrieval_core.maintenance.inventory import open_artifact, searched_refs
from retrieval_core.store.base import Store
from tests.core.damage import DAMAGE, ITEMS, flip, production
from tests.core.sealed_runs import SealedRuns

ROLES = ("catalog", "backbone", "index", "head", "segmenter", "reducer")


def by_hand(release: Release) -> releases.Promotion:
    return releases.Promotion(release=release.fingerprint, by="anna", at="2026-11-29T00:00:00+00:00")


def searched_files(store: Store, release: Release, role: str) -> list[str]:
    ref = getattr(release, role)
    assert ref in searched_refs(release)
    return [f"{ref.key}/manifest.json", *(part.key for part in open_artifact(store, ref.key).parts)]


@pytest.mark.parametrize("role", ROLES)
@DAMAGE
def test_no_person_moves_production_to_a_release_that_cannot_be_searched(
    runs: SealedRuns, role: str, damage: Callable[[Store, str], None]
) -> None:
    store, first = runs.store, production(runs.store)
    runs.seal([*ITEMS[4:], "new"], backbone="another")
    before = releases.read_alias(store, "production")
    second = production(store)
    shared = {key for other in ROLES for key in searched_files(store, second, other)}
    for key in searched_files(store, first, role):
        if key in shared:
            continue
        data = store.get(key)
        damage(store, key)
        assert damage_to_search(store, first)
        for move in (roll_back_checked, lambda store: promote_checked(store, by_hand(first))):
            with pytest.raises((ShardCorrupt, NotFound), match="Production was not moved"):
                move(store)
        assert releases.read_alias(store, "production") == before
        store.put(key, data)
    assert roll_back_checked(store).release == first.fingerprint


def test_what_no_search_opens_does_not_matter(runs: SealedRuns) -> None:
    store, first = runs.store, production(runs.store)
    runs.seal([*ITEMS[4:], "new"])
    flip(store, template_key(IndexSet.open(store, first.index).template))
    for key in searched_files_of_report(store, first):
        flip(store, key)
    assert damage_to_search(store, first) == ""
    assert roll_back_checked(store).release == first.fingerprint


def searched_files_of_report(store: Store, release: Release) -> list[str]:
    return [part.key for part in open_artifact(store, release.report.key).parts]


def test_a_rollback_without_an_earlier_release_says_so(runs: SealedRuns) -> None:
    with pytest.raises(NotFound, match="no earlier release"):
        roll_back_checked(runs.store)
