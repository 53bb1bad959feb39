"""What no kept release needs goes, and nothing else: proved by `verify`, by searching, and by looking for lost keys."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.manifests import Backbone, Head, IndexSet, Release
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.measure.indexed_rows import open_indexed
from retrieval_core.index.plan import template_key
from retrieval_core.maintenance import vacuum as vacuum_module
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.vacuum import DAY_S, Policy, VacuumPlan, apply, plan_vacuum, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.damage import ITEMS
from tests.core.sealed_runs import BOOSTED_DIM, SealedRuns, fake_fingerprint

pytestmark = pytest.mark.usefixtures("aws_environment")

A, B = fake_fingerprint("stray"), fake_fingerprint("other")
ONLY_PRODUCTION = Policy(keep=0, older_than_days=7, safe_hours=24)


def later(days: float = 30) -> float:
    return time.time() + days * DAY_S


def vacuum_later(store: Store, policy: Policy = ONLY_PRODUCTION, days: float = 30) -> VacuumPlan:
    plan, done = vacuum(store, policy, later(days))
    assert done.n_removed == len(plan.keys)
    return plan


def keys(store: Store) -> set[str]:
    return set(store.list(""))


def served(store: Store, release: Release) -> list[str]:
    """Return the hits of one query in a release, having checked every part of it."""
    inventory = Inventory(store)
    for key in (release.key, *(inventory.needs(release))):
        for part in inventory.open(key).parts:
            store.local_path(part.key, part.sha256)
    query = np.ones((1, BOOSTED_DIM), np.float32) / BOOSTED_DIM**0.5
    return [str(row) for row in open_release(store, release.fingerprint).search_vectors(query, 3)[1].ravel()]


def test_only_what_production_needs_is_kept(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    before = served(store, sealed[2])

    plan = vacuum_later(store)

    assert plan.kept == (sealed[2].fingerprint,)
    assert set(plan.removed) == {sealed[0].fingerprint, sealed[1].fingerprint}
    assert releases.release_names(store) == [sealed[2].fingerprint]
    assert verify(store).ok
    assert served(store, sealed[2]) == before
    assert store.exists(template_key(IndexSet.open(store, sealed[2].index).template))
    assert not plan_vacuum(store, ONLY_PRODUCTION, later()).keys


def test_the_next_run_recomputes_nothing(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    vacuum_later(store)
    parts = {key for key in keys(store) if "/parts/" in key or "/shards/" in key or "heads" in key}

    again = SealedRuns(store).seal([*ITEMS[5:6], *ITEMS[6:], "new-1", "new-2"])  # item-5 as it was before

    assert verify(store).ok
    recomputed = {key for key in keys(store) if "/parts/" in key} - parts
    assert len(recomputed) <= 4  # of one picture: a mask, its vector, boosted and reduced
    assert again.head == sealed[2].head


def test_the_history_is_kept_and_no_rollback_leads_to_a_removed_release(
    three_runs: tuple[Store, list[Release]],
) -> None:
    store, sealed = three_runs

    vacuum_later(store, Policy(keep=1))

    assert sorted(releases.release_names(store)) == sorted([sealed[1].fingerprint, sealed[2].fingerprint])
    releases.rollback(store)
    assert verify(store).ok
    with pytest.raises(NotFound, match="no earlier release"):
        releases.rollback(store)


def test_young_releases_and_the_one_rolled_back_from_are_kept(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    releases.rollback(store)

    assert len(plan_vacuum(store, Policy(keep=0), later(6)).kept) == 3
    assert set(vacuum_later(store).kept) == {sealed[1].fingerprint, sealed[2].fingerprint}


def test_the_anchor_of_production_is_kept_and_can_be_searched(local_store: Store) -> None:
    runs = SealedRuns(local_store)
    anchor = runs.seal(ITEMS)
    runs.seal(ITEMS[1:], anchor=anchor.fingerprint)
    production = runs.seal(ITEMS[2:], anchor=anchor.fingerprint)
    assert set(vacuum_later(local_store, Policy(keep=0)).kept) == {anchor.fingerprint, production.fingerprint}
    assert len(open_indexed(local_store, anchor).items) == len(ITEMS)
    local_store.delete(f"{anchor.key}/manifest.json")
    kept = vacuum_later(local_store, Policy(keep=0)).kept
    assert kept == (production.fingerprint,), "an anchor that is absent is not needed"


def test_recent_writes_stay_with_what_they_need(local_store: Store) -> None:
    runs = SealedRuns(local_store)
    runs.seal(ITEMS)
    runs.seal(ITEMS[:9])
    for stray in (f"vectors/{A}/parts/x.parquet", f"indexes/shards/{A}/index.faiss", f"backbones/{A}/model.onnx"):
        local_store.put(stray, b"of a running run")
    releases.forget(local_store, "production", releases.release_names(local_store))

    plan = plan_vacuum(local_store, Policy(keep=0, older_than_days=0, safe_hours=24), later(0.9))

    assert plan.keys == ()


def test_what_a_killed_run_left_is_removed_after_the_safe_age(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    SealedRuns(local_store).seal(ITEMS)
    strays = {
        f"vectors/{A}/parts/x.parquet",
        f"vectors/{A}/plans/x.parquet",
        f"vectors/{A}/plans/{B}/found-0000.parquet",
        f"orders/{A}/plans/0000.json",
        f"orders/{A}/plans/0000/1.json",
        f"backbones/{A}/model.onnx",
        f"indexes/shards/{A}/index.faiss",
        f"catalogs/{A}/items.parquet",
        f"runs/_probe-{A}",
        f"runs/going/run-{A}",
    }
    for stray in strays:
        local_store.put(stray, b"left")
    _written(local_store, f"runs/going/run-{A}", hours_ago=1)
    kept = keys(local_store) - strays

    vacuum_later(local_store)

    left = keys(local_store)
    assert not left & strays
    assert {key for key in kept - left if "/plans/" not in key} == set()


def test_a_family_that_still_grows_stays_complete(local_store: Store) -> None:
    """Another backbone may be filled beside production for many days before anything is sealed."""
    SealedRuns(local_store).seal(ITEMS)
    for number in range(3):
        local_store.put(f"vectors/{A}/parts/{number}.parquet", b"x")
    old = open_store(local_store.url)
    for number in (0, 1):
        _written(local_store, f"vectors/{A}/parts/{number}.parquet", hours_ago=100)

    assert plan_vacuum(old, ONLY_PRODUCTION, time.time()).keys == ()
    _written(local_store, f"vectors/{A}/parts/2.parquet", hours_ago=30)
    assert len(plan_vacuum(old, ONLY_PRODUCTION, time.time()).keys) == 3


def _written(store: Store, key: str, hours_ago: float) -> None:
    at = time.time() - hours_ago * 3600
    os.utime(Path(store.url, key), (at, at))


def test_named_backbones_comparisons_runs_and_foreign_files_stay(local_store: Store) -> None:
    SealedRuns(local_store).seal(ITEMS)
    for name in (A, B):
        Backbone(fingerprint=name, card="tiny", dim=2, size_px=32).seal(local_store)
    backbone_names.point_backbone(local_store, "mine", "production", A)
    others = {f"comparisons/{A}/report.html", "runs/2026.json", "notes.txt", "masks/0001.png", "reports/2026/june.xlsx"}
    for key in others:
        local_store.put(key, b"{}")

    vacuum_later(local_store)

    assert others <= keys(local_store)
    assert backbone_names.find_backbone(local_store, "mine").fingerprint == A
    assert Backbone.find(local_store, B) is None


def test_the_models_of_a_family_that_still_grows_stay_with_it(local_store: Store) -> None:
    """Which model a family grows by is written down when its view is sealed; another one would not fit the parts."""
    SealedRuns(local_store).seal(ITEMS)
    for name in (A, B):
        Backbone(fingerprint=name, card="tiny", dim=2, size_px=32).seal(local_store)
        _written(local_store, f"backbones/{name}/manifest.json", hours_ago=1000)
    local_store.put(f"vectors/{A}/parts/0.parquet", b"x")

    assert plan_vacuum(local_store, ONLY_PRODUCTION, time.time()).keys == ()
    _written(local_store, f"vectors/{A}/parts/0.parquet", hours_ago=30)
    assert len(plan_vacuum(local_store, ONLY_PRODUCTION, time.time()).keys) == 3


def test_the_checkpoint_of_an_unfinished_training_stays(local_store: Store) -> None:
    SealedRuns(local_store).seal(ITEMS)
    Backbone(fingerprint=A, card="tiny", dim=2, size_px=32).seal(local_store)
    backbone_names.point_backbone(local_store, "mine", "production", A)
    ended, going_on = (f"backbones/{name}/checkpoint/last.ckpt" for name in (A, B))
    for key in (ended, going_on):
        local_store.put(key, b"the last epoch")

    vacuum_later(local_store, days=400)

    assert local_store.exists(going_on)
    assert not local_store.exists(ended)


def test_a_view_that_only_its_fingerprint_names_keeps_all_vectors(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    SealedRuns(store).seal(ITEMS[:8], backbone="another")
    before = {key for key in keys(store) if key.startswith("vectors/")}
    candidates = IndexSet.open(store, sealed[2].index).parents["candidates"]
    (manifest,) = (key for key in before if key.endswith(f"/{candidates}/manifest.json"))
    store.delete(manifest)

    assert "vectors" in vacuum_later(store, Policy(keep=1)).whole
    assert {key for key in keys(store) if key.startswith("vectors/")} == before - {manifest}


def test_nothing_is_removed_if_an_alias_dangles_or_a_kept_release_is_damaged(
    three_runs: tuple[Store, list[Release]],
) -> None:
    store, sealed = three_runs
    manifest = f"{sealed[2].key}/manifest.json"
    data = store.get(manifest)

    store.put(manifest, data[:-20])
    with pytest.raises(ShardCorrupt, match="vitrine repair"):
        plan_vacuum(store, ONLY_PRODUCTION, later())
    store.delete(manifest)
    with pytest.raises(NotFound, match="vitrine repair"):
        plan_vacuum(store, ONLY_PRODUCTION, later())


KINDS = ["catalog", "index", "vectors", "head", "reducer", "backbone"]


@pytest.mark.parametrize("kind", [*KINDS, "segmenter"])
def test_nothing_is_removed_if_production_needs_a_lost_manifest(
    three_runs: tuple[Store, list[Release]], kind: str
) -> None:
    """An earlier release may have to serve."""
    store, sealed = three_runs
    store.delete(f"{getattr(sealed[2], kind).key}/manifest.json")
    with pytest.raises(NotFound, match="vitrine repair"):
        plan_vacuum(store, ONLY_PRODUCTION, later())


def test_a_vacuum_works_where_the_catalogue_that_models_were_trained_on_is_lost(
    three_runs: tuple[Store, list[Release]],
) -> None:
    """A repair removes a damaged one that no release in use has; nothing is lost with it."""
    store, sealed = three_runs
    trained_on = Head.open(store, sealed[2].heads[0]).parents["catalog"]
    assert trained_on != sealed[2].catalog.name
    store.delete(f"catalogs/{trained_on}/manifest.json")

    assert vacuum_later(store).removed
    assert verify(store).ok


@pytest.mark.parametrize("kind", KINDS)
def test_if_an_earlier_release_lost_a_manifest_everything_it_may_have_needed_stays(
    three_runs: tuple[Store, list[Release]], kind: str
) -> None:
    store, sealed = three_runs
    runs = SealedRuns(store)
    runs.seal(ITEMS[:8], backbone="another")  # shares nothing with those before but masks
    manifest = f"{getattr(sealed[2], kind).key}/manifest.json"
    data = store.get(manifest)
    store.delete(manifest)

    plan = vacuum_later(store, Policy(keep=1))
    store.put(manifest, data)

    assert plan.whole
    releases.rollback(store)
    assert releases.read_release(store, "production") == sealed[2]
    assert verify(store).ok


def test_a_vacuum_killed_half_way_and_run_again_ends_the_same(
    three_runs: tuple[Store, list[Release]], tmp_path: Path
) -> None:
    store, _ = three_runs
    undisturbed = open_store(str(shutil.copytree(store.url, tmp_path / "undisturbed")))
    vacuum_later(undisturbed)
    plan = plan_vacuum(store, ONLY_PRODUCTION, later())
    for n_removed in range(0, len(plan.keys), 7):
        killed = open_store(str(shutil.copytree(store.url, tmp_path / f"killed-{n_removed}")))
        for key in plan.keys[:n_removed]:
            killed.delete(key)
        assert verify(killed).ok

        vacuum_later(killed)

        assert keys(killed) == keys(undisturbed)


def test_after_a_killed_vacuum_a_run_makes_again_what_was_removed(
    three_runs: tuple[Store, list[Release]], tmp_path: Path
) -> None:
    """No part of a shard may pass for the shard."""
    store, sealed = three_runs
    plan = plan_vacuum(store, ONLY_PRODUCTION, later())
    for n_removed in range(1, len(plan.keys)):
        killed = open_store(str(shutil.copytree(store.url, tmp_path / f"killed-{n_removed}")))
        for key in plan.keys[:n_removed]:
            killed.delete(key)

        assert SealedRuns(killed).seal(ITEMS).fingerprint == sealed[0].fingerprint

        assert verify(killed).ok


def test_no_part_is_deleted_at_once_with_what_needs_it(
    three_runs: tuple[Store, list[Release]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted at once may be deleted in any order, and the vacuum be killed between any two deletions."""
    store, _ = three_runs
    inventory, really_delete = Inventory(store), vacuum_module._delete
    parts = {key: {part.key for part in inventory.open(key).parts} for key in inventory.artifact_keys()}

    def delete(store: Store, batch: list[str]) -> dict[str, bytes]:
        for key in batch:
            if key.endswith("/manifest.json"):
                assert not parts[key.removesuffix("/manifest.json")].intersection(batch)
        return really_delete(store, batch)

    monkeypatch.setattr(vacuum_module, "_delete", delete)
    vacuum_later(store)


