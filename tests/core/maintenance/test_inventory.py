"""An inventory lists what runs wrote, and says which artifacts need which."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts.manifests import IndexSet, Release, VectorSet
from retrieval_core.artifacts.variants import Variant
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.maintenance.inventory import Inventory, bundle_refs, open_artifact, release_refs, searched_refs
from retrieval_core.store.base import Store
from tests.core.damage import ITEMS, contents, lose, production, truncate
from tests.core.sealed_runs import REDUCED_DIM, SealedRuns, fake_fingerprint

FOREIGN = ("notes.txt", "masks/0001.png", f"comparisons/{fake_fingerprint('c')}/report.html", "runs/2026.json")


@pytest.fixture
def inventory(runs: SealedRuns) -> Inventory:
    return Inventory(runs.store)


def boosted_vectors(store: Store) -> VectorSet:
    return VectorSet.open(store, production(store).vectors)


def test_it_lists_what_runs_write_and_no_foreign_file(runs: SealedRuns) -> None:
    written = {key for key in contents(runs.store) if not key.startswith(("aliases/", "ingest/", "store.json"))}
    for key in FOREIGN:
        runs.store.put(key, b"{}")

    assert set(Inventory(runs.store).entries) == written


def test_every_sealed_artifact_is_opened_as_its_kind(inventory: Inventory) -> None:
    keys = list(inventory.artifact_keys())

    assert {f"{key}/manifest.json" for key in keys} <= inventory.entries.keys()
    for key in keys:
        assert inventory.open(key).key == key
    assert {inventory.open(key).kind for key in keys} == {
        "Release", "Catalog", "Backbone", "Segmenter", "MaskSet", "VectorSet", "Head", "Reducer", "IndexSet", "Report",
    }  # fmt: skip


def test_a_manifest_that_is_lost_or_damaged_is_not_opened(runs: SealedRuns) -> None:
    key = production(runs.store).index.key
    truncate(runs.store, f"{key}/manifest.json")
    with pytest.raises(ShardCorrupt, match="cannot be read as IndexSet"):
        open_artifact(runs.store, key)
    lose(runs.store, f"{key}/manifest.json")
    with pytest.raises(NotFound):
        open_artifact(runs.store, key)


def test_what_production_needs_covers_every_artifact_that_its_run_made(inventory: Inventory) -> None:
    pending, needed = [production(inventory.store).key], set[str]()
    while pending:
        key = pending.pop()
        if key not in needed:
            needed.add(key)
            pending += inventory.needs(inventory.open(key))

    masks = {key for key in inventory.artifact_keys() if key.startswith("masks/")}
    assert needed == set(inventory.artifact_keys()) - masks, "no search needs the masks of the catalogue"


def test_an_artifact_needs_the_views_it_was_made_of(inventory: Inventory) -> None:
    release, vectors = production(inventory.store), boosted_vectors(inventory.store)
    index = IndexSet.open(inventory.store, release.index)
    reduced = inventory.vector_set(index.parents["candidates"])

    assert set(inventory.needs(index)) == {release.catalog.key, vectors.key, reduced.key}
    assert reduced.dim == REDUCED_DIM
    assert set(inventory.needs(reduced)) == {release.catalog.key, vectors.key}


def test_the_sources_of_an_artifact_are_unknown_without_the_manifest_of_a_view(runs: SealedRuns) -> None:
    vectors = boosted_vectors(runs.store)
    raw = Inventory(runs.store).vector_set(vectors.parents["vectors"])
    lose(runs.store, f"{raw.key}/manifest.json")

    with pytest.raises(NotFound, match=f"no vectors {raw.fingerprint}"):
        list(Inventory(runs.store).needs(vectors))


def test_the_families_of_a_release_hold_all_that_its_run_made_and_no_other_backbones(runs: SealedRuns) -> None:
    first = production(runs.store)
    before = set(Inventory(runs.store).all_views())
    runs.seal(ITEMS[:8], backbone="another")
    inventory = Inventory(runs.store)

    families = inventory.families(first)

    views = {view for family in families for view in inventory.views(family)}
    masks = {view for view in inventory.all_views() if view.startswith("masks/")}  # of one segmenter, so shared
    assert views == before | masks
    parts = {key for key in inventory.all_parts() if tuple(key.split("/")[:2]) in families}
    assert parts == {part.key for view in views for part in inventory.open(view).parts}


def test_the_families_of_a_release_are_unknown_without_its_reducer(runs: SealedRuns) -> None:
    release = production(runs.store)
    assert release.reducer
    lose(runs.store, f"{release.reducer.key}/manifest.json")

    with pytest.raises(NotFound):
        Inventory(runs.store).families(release)


def test_a_search_opens_only_what_its_variant_needs(runs: SealedRuns) -> None:
    release = production(runs.store)
    whole_picture = release.model_copy(update={"variant": Variant("raw")})

    assert searched(release) == {"Catalog", "Backbone", "IndexSet", "Reducer", "Head", "Segmenter"}
    assert searched(whole_picture) == {"Catalog", "Backbone", "IndexSet", "Reducer"}


def searched(release: Release) -> set[str]:
    return {ref.kind for ref in searched_refs(release)}


def test_a_release_names_its_artifacts_in_the_order_of_the_pipeline(runs: SealedRuns) -> None:
    release = production(runs.store)

    assert [ref.kind for ref in bundle_refs(release)] == [
        "Catalog", "Backbone", "Segmenter", "Head", "Reducer", "VectorSet", "IndexSet", "Report",
    ]  # fmt: skip
    assert release_refs(release) == [*bundle_refs(release), *release.heads]
