"""The power fails after each step that writes files: what was published opens, and a rerun completes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS
from retrieval_core.artifacts.parts import read_ids, read_unsealed
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.vacuum import Policy, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
from tests.faults.interruptions.power_cuts import PowerCuts

ITEMS = [f"item-{number}" for number in range(8)]
RERUN_EVERY = 12  # states


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return open_store(str(tmp_path / "store"))


def new_cuts(root: Path, tmp_path: Path) -> PowerCuts:
    files = tmp_path / "files"
    files.mkdir()
    return PowerCuts(root, files)


def stores_after_cuts(cuts: PowerCuts, tmp_path: Path) -> Iterator[Store]:
    """Yield the store in each state, having checked that whatever exists in it is whole."""
    for folder in cuts.states(tmp_path / "after"):
        store = open_store(str(folder))
        check_whole(store)
        yield store


def check_whole(store: Store) -> None:
    """Check that every artifact is what was sealed, and every other file that a run would find and use is complete."""
    inventory = Inventory(store)
    for artifact in map(inventory.open, inventory.artifact_keys()):
        for part in artifact.parts:
            store.local_path(part.key, part.sha256)
    for key in inventory.all_parts():
        assert read_ids(store.local_path(key))
    for key in (SEEN_ITEMS, LEDGER):
        if store.exists(key):
            read_unsealed(store, key)


def production(store: Store) -> str:
    """Return the name of the release that is production, having opened it; "" if there is none."""
    alias = releases.read_alias(store, releases.PRODUCTION)
    if alias is None:
        return ""
    assert open_release(store).release.fingerprint == alias.release
    return alias.release


@pytest.mark.parametrize("has_release", [False, True], ids=["the first run", "a later run"])
def test_a_run_leaves_the_old_or_the_new_release_and_is_resumed(
    has_release: bool, store: Store, tmp_path: Path
) -> None:
    old = SealedRuns(store).seal(ITEMS).fingerprint if has_release else ""
    cuts = new_cuts(Path(store.url), tmp_path)
    with cuts.recording():
        new = SealedRuns(store).seal(ITEMS[2:6]).fingerprint
    found = set()
    for number, after in enumerate(stores_after_cuts(cuts, tmp_path)):
        found.add(production(after))
        if number % RERUN_EVERY == 0:
            assert SealedRuns(after).seal(ITEMS[2:6]).fingerprint == new
            assert production(after) == new
            assert verify(after).ok
    assert found == {old, new}


def test_a_vacuum_leaves_nothing_in_part_and_is_repeated(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    SealedRuns(store).seal(ITEMS)
    kept = SealedRuns(store).seal(ITEMS[2:6]).fingerprint
    policy = Policy(keep=0, older_than_days=0, safe_hours=0)
    cuts = new_cuts(Path(store.url), tmp_path)
    with cuts.recording():
        assert vacuum(store, policy, time.time())[1].n_removed > 10
    objects = set(store.list(""))
    for number, after in enumerate(stores_after_cuts(cuts, tmp_path)):
        assert production(after) == kept
        if number % RERUN_EVERY == 0:
            for lease in list(after.list(leases.FOLDER)):
                os.utime(Path(after.url, lease), (0, 0))
            vacuum(after, policy, time.time())
            assert set(after.list("")) == objects


def test_a_local_copy_of_an_object_is_whole_or_downloaded_again(
    s3_store: Store, s3_endpoint: str, tmp_path: Path, aws_environment: None
) -> None:
    folder, data = tmp_path / "copies", os.urandom(1000)
    folder.mkdir()
    cuts = new_cuts(folder, tmp_path)
    s3_store.put("report.html", data)
    with cuts.recording():
        open_store(s3_store.url, s3_endpoint_url=s3_endpoint, cache_dir=folder).local_path("report.html")
    for after in cuts.states(tmp_path / "after"):
        opened = open_store(s3_store.url, s3_endpoint_url=s3_endpoint, cache_dir=after)
        assert opened.local_path("report.html").read_bytes() == data
        assert opened.local_path("report.html", hashlib.sha256(data).hexdigest()).read_bytes() == data