def test_a_release_promoted_meanwhile_is_put_back(
    three_runs: tuple[Store, list[Release]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sealed = three_runs
    plan = plan_vacuum(store, ONLY_PRODUCTION, later())
    delete = type(store).delete

    def delete_late(self: Store, key: str) -> None:
        """A person promotes a release at the very moment it goes."""
        if key == f"{sealed[0].key}/manifest.json":
            releases.promote(store, sealed[0].fingerprint, sealed[2].fingerprint)
        delete(self, key)

    monkeypatch.setattr(type(store), "delete", delete_late)
    done = apply(store, plan)

    assert done.stopped
    assert done.n_removed == 0
    assert verify(store).ok
    assert releases.read_release(store, "production") == sealed[0]


def test_it_stops_if_an_alias_moved_after_the_plan(three_runs: tuple[Store, list[Release]]) -> None:
    store, _ = three_runs
    plan = plan_vacuum(store, ONLY_PRODUCTION, later())
    releases.rollback(store)
    before = keys(store)

    assert apply(store, plan).stopped
    assert keys(store) == before


def test_a_searcher_of_a_kept_release_never_fails_meanwhile(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    wanted = served(store, sealed[2])
    failed: list[object] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            try:
                if served(store, sealed[2]) != wanted:
                    failed.append("other hits")
            except Exception as error:
                failed.append(error)

    searcher = threading.Thread(target=search)
    searcher.start()
    vacuum_later(store)
    stop.set()
    searcher.join()

    assert failed == []


def test_a_store_on_s3_is_vacuumed_the_same_way(s3_store: Store, tmp_path: Path) -> None:
    runs = SealedRuns(s3_store)
    runs.seal(ITEMS)
    runs.seal(ITEMS[5:])
    local = SealedRuns(open_store(str(tmp_path / "local")))
    local.seal(ITEMS)
    local.seal(ITEMS[5:])

    assert vacuum_later(s3_store).keys == vacuum_later(local.store).keys
    assert keys(s3_store) == keys(local.store)
    assert verify(s3_store).ok


CATALOGUE = st.sets(st.sampled_from(ITEMS), min_size=8).map(sorted)


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    catalogues=st.lists(CATALOGUE, min_size=1, max_size=3),
    backbones=st.lists(st.sampled_from("bc"), min_size=3, max_size=3),
    keep=st.integers(0, 2),
    n_back=st.integers(0, 2),
)
def test_every_kept_release_is_intact_after_any_history(
    catalogues: list[list[str]], backbones: list[str], keep: int, n_back: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        runs = SealedRuns(store)
        for names, backbone in zip(catalogues, backbones, strict=False):
            runs.seal(names, backbone)
        for _ in range(n_back):
            with suppress(NotFound):
                releases.rollback(store)

        plan = vacuum_later(store, Policy(keep=keep))

        inventory = Inventory(store)
        assert set(plan.kept) == set(releases.release_names(store))
        for name in plan.kept:
            served(store, releases.get_release(store, name))
        listed = {part.key for key in inventory.artifact_keys() for part in inventory.open(key).parts}
        assert listed <= keys(store)
        assert not listed & set(plan.keys)
        assert verify(store).ok
        assert not plan_vacuum(store, Policy(keep=keep), later()).keys
