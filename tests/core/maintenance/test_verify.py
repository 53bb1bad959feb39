"""Verification proves production intact, and names the check that damage fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import IndexSet, Part
from retrieval_core.artifacts.parts import describe_part, put_part, read_vectors, vectors_bytes
from retrieval_core.errors import NotFound
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE, shard_row_ids
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.base import Store
from tests.core.damage import DAMAGE, ITEMS, lose, parts_of, production, truncate
from tests.core.sealed_runs import SealedRuns

CHECKS = ["manifests", "checksums", "rows", "shards", "vectors", "recall"]
SHARD_FILES = (INDEX_FILE, VECTORS_FILE)


def failures(store: Store) -> dict[str, str]:
    """Return the detail of each failed check."""
    return {check.name: check.detail for check in verify(store).checks if not check.ok}


def index_set(store: Store) -> IndexSet:
    return IndexSet.open(store, production(store).index)


def publish_index(store: Store, **fields: object) -> None:
    """Publish production with an index whose manifest has other fields."""
    index = index_set(store).model_copy(update={"fingerprint": "0" * 32, **fields}).seal(store)
    release = production(store).model_copy(update={"fingerprint": "1" * 32, "index": index.ref}).seal(store)
    releases.point_alias(store, "production", release.fingerprint)


def shard_folders(store: Store) -> list[str]:
    return [part.key.rsplit("/", 1)[0] for part in index_set(store).parts[::2]]


def described(store: Store, folders: list[str]) -> tuple[Part, ...]:
    return tuple(describe_part(store, f"{folder}/{file}", 0) for folder in folders for file in SHARD_FILES)


def test_every_check_of_an_intact_production_succeeds(runs: SealedRuns) -> None:
    document = verify(runs.store)

    assert document.ok
    assert [check.name for check in document.checks] == CHECKS
    details = {check.name: check.detail for check in document.checks}
    assert "Catalog, Backbone, Segmenter, Head, Reducer, VectorSet, IndexSet, Report" in details["manifests"]
    assert f"each of {len(ITEMS)} rows is in one shard; 0 of {len(ITEMS)} in quarantine" == details["rows"]


def test_a_store_without_a_release_cannot_be_verified(local_store: Store) -> None:
    with pytest.raises(NotFound, match="nothing is published"):
        verify(local_store)


@pytest.mark.parametrize("damage", [truncate, lose])
@pytest.mark.parametrize("role", ["catalog", "backbone", "head", "reducer", "vectors", "index", "report"])
def test_a_damaged_manifest_fails_the_check_of_manifests(
    runs: SealedRuns, role: str, damage: Callable[[Store, str], None]
) -> None:
    key = f"{getattr(production(runs.store), role).key}/manifest.json"
    damage(runs.store, key)

    assert key.rsplit("/", 1)[0] in failures(runs.store)["manifests"]


@DAMAGE
@pytest.mark.parametrize("role", ["catalogue", "boosted", "index", "head", "report"])
def test_a_damaged_file_fails_the_check_of_checksums(
    runs: SealedRuns, role: str, damage: Callable[[Store, str], None]
) -> None:
    key = parts_of(runs.store, role)[0]
    damage(runs.store, key)

    assert key in failures(runs.store)["checksums"]


def test_a_row_in_two_shards_or_in_none_fails_the_check_of_rows(runs: SealedRuns) -> None:
    store, first = runs.store, shard_folders(runs.store)[0]
    n_twice = len(shard_row_ids(store.local_path(f"{first}/{VECTORS_FILE}").parent))
    for file in SHARD_FILES:
        store.put(f"{first}-copy/{file}", store.get(f"{first}/{file}"))
    publish_index(store, parts=described(store, [first, f"{first}-copy"]))

    assert failures(store)["rows"] == (
        f"ShardCorrupt: {n_twice} rows are in two shards, {len(ITEMS) - n_twice} in none, 0 in no catalogue"
    )


def test_rows_in_the_wrong_shard_fail_the_check_of_shards(runs: SealedRuns) -> None:
    first, second = shard_folders(runs.store)
    publish_index(runs.store, parts=described(runs.store, [second, first]))

    assert set(failures(runs.store)) == {"shards"}
    assert "rows of other shards" in failures(runs.store)["shards"]


def test_vectors_that_differ_from_the_set_fail_the_check_of_vectors(runs: SealedRuns) -> None:
    store = runs.store
    for part in parts_of(store, "boosted"):
        ids, vectors = read_vectors(store.local_path(part))
        put_part(store, part, vectors_bytes(ids, np.roll(vectors, 1, axis=1)), len(ids))

    assert {"checksums", "vectors"} <= failures(store).keys()


def test_an_index_that_finds_less_than_it_promised_fails_the_check_of_recall(runs: SealedRuns) -> None:
    publish_index(runs.store, recall=1.5)

    assert set(failures(runs.store)) == {"recall"}
    assert "1.5000 was promised" in failures(runs.store)["recall"]
