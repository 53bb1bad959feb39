"""Repair leaves production able to serve and the next run able to start, or says what it cannot repair."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS, load_items
from retrieval_core.artifacts.manifests import Backbone, Catalog, IndexSet, Release, Segmenter
from retrieval_core.artifacts.parts import put_part, read_unsealed
from retrieval_core.artifacts.variants import Variant
from retrieval_core.errors import NotFound, StoreBusy
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import Repair, repair
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from tests.core.damage import ITEMS, actions, contents, flip, lose, parts_of, production, truncate
from tests.core.sealed_runs import SealedRuns, fake_fingerprint


def test_an_intact_store_is_left_unchanged(runs: SealedRuns) -> None:
    before = contents(runs.store)

    assert repair(runs.store) == Repair(ok=True, findings=())
    assert contents(runs.store) == before


def test_an_empty_store_has_nothing_to_repair(local_store: Store) -> None:
    with pytest.raises(NotFound, match="nothing is published"):
        repair(local_store)


def test_no_file_of_a_damaged_shard_is_left_behind(runs: SealedRuns) -> None:
    store, first = runs.store, production(runs.store)
    second = runs.seal([*ITEMS[4:], "new"])
    index = IndexSet.open(store, second.index)
    other = index.parts[0].model_copy(update={"sha256": "0" * 64})  # as of a graph, which is never built alike
    data = index.model_copy(update={"parts": (other, *index.parts[1:])}).to_sealed()[1]
    store.put(f"{index.key}/manifest.json", data)

    found = repair(store)

    assert actions(found)["aliases/production"] == "moved"
    assert production(store) == first
    folder = other.key.rsplit("/", 1)[0]
    assert list(store.list(f"{folder}/")) == []
    runs.seal([*ITEMS[4:], "new"])
    assert verify(store).ok


def test_a_lost_catalogue_does_not_stop_the_next_run(runs: SealedRuns) -> None:
    store, first = runs.store, production(runs.store)
    second = runs.seal(ITEMS[4:])
    (items,) = Catalog.open(store, second.catalog).item_parts
    for key in (items.key, SEEN_ITEMS):
        truncate(store, key)

    found = repair(store)

    assert actions(found)["aliases/production"] == actions(found)["aliases/latest"] == "moved"
    latest = releases.read_release(store, "latest")
    assert latest == production(store) == first
    assert len(load_items(store, latest.parents["catalog"])) == len(ITEMS)
    assert len(read_unsealed(store, SEEN_ITEMS)) == len(ITEMS)
    runs.seal(ITEMS[4:])
    assert verify(store).ok


def test_production_stays_if_no_search_opens_what_is_damaged(runs: SealedRuns) -> None:
    store = runs.store
    runs.seal(ITEMS[3:])
    second = production(store)
    raw = second.model_copy(update={"fingerprint": "f" * 32, "variant": Variant("raw", boosted=True)}).seal(store)
    releases.point_alias(store, "production", raw.fingerprint)
    assert raw.segmenter is not None
    (weights,) = (part.key for part in Segmenter.open(store, raw.segmenter).parts)
    flip(store, weights)

    assert actions(repair(store)) == {weights: "refused"}
    assert production(store) == raw


def test_nothing_is_repaired_while_a_run_is_active(runs: SealedRuns) -> None:
    truncate(runs.store, SEEN_ITEMS)
    before = contents(runs.store)
    with leases.shared_lease(runs.store, "the night"), pytest.raises(StoreBusy, match="the night"):
        repair(runs.store)
    assert contents(runs.store) == before


def test_a_named_backbone_is_checked(runs: SealedRuns) -> None:
    key = f"backbones/{fake_fingerprint('trained')}/weights.safetensors"
    part = put_part(runs.store, key, b"weights", 0)
    sealed = Backbone(fingerprint=fake_fingerprint("trained"), parts=(part,), card="tiny", dim=2, size_px=32).seal(
        runs.store
    )
    backbone_names.point_backbone(runs.store, "mine", "production", sealed.fingerprint)
    assert repair(runs.store).findings == ()
    flip(runs.store, key)

    (finding,) = repair(runs.store).findings

    assert (finding.key, finding.action) == (key, "refused")
    assert "mine@production" in finding.detail
    assert runs.store.exists(key)


def test_an_unreadable_alias_of_the_last_run_is_repaired(runs: SealedRuns) -> None:
    runs.store.put("aliases/latest", b"{")

    assert actions(repair(runs.store)) == {"aliases/latest": "moved"}
    assert releases.read_release(runs.store, "latest") == production(runs.store)


def test_production_goes_back_to_a_release_that_can_be_served(runs: SealedRuns) -> None:
    """Vectors and shards both lost: nothing is left to build the shard from."""
    store, first = runs.store, production(runs.store)
    second = runs.seal([*ITEMS[4:], "new"])
    unshared = [key for key in parts_of(store, "masked") if key not in contents_of(store, first)]
    for key in unshared + [key for role in ("boosted", "index") for key in parts_of(store, role)]:
        if key not in contents_of(store, first):
            lose(store, key)

    found = repair(store)

    assert not found.ok
    assert actions(found)["aliases/production"] == "moved"
    assert production(store) == first
    assert verify(store).ok
    alias = releases.read_alias(store, "production")
    assert alias is not None
    assert alias.withdrawn == "", "no person took it back: the next run may publish it again"
    again = runs.seal([*ITEMS[4:], "new"])
    assert production(store).fingerprint == again.fingerprint
    assert again.catalog == second.catalog
    assert verify(store).ok


def contents_of(store: Store, release: Release) -> set[str]:
    inventory = Inventory(store)
    owners = [inventory.open(key) for key in inventory.needs(release)]
    sources = [inventory.open(key) for owner in owners for key in inventory.needs(owner)]
    return {part.key for owner in [*owners, *sources] for part in owner.parts}


@pytest.mark.parametrize("damage", [truncate, lose])
def test_an_alias_whose_release_is_lost_goes_back(runs: SealedRuns, damage: Callable[[Store, str], None]) -> None:
    store, first = runs.store, production(runs.store)
    second = runs.seal(ITEMS[4:])
    damage(store, f"{second.key}/manifest.json")

    found = repair(store)

    removed = {f"{second.key}/manifest.json": "removed"} if damage is truncate else {}
    assert actions(found) == {"aliases/production": "moved", "aliases/latest": "moved"} | removed
    assert production(store) == first
    runs.seal(ITEMS[4:])  # which looks at both
    assert verify(store).ok


def test_an_alias_without_history_is_refused_and_unchanged(runs: SealedRuns) -> None:
    before = releases.read_alias(runs.store, "production")
    lose(runs.store, f"{production(runs.store).key}/manifest.json")

    found = repair(runs.store)

    assert not found.ok
    assert actions(found)["aliases/production"] == "refused"
    assert releases.read_alias(runs.store, "production") == before


def test_an_alias_that_cannot_be_read_is_named(runs: SealedRuns) -> None:
    runs.store.put("aliases/production", b"{")

    found = repair(runs.store)

    assert actions(found) == {"aliases/production": "refused"}
    assert "delete this file" in found.findings[0].detail
    runs.store.delete("aliases/production")
    (release,) = releases.release_names(runs.store)
    releases.promote(runs.store, release, None)
    assert repair(runs.store).findings == ()
    assert verify(runs.store).ok


def test_a_lost_report_does_not_move_production(runs: SealedRuns) -> None:
    first = production(runs.store)
    runs.seal(ITEMS[3:])
    second = production(runs.store)
    lose(runs.store, parts_of(runs.store, "report")[0])

    found = repair(runs.store)

    assert set(actions(found).values()) == {"refused"}
    assert production(runs.store) == second != first


@pytest.mark.parametrize("key", [SEEN_ITEMS, LEDGER])
def test_what_was_last_seen_is_restored_from_the_catalogue(runs: SealedRuns, key: str) -> None:
    before = contents(runs.store)
    truncate(runs.store, key)

    assert actions(repair(runs.store)) == {key: "repaired"}
    assert contents(runs.store) == before


@pytest.mark.parametrize("role", ["release", "catalog", "index", "report"])
def test_an_unreadable_manifest_of_an_earlier_release_is_removed(runs: SealedRuns, role: str) -> None:
    """Until then no vacuum would remove anything, and a run over the same catalogue would fail."""
    store, first = runs.store, production(runs.store)
    runs.seal([*ITEMS[4:], "new"])
    key = first.key if role == "release" else getattr(first, role).key
    flip(store, f"{key}/manifest.json")

    found = repair(store)

    assert found.ok
    assert actions(found) == {f"{key}/manifest.json": "removed"}
    assert repair(store).findings == ()
    again = runs.seal(ITEMS)
    assert production(store).fingerprint == again.fingerprint
    assert verify(store).ok


def test_an_unreadable_manifest_of_an_earlier_model_is_named_and_stays(runs: SealedRuns) -> None:
    store, first = runs.store, production(runs.store)
    runs.seal([*ITEMS[4:], "new"], backbone="another")
    manifest = f"{first.backbone.key}/manifest.json"
    flip(store, manifest)

    assert actions(repair(store)) == {manifest: "refused"}
    assert store.exists(manifest)
