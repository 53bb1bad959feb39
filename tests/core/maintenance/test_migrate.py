"""Stores of every released format: they are searched and verified as they are, and migrated without losing anything.

`tests/fixtures/store-format-N.tar.xz` holds a store that a version with format N wrote: two nights over drawn pictures,
of which the second adds two items.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Catalog, Reducer, VectorSet
from retrieval_core.artifacts.parts import iter_vectors
from retrieval_core.artifacts.shards import Target, plan_pictures
from retrieval_core.errors import NeedsMigration, ShardCorrupt
from retrieval_core.maintenance.migrate import migrate, plan_migration
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import Policy, plan_vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.format import FORMAT, read_format
from retrieval_core.store.uris import open_store

FIXTURES = Path(__file__).parents[2] / "fixtures"
FORMATS = sorted(int(path.name.removesuffix(".tar.xz").rpartition("-")[2]) for path in FIXTURES.glob("*.tar.xz"))
N_ITEMS = 48


def unpack(number: int, folder: Path) -> Store:
    with tarfile.open(FIXTURES / f"store-format-{number}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return open_store(str(folder))


@pytest.fixture
def old(tmp_path: Path) -> Store:
    return unpack(1, tmp_path)


def search(store: Store) -> list[tuple[str, float]]:
    """Search production for items like one of its own."""
    release = open_release(store, settings=Settings.load(store=store.url, threads=1, device="cpu"))
    hits = release.search(Query(item_ids=("red/red00.png",)), 10)
    return [(hit.item_id, round(hit.score, 5)) for hit in hits]


def vectors_of(store: Store) -> dict[str, bytes]:
    release = releases.read_release(store, "production")
    assert release is not None
    pairs = iter_vectors(store, VectorSet.open(store, release.vectors))
    return {key: row.tobytes() for ids, rows in pairs for key, row in zip(ids, np.asarray(rows), strict=True)}


@pytest.mark.parametrize("number", FORMATS)
def test_a_store_of_every_released_format_is_searched_and_verified_as_it_is(number: int, tmp_path: Path) -> None:
    store = unpack(number, tmp_path)
    assert read_format(store) == number
    assert len(search(store)) == 10
    assert verify(store).ok
    assert verify_all(store).ok
    found = releases.list_releases(store)
    assert [release.counts["rows"] for release in found] == [N_ITEMS - 2, N_ITEMS]
    for release in found:
        release.nightly_config()


def test_an_older_store_is_not_written_to(old: Store) -> None:
    before = {key: old.get(key) for key in old.list("")}
    reducer = Reducer(fingerprint="e" * 32, input_dim=8, dims=(4,))
    for write in (reducer.seal, repair, lambda store: plan_vacuum(store, Policy(), 0.0), releases.rollback):
        with pytest.raises(NeedsMigration):
            write(old)
    assert {key: old.get(key) for key in old.list("")} == before


def test_a_plan_says_what_would_be_rewritten_and_changes_nothing(old: Store) -> None:
    before = {key: old.get(key) for key in old.list("")}
    plan = plan_migration(old)
    assert (plan.from_format, plan.to_format) == (1, FORMAT)
    assert plan.n_files > 4
    assert plan.n_documents > 10
    assert "--apply" in plan.as_sentence(is_done=False)
    assert {key: old.get(key) for key in old.list("")} == before


def test_a_migrated_store_answers_as_before_and_the_next_run_has_nothing_to_embed(old: Store) -> None:
    hits, vectors, names = search(old), vectors_of(old), releases.release_names(old)
    assert migrate(old).from_format == 1
    assert read_format(old) == FORMAT
    assert (search(old), vectors_of(old), releases.release_names(old)) == (hits, vectors, names)
    assert verify_all(old).ok
    assert repair(old).findings == ()
    release = releases.read_release(old, "production")
    assert release is not None
    assert all(ref.sha256 for ref in (release.catalog, release.index, release.vectors, *release.heads))
    family = VectorSet.open(old, release.vectors).parents["vectors"]
    raw = next(key for key in old.list("vectors/") if family in key)
    assert (
        plan_pictures(old, [Target(folder=VectorSet.folder, family=raw.split("/")[1])], release.catalog, 10).n_missing
        == 0
    )
    assert Catalog.open(old, release.catalog).counts["rows"] == N_ITEMS
    assert "nothing to migrate" in migrate(old).as_sentence(is_done=True)


@pytest.mark.parametrize("n_writes", [0, 1, 3, 8, 15, 25])
def test_a_migration_that_is_killed_is_repeated(
    old: Store, n_writes: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = unpack(1, tmp_path_factory.mktemp("undisturbed"))
    migrate(undisturbed)
    hits, put, left = search(old), type(old)._put, [n_writes]

    def put_some(store: Store, key: str, data: bytes) -> None:
        if not key.startswith("runs/"):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
        put(store, key, data)

    monkeypatch.setattr(type(old), "_put", put_some)
    with pytest.raises(KeyboardInterrupt):
        migrate(old)
    monkeypatch.undo()
    assert search(old) == hits, "it is read while it is half migrated"
    migrate(old)
    assert {key: old.get(key) for key in old.list("")} == {key: undisturbed.get(key) for key in undisturbed.list("")}


def test_a_damaged_part_stops_the_migration_before_anything_is_rewritten(old: Store) -> None:
    key = next(key for key in old.list("vectors/") if key.endswith(".parquet"))
    old.put(key, old.get(key)[:-1] + b"x")
    manifests = {key: old.get(key) for key in old.list("") if key.endswith("manifest.json")}
    with pytest.raises(ShardCorrupt):
        migrate(old)
    assert read_format(old) == 1
    assert {key: old.get(key) for key in manifests} == manifests


def test_there_is_a_store_of_every_released_format() -> None:
    assert list(range(1, FORMAT + 1)) == FORMATS
