"""What is damaged is made again to the byte, or removed for the next run, or refused; production is never worse off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS, load_items
from retrieval_core.artifacts.manifests import Backbone, Catalog, IndexSet, Release, VectorSet
from retrieval_core.artifacts.parts import put_part, read_unsealed, table_bytes
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import NotFound, StoreBusy
from retrieval_core.images import thumbnail
from retrieval_core.index.plan import template_key
from retrieval_core.index.recipes import Recipe
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import Repair, repair
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from tests.core.nights import RECIPE, Nights, named

pytestmark = pytest.mark.usefixtures("aws_environment")

ITEMS = [f"item-{number}" for number in range(14)]
CODES = Recipe(key="SQ8", nprobe=0, train_rows=14, why="", index_bytes=0, vector_bytes=0, memory_bytes=0)

LISTS = Recipe(key="IVF2,Flat", nprobe=1, train_rows=90, why="", index_bytes=0, vector_bytes=0, memory_bytes=0)


def flip(store: Store, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def truncate(store: Store, key: str) -> None:
    store.put(key, store.get(key)[:-9])


def lose(store: Store, key: str) -> None:
    store.delete(key)


DAMAGE = pytest.mark.parametrize("damage", [flip, truncate, lose])


@pytest.fixture
def nights(local_store: Store) -> Nights:
    made = Nights(local_store)
    made.run(ITEMS)
    return made


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


def actions(found: Repair) -> dict[str, str]:
    return {finding.key: finding.action for finding in found.findings}


def production(store: Store) -> Release:
    release = releases.read_release(store, "production")
    assert release is not None
    return release


def parts_of(store: Store, role: str) -> list[str]:
    """Keys of the parts of the catalogue, the index, or the masked, boosted or reduced vectors of production."""
    release = production(store)
    boosted = VectorSet.open(store, release.vectors)
    index = IndexSet.open(store, release.index)
    inventory = Inventory(store)
    owners = {
        "masked": lambda: inventory.vector_set(boosted.parents["vectors"]),
        "boosted": lambda: boosted,
        "reduced": lambda: inventory.vector_set(index.parents["candidates"]),
        "index": lambda: index,
        "catalogue": lambda: inventory.open(release.catalog.key),
        "masks": lambda: inventory.open(next(key for key in inventory.artifact_keys() if key.startswith("masks/"))),
        "head": lambda: inventory.open(release.heads[0].key),
        "report": lambda: inventory.open(release.report.key),
    }
    return [part.key for part in owners[role]().parts]


def test_a_whole_store_is_left_as_it_is(nights: Nights) -> None:
    before = contents(nights.store)

    assert repair(nights.store) == Repair(ok=True, findings=())
    assert contents(nights.store) == before


def test_an_empty_store_has_nothing_to_repair(local_store: Store) -> None:
    with pytest.raises(NotFound, match="nothing is published"):
        repair(local_store)


@DAMAGE
@pytest.mark.parametrize("role", ["index", "boosted", "reduced", "catalogue"])
def test_what_follows_from_other_files_is_made_again_to_the_byte(
    nights: Nights, role: str, damage: Callable[[Store, str], None]
) -> None:
    before = contents(nights.store)
    for key in parts_of(nights.store, role):
        damage(nights.store, key)

    found = repair(nights.store)

    assert found.ok
    assert set(actions(found).values()) == {"repaired"}
    assert contents(nights.store) == before
    assert verify(nights.store).ok


def test_a_catalogue_is_read_from_its_source_again(nights: Nights, tmp_path: Path) -> None:
    store, release = nights.store, production(nights.store)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        (tmp_path / "photos" / "coat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "coat" / f"{number}.jpg").write_bytes(thumbnail(pixels, 16))
    source = f"folder:{tmp_path / 'photos'}"
    items = take_snapshot(open_source(source).rows(), None, NightlyConfig().ingest, "2026-11-21T02:00:00+00:00").items
    part = put_part(store, "catalogs/other/items.parquet", table_bytes(items), len(items))
    sealed = Catalog(fingerprint="other", parts=(part,)).seal(store)
    other = release.model_copy(update={"fingerprint": "other", "catalog": sealed.ref}).seal(store)
    releases.point_alias(store, "production", other.fingerprint)
    flip(store, part.key)

    assert actions(repair(store, source))[part.key] == "repaired"
    assert pl.read_parquet(store.local_path(part.key, part.sha256)).equals(items)
    flip(store, part.key)
    found = repair(store)
    assert production(store) == release
    assert "--source" in str(found.findings)


def test_a_shard_and_the_vectors_it_is_built_of_are_repaired_at_once(nights: Nights) -> None:
    before = contents(nights.store)
    for role in ("catalogue", "boosted", "reduced", "index"):
        flip(nights.store, parts_of(nights.store, role)[0])

    assert repair(nights.store).ok
    assert contents(nights.store) == before


@DAMAGE
def test_a_template_is_trained_again_where_no_shard_is_left(
    local_store: Store, damage: Callable[[Store, str], None]
) -> None:
    Nights(local_store, CODES).run(ITEMS)
    Nights(local_store, CODES).run(ITEMS[:9])  # its template is of the night before
    before = contents(local_store)
    template = template_key(IndexSet.open(local_store, production(local_store).index).template)
    for key in (template, *parts_of(local_store, "index")):
        damage(local_store, key)

    assert repair(local_store).ok
    assert contents(local_store) == before


@DAMAGE
@pytest.mark.parametrize("recipe", [RECIPE, CODES, LISTS], ids=lambda recipe: recipe.key)
def test_a_template_is_a_shard_without_its_rows(
    local_store: Store, damage: Callable[[Store, str], None], recipe: Recipe
) -> None:
    Nights(local_store, recipe).run([f"item-{number}" for number in range(90)])
    before = contents(local_store)
    template = template_key(IndexSet.open(local_store, production(local_store).index).template)
    for key in (template, parts_of(local_store, "index")[0]):
        damage(local_store, key)

    assert actions(repair(local_store))[template] == "repaired"
    assert contents(local_store) == before


def test_a_shard_that_comes_out_different_is_not_put_in_place(nights: Nights) -> None:
    """As a graph index does, which faiss links in the order its threads happen to finish."""
    store = nights.store
    nights.run(ITEMS[3:])
    index = IndexSet.open(store, production(store).index)
    other = index.parts[0].model_copy(update={"sha256": "0" * 64})
    manifest = f"{index.key}/manifest.json"
    store.put(manifest, index.model_copy(update={"parts": (other, *index.parts[1:])}).model_dump_json().encode())
    before = store.get(other.key)

    found = repair(store)

    assert not found.ok
    assert "differs from what was sealed" in found.findings[0].detail
    assert store.exists(other.key) is False or store.get(other.key) == before


@DAMAGE
@pytest.mark.parametrize("role", ["masked", "masks"])
def test_what_is_made_of_pictures_is_removed_and_the_next_run_makes_it(
    nights: Nights, role: str, damage: Callable[[Store, str], None]
) -> None:
    before = contents(nights.store)
    damaged = parts_of(nights.store, role)[0]
    damage(nights.store, damaged)

    found = repair(nights.store)

    assert actions(found) == {damaged: "removed"}
    assert "vitrine run" in found.findings[0].detail
    assert not nights.store.exists(damaged)
    nights.run(ITEMS)
    assert contents(nights.store).keys() >= before.keys()
    assert contents(nights.store)[damaged] == before[damaged]
    assert verify(nights.store).ok


def test_a_part_that_no_view_lists_and_nobody_can_read_goes(nights: Nights) -> None:
    part = parts_of(nights.store, "masked")[0].rsplit("/", 1)[0] + "/left.parquet"
    nights.store.put(part, b"PAR1 cut off")

    assert actions(repair(nights.store)) == {part: "removed"}
    assert repair(nights.store).findings == ()


def test_a_view_that_cannot_be_read_goes_and_is_sealed_again(nights: Nights) -> None:
    before = contents(nights.store)
    manifest = f"{production(nights.store).vectors.key}/manifest.json"
    truncate(nights.store, manifest)

    assert actions(repair(nights.store))[manifest] == "removed"
    nights.run(ITEMS)
    assert contents(nights.store).keys() == before.keys()
    assert verify(nights.store).ok


def test_a_damaged_manifest_does_not_cost_the_part_it_lists(nights: Nights) -> None:
    """Two views list it, and one of them says another checksum."""
    store = nights.store
    nights.run([*ITEMS, "new"])
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
    nights.run([*ITEMS, "new"])
    assert repair(store).findings == ()


def views_of(store: Store) -> list[VectorSet]:
    inventory = Inventory(store)
    return [view for key in inventory.all_views() if isinstance(view := inventory.open(key), VectorSet)]


def lists(view: VectorSet, key: str) -> bool:
    return any(part.key == key for part in view.parts)


@DAMAGE
@pytest.mark.parametrize("role", ["report", "index", "vectors", "catalog", "head"])
def test_no_lost_manifest_is_passed_over(nights: Nights, role: str, damage: Callable[[Store, str], None]) -> None:
    manifest = f"{getattr(production(nights.store), role).key}/manifest.json"
    if damage is flip:  # one that no longer parses
        nights.store.put(manifest, nights.store.get(manifest).replace(b"kind", b"kinc", 1))
    else:
        damage(nights.store, manifest)

    found = repair(nights.store)

    assert actions(found)[manifest] == ("removed" if role == "vectors" else "refused")


def test_no_half_of_a_shard_is_left_to_pass_for_a_whole_one(nights: Nights) -> None:
    store, first = nights.store, production(nights.store)
    second = nights.run([*ITEMS[4:], "new"])
    index = IndexSet.open(store, second.index)
    other = index.parts[0].model_copy(update={"sha256": "0" * 64})  # as of a graph, which is never built alike
    data = index.model_copy(update={"parts": (other, *index.parts[1:])}).model_dump_json().encode()
    store.put(f"{index.key}/manifest.json", data)

    found = repair(store)

    assert actions(found)["aliases/production"] == "moved"
    assert production(store) == first
    folder = other.key.rsplit("/", 1)[0]
    assert list(store.list(f"{folder}/")) == []
    nights.run([*ITEMS[4:], "new"])
    assert verify(store).ok


def test_a_lost_catalogue_does_not_stop_the_next_run(nights: Nights) -> None:
    store, first = nights.store, production(nights.store)
    second = nights.run(ITEMS[4:])
    for key in (f"{second.catalog.key}/items.parquet", SEEN_ITEMS):
        truncate(store, key)

    found = repair(store)

    assert actions(found)["aliases/production"] == actions(found)["aliases/latest"] == "moved"
    latest = releases.read_release(store, "latest")
    assert latest == production(store) == first
    assert len(load_items(store, latest.parents["catalog"])) == len(ITEMS)
    assert len(read_unsealed(store, SEEN_ITEMS)) == len(ITEMS)
    nights.run(ITEMS[4:])
    assert verify(store).ok


def test_production_stays_where_only_what_no_search_opens_is_damaged(nights: Nights) -> None:
    store = nights.store
    nights.run(ITEMS[3:])
    second = production(store)
    raw = second.model_copy(update={"fingerprint": "f" * 32, "variant": Variant("raw", boosted=True)}).seal(store)
    releases.point_alias(store, "production", raw.fingerprint)
    assert raw.segmenter is not None
    weights = f"{raw.segmenter.key}/weights.safetensors"
    flip(store, weights)

    assert actions(repair(store)) == {weights: "refused"}
    assert production(store) == raw


def test_nothing_is_repaired_while_a_run_goes_on(nights: Nights) -> None:
    truncate(nights.store, SEEN_ITEMS)
    before = contents(nights.store)
    with leases.shared_lease(nights.store, "the night"), pytest.raises(StoreBusy, match="the night"):
        repair(nights.store)
    assert contents(nights.store) == before


def test_a_trained_backbone_is_looked_at_by_its_name(nights: Nights) -> None:
    key = f"backbones/{named('trained')}/weights.safetensors"
    part = put_part(nights.store, key, b"weights", 0)
    sealed = Backbone(fingerprint=named("trained"), parts=(part,), card="tiny", dim=2, size_px=32).seal(nights.store)
    backbone_names.point_backbone(nights.store, "mine", "production", sealed.fingerprint)
    assert repair(nights.store).findings == ()
    flip(nights.store, key)

    (finding,) = repair(nights.store).findings

    assert (finding.key, finding.action) == (key, "refused")
    assert "mine@production" in finding.detail
    assert nights.store.exists(key)


def test_the_last_runs_alias_is_put_right_where_it_cannot_be_read(nights: Nights) -> None:
    nights.store.put("aliases/latest", b"{")

    assert actions(repair(nights.store)) == {"aliases/latest": "moved"}
    assert releases.read_release(nights.store, "latest") == production(nights.store)


def test_production_goes_back_to_what_can_be_served(nights: Nights) -> None:
    """Vectors and shards both lost: nothing is left to build the shard from."""
    store, first = nights.store, production(nights.store)
    second = nights.run([*ITEMS[4:], "new"])
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
    again = nights.run([*ITEMS[4:], "new"])
    assert production(store).fingerprint == again.fingerprint == second.fingerprint
    assert again.catalog == second.catalog
    assert verify(store).ok


def contents_of(store: Store, release: Release) -> set[str]:
    inventory = Inventory(store)
    owners = [inventory.open(key) for key in inventory.needs(release)]
    sources = [inventory.open(key) for owner in owners for key in inventory.needs(owner)]
    return {part.key for owner in [*owners, *sources] for part in owner.parts}


@pytest.mark.parametrize("damage", [truncate, lose])
def test_an_alias_whose_release_is_lost_goes_back(nights: Nights, damage: Callable[[Store, str], None]) -> None:
    store, first = nights.store, production(nights.store)
    second = nights.run(ITEMS[4:])
    damage(store, f"{second.key}/manifest.json")

    found = repair(store)

    assert actions(found) == {"aliases/production": "moved", "aliases/latest": "moved"}
    assert production(store) == first
    nights.run(ITEMS[4:])  # which looks at both


def test_an_alias_without_history_is_refused_and_left(nights: Nights) -> None:
    before = releases.read_alias(nights.store, "production")
    lose(nights.store, f"{production(nights.store).key}/manifest.json")

    found = repair(nights.store)

    assert not found.ok
    assert actions(found)["aliases/production"] == "refused"
    assert releases.read_alias(nights.store, "production") == before


def test_an_alias_that_cannot_be_read_is_named(nights: Nights) -> None:
    nights.store.put("aliases/production", b"{")

    found = repair(nights.store)

    assert actions(found) == {"aliases/production": "refused"}
    assert "delete this file" in found.findings[0].detail
    nights.store.delete("aliases/production")
    (release,) = releases.release_names(nights.store)
    releases.promote(nights.store, release, None)
    assert repair(nights.store).findings == ()
    assert verify(nights.store).ok


def test_a_fitted_model_is_refused_with_a_word_and_stays(nights: Nights) -> None:
    head = parts_of(nights.store, "head")[0]
    flip(nights.store, head)
    before = contents(nights.store)

    found = repair(nights.store)

    assert not found.ok
    assert actions(found)[head] == "refused"
    assert "another seed" in {finding.key: finding.detail for finding in found.findings}[head]
    assert contents(nights.store) == before


def test_a_lost_report_does_not_move_production(nights: Nights) -> None:
    first = production(nights.store)
    nights.run(ITEMS[3:])
    second = production(nights.store)
    lose(nights.store, parts_of(nights.store, "report")[0])

    found = repair(nights.store)

    assert set(actions(found).values()) == {"refused"}
    assert production(nights.store) == second != first


@pytest.mark.parametrize("key", [SEEN_ITEMS, LEDGER])
def test_what_was_last_seen_is_brought_back_from_the_catalogue(nights: Nights, key: str) -> None:
    before = contents(nights.store)
    truncate(nights.store, key)

    assert actions(repair(nights.store)) == {key: "repaired"}
    assert contents(nights.store) == before


def test_a_store_on_s3_is_repaired_alike(s3_store: Store) -> None:
    Nights(s3_store, RECIPE).run(ITEMS)
    before = contents(s3_store)
    flip(s3_store, parts_of(s3_store, "index")[0])
    truncate(s3_store, parts_of(s3_store, "boosted")[0])

    assert repair(s3_store).ok
    assert contents(s3_store) == before


def test_a_damaged_local_copy_is_no_damage_of_the_store(s3_store: Store, tmp_path: Path) -> None:
    Nights(s3_store, RECIPE).run(ITEMS)
    key = parts_of(s3_store, "boosted")[0]
    copy = s3_store.local_path(key)
    copy.write_bytes(copy.read_bytes()[:-1])

    assert repair(s3_store).findings == ()
