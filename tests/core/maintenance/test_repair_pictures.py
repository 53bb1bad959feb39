"""Kept pictures are verified, repaired, vacuumed and copied as all other parts of a store are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.pictures import PictureWriter, kept_places, seal_kept
from retrieval_core.maintenance.backup import back_up
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import DAY_S, Policy, vacuum
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.damage import ITEMS
from tests.core.sealed_runs import SealedRuns


def keep(store: Store, release: Release) -> set[str]:
    """Keep a picture for each item of a release, as its run does; return the tar files."""
    with PictureWriter(store, release.fingerprint[:16]) as writer:
        for picture in load_items(store, release.catalog.name)["content_id"]:
            writer.add(picture, picture.encode(), ".jpg")
        writer.finish()
    return {part.key for part in seal_kept(store, release.catalog).parts if part.key.endswith(".tar")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def files(store: Store) -> set[str]:
    return keep(store, SealedRuns(store).seal(ITEMS))


def test_an_intact_store_with_pictures_verifies(store: Store, files: set[str]) -> None:
    assert verify_all(store).ok
    assert len(kept_places(store)) == len(ITEMS)


@pytest.mark.parametrize("fault", ["lost", "changed"])
def test_a_damaged_file_is_named_and_removed_so_that_the_next_run_reads_its_pictures_again(
    store: Store, files: set[str], fault: str
) -> None:
    (key,) = files
    if fault == "lost":
        store.delete(key)
    else:
        store.put(key, store.get(key)[:-1] + b"x")
    assert key in {check.name for check in verify_all(store).checks if not check.ok}
    assert key in {finding.key for finding in repair(store).findings}
    assert verify_all(store).ok
    assert kept_places(store).is_empty()


def test_an_intact_file_survives_the_repair_of_another_part(store: Store, files: set[str]) -> None:
    mask = next(key for key in store.list("masks/") if "/parts/" in key)
    store.put(mask, b"damaged")
    assert key_names(repair(store).findings) >= {mask}
    assert len(kept_places(store)) == len(ITEMS)


def key_names(findings: object) -> set[str]:
    return {finding.key for finding in findings}  # type: ignore[attr-defined]


def test_a_vacuum_removes_the_files_of_which_no_kept_release_shows_a_picture(store: Store) -> None:
    runs = SealedRuns(store)
    old = keep(store, runs.seal([f"old-{number}" for number in range(20)]))
    new = keep(store, runs.seal(ITEMS))
    vacuum(store, Policy(keep=0, older_than_days=1, safe_hours=1), time.time() + 30 * DAY_S)
    left = {key for key in store.list("pictures/") if key.endswith(".tar")}
    assert left == new
    assert not left & old
    assert verify_all(store).ok


def test_a_backup_has_the_pictures(store: Store, files: set[str], tmp_path: Path) -> None:
    copy = open_store(str(tmp_path / "copy"))
    back_up(store, copy)
    assert files <= set(copy.list("pictures/"))
    assert len(kept_places(copy)) == len(ITEMS)
