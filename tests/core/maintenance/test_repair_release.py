"""A damaged part or manifest of a release is repaired, removed for the next run, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.base import Store
from tests.core.damage import DAMAGE, ITEMS, actions, contents, flip, parts_of, production, truncate
from tests.core.sealed_runs import RECIPE, SealedRuns

pytestmark = pytest.mark.usefixtures("aws_environment")


@DAMAGE
@pytest.mark.parametrize("role", ["masked", "masks"])
def test_what_is_made_from_pictures_is_removed_for_the_next_run(
    runs: SealedRuns, role: str, damage: Callable[[Store, str], None]
) -> None:
    before = contents(runs.store)
    damaged = parts_of(runs.store, role)[0]
    damage(runs.store, damaged)

    found = repair(runs.store)

    assert actions(found) == {damaged: "removed"}
    assert "vitrine run" in found.findings[0].detail
    assert not runs.store.exists(damaged)
    runs.seal(ITEMS)
    assert contents(runs.store).keys() >= before.keys()
    assert contents(runs.store)[damaged] == before[damaged]
    assert verify(runs.store).ok


def test_an_unlisted_part_that_cannot_be_read_is_removed(runs: SealedRuns) -> None:
    part = parts_of(runs.store, "masked")[0].rsplit("/", 1)[0] + "/left.parquet"
    runs.store.put(part, b"PAR1 cut off")

    assert actions(repair(runs.store)) == {part: "removed"}
    assert repair(runs.store).findings == ()


def test_an_unreadable_view_is_removed_and_sealed_again(runs: SealedRuns) -> None:
    before = contents(runs.store)
    manifest = f"{production(runs.store).vectors.key}/manifest.json"
    truncate(runs.store, manifest)

    assert actions(repair(runs.store))[manifest] == "removed"
    again = runs.seal(ITEMS)
    assert contents(runs.store).keys() - {f"{again.key}/manifest.json"} == before.keys() - {
        f"{again.key}/manifest.json"
    }
    assert verify(runs.store).ok


def test_a_damaged_manifest_does_not_cost_the_part_it_lists(runs: SealedRuns) -> None:
    """Two views list it, and one of them says another checksum."""
    store = runs.store
    runs.seal([*ITEMS, "new"])
    new = [view for view in views_of(store) if view.parents["catalog"] == production(store).catalog.name]
    damaged = next(key for key in parts_of(store, "masked") if sum(lists(view, key) for view in views_of(store)) == 2)
    view = next(view for view in new if lists(view, damaged))
    part = next(part for part in view.parts if part.key == damaged)
    data = view.model_dump_json().replace(part.sha256, "0" * 64).encode()
    store.put(f"{view.key}/manifest.json", data)
    before = store.get(damaged)

    found = repair(store)

    assert actions(found) == {f"{view.key}/manifest.json": "removed"}
    assert store.get(damaged) == before
    runs.seal([*ITEMS, "new"])
    assert repair(store).findings == ()


def views_of(store: Store) -> list[VectorSet]:
    inventory = Inventory(store)
    return [view for key in inventory.all_views() if isinstance(view := inventory.open(key), VectorSet)]


def lists(view: VectorSet, key: str) -> bool:
    return any(part.key == key for part in view.parts)


@DAMAGE
@pytest.mark.parametrize("role", ["report", "index", "vectors", "catalog", "head"])
def test_every_lost_manifest_is_reported(runs: SealedRuns, role: str, damage: Callable[[Store, str], None]) -> None:
    manifest = f"{getattr(production(runs.store), role).key}/manifest.json"
    if damage is flip:  # one that no longer parses
        runs.store.put(manifest, runs.store.get(manifest).replace(b"kind", b"kinc", 1))
    else:
        damage(runs.store, manifest)

    found = repair(runs.store)

    assert actions(found)[manifest] == ("removed" if role == "vectors" else "refused")


def test_a_damaged_model_is_refused_and_stays(runs: SealedRuns) -> None:
    head = parts_of(runs.store, "head")[0]
    flip(runs.store, head)
    before = contents(runs.store)

    found = repair(runs.store)

    assert not found.ok
    assert actions(found)[head] == "refused"
    assert "another seed" in {finding.key: finding.detail for finding in found.findings}[head]
    assert contents(runs.store) == before


def test_a_store_on_s3_is_repaired_the_same_way(s3_store: Store) -> None:
    SealedRuns(s3_store, RECIPE).seal(ITEMS)
    before = contents(s3_store)
    flip(s3_store, parts_of(s3_store, "index")[0])
    truncate(s3_store, parts_of(s3_store, "boosted")[0])

    assert repair(s3_store).ok
    assert contents(s3_store) == before


def test_a_damaged_local_copy_is_not_damage_of_the_store(s3_store: Store, tmp_path: Path) -> None:
    SealedRuns(s3_store, RECIPE).seal(ITEMS)
    key = parts_of(s3_store, "boosted")[0]
    copy = s3_store.local_path(key)
    copy.write_bytes(copy.read_bytes()[:-1])

    assert repair(s3_store).findings == ()
