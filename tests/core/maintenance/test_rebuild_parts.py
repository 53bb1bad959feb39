"""Files that derive from others are rebuilt to the same bytes, or not put in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Catalog, IndexSet
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.images import thumbnail
from retrieval_core.index.plan import template_key
from retrieval_core.index.recipes import Recipe
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.base import Store
from tests.core.damage import DAMAGE, ITEMS, actions, contents, flip, parts_of, production
from tests.core.sealed_runs import RECIPE, SHARD_ROWS, SealedRuns

CODES = Recipe(key="SQ8", nprobe=0, train_rows=14, why="", index_bytes=0, vector_bytes=0, memory_bytes=0)
LISTS = Recipe(key="IVF2,Flat", nprobe=1, train_rows=90, why="", index_bytes=0, vector_bytes=0, memory_bytes=0)


@DAMAGE
@pytest.mark.parametrize("role", ["index", "boosted", "reduced", "catalogue"])
def test_derived_files_are_rebuilt_to_the_byte(
    runs: SealedRuns, role: str, damage: Callable[[Store, str], None]
) -> None:
    before = contents(runs.store)
    for key in parts_of(runs.store, role):
        damage(runs.store, key)

    found = repair(runs.store)

    assert found.ok
    assert set(actions(found).values()) == {"repaired"}
    assert contents(runs.store) == before
    assert verify(runs.store).ok


def test_what_derives_from_merged_parts_is_rebuilt_to_the_byte(runs: SealedRuns) -> None:
    runs.seal([f"{number}" for number in range(9 * SHARD_ROWS)])
    assert len(parts_of(runs.store, "masked")) == 2
    before = contents(runs.store)
    for role in ("boosted", "reduced"):
        for key in parts_of(runs.store, role):
            flip(runs.store, key)

    assert set(actions(repair(runs.store)).values()) == {"repaired"}
    assert contents(runs.store) == before


def test_a_catalogue_is_read_from_its_source_again(runs: SealedRuns, tmp_path: Path) -> None:
    store, release = runs.store, production(runs.store)
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


def test_a_shard_and_its_vectors_are_rebuilt_together(runs: SealedRuns) -> None:
    before = contents(runs.store)
    for role in ("catalogue", "boosted", "reduced", "index"):
        flip(runs.store, parts_of(runs.store, role)[0])

    assert repair(runs.store).ok
    assert contents(runs.store) == before


@DAMAGE
def test_a_template_is_retrained_if_no_shard_is_intact(
    local_store: Store, damage: Callable[[Store, str], None]
) -> None:
    SealedRuns(local_store, CODES).seal(ITEMS)
    SealedRuns(local_store, CODES).seal(ITEMS[:9])  # its template is that of the previous run
    before = contents(local_store)
    template = template_key(IndexSet.open(local_store, production(local_store).index).template)
    for key in (template, *parts_of(local_store, "index")):
        damage(local_store, key)

    assert repair(local_store).ok
    assert contents(local_store) == before


@DAMAGE
@pytest.mark.parametrize("recipe", [RECIPE, CODES, LISTS], ids=lambda recipe: recipe.key)
def test_a_template_is_taken_from_an_intact_shard(
    local_store: Store, damage: Callable[[Store, str], None], recipe: Recipe
) -> None:
    SealedRuns(local_store, recipe).seal([f"item-{number}" for number in range(90)])
    before = contents(local_store)
    template = template_key(IndexSet.open(local_store, production(local_store).index).template)
    for key in (template, parts_of(local_store, "index")[0]):
        damage(local_store, key)

    assert actions(repair(local_store))[template] == "repaired"
    assert contents(local_store) == before


def test_a_shard_that_differs_when_rebuilt_is_not_put_in_place(runs: SealedRuns) -> None:
    """As a graph index does, which faiss links in the order its threads happen to finish."""
    store = runs.store
    runs.seal(ITEMS[3:])
    index = IndexSet.open(store, production(store).index)
    other = index.parts[0].model_copy(update={"sha256": "0" * 64})
    manifest = f"{index.key}/manifest.json"
    store.put(manifest, index.model_copy(update={"parts": (other, *index.parts[1:])}).to_sealed()[1])
    before = store.get(other.key)

    found = repair(store)

    assert not found.ok
    assert "differs from what was sealed" in found.findings[0].detail
    assert store.exists(other.key) is False or store.get(other.key) == before
