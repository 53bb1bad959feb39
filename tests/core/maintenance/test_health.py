"""What monitoring watches: production, the last run, quarantine and disks, and when they are worth a warning."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.maintenance.health import (
    Disk,
    Health,
    Limits,
    RunRecord,
    find_warnings,
    measure_health,
    watched_folders,
)
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tests.core.damage import ITEMS
from tests.core.sealed_runs import SealedRuns

HOUR_S = 3600.0
NOW_S = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


def end_run(store: Store, hours_ago: float, release: str = "r", gate: str = "published", **more: Any) -> None:
    """Write the document of a run that ended so long before `NOW_S`."""
    ended = datetime.fromtimestamp(NOW_S - hours_ago * HOUR_S, UTC).isoformat(timespec="milliseconds")
    document = {"release": release, "gate": gate, "reason": "So it is.", "seconds": {"ingest": 2.0, "total": 3.0}}
    document |= {"catalog": {"rows": 1000, "quarantined": 5}} | more
    store.put(f"runs/{ended.replace(':', '')}.json", json.dumps(document).encode())


def rows(items: int, quarantined: int) -> dict[str, Any]:
    return {"catalog": {"rows": items, "quarantined": quarantined}}


@pytest.fixture
def published(runs: SealedRuns) -> Release:
    """The only release of the store, which is production."""
    return releases.get_release(runs.store, releases.release_names(runs.store)[0])


def test_a_new_store_has_no_release_and_no_run_and_is_not_worth_a_warning(local_store: Store) -> None:
    health = measure_health(local_store, ())
    assert health == Health(production=None, production_s=None, last_run=None, quarantined_before=None, disks=())
    assert find_warnings(health, Limits(), NOW_S) == []


def test_production_is_as_old_as_the_last_run_that_ended_with_its_release(runs: SealedRuns, published: Release) -> None:
    store = runs.store
    assert measure_health(store, ()).production_s == datetime.fromisoformat(published.created).timestamp()
    end_run(store, 50, published.fingerprint)
    end_run(store, 26, published.fingerprint)  # nothing had changed
    end_run(store, 2, "other", "held", causes=["recall@1 fell"])

    health = measure_health(store, ())

    assert (health.production, health.production_s) == (published.fingerprint, NOW_S - 26 * HOUR_S)
    assert health.last_run is not None
    assert (health.last_run.outcome, health.last_run.ended_s) == ("held", NOW_S - 2 * HOUR_S)
    assert (health.last_run.items, health.last_run.seconds["ingest"]) == (1000, 2.0)

    releases.promote_by_hand(store, releases.Promotion.now(runs.seal(ITEMS[4:]).fingerprint, "Ada", ""))
    releases.rollback(store)
    assert measure_health(store, ()).production_s == NOW_S - 26 * HOUR_S


def test_a_backfill_that_waits_is_not_the_last_run_but_may_become_production(
    runs: SealedRuns, published: Release
) -> None:
    end_run(runs.store, 5, "nightly", **rows(900, 3))
    end_run(runs.store, 1, published.fingerprint, "held", **rows(7, 0))
    health = measure_health(runs.store, ())
    assert health.last_run is not None
    assert (health.last_run.release, health.last_run.items) == ("nightly", 900)
    assert health.production_s == NOW_S - HOUR_S


def test_quarantine_is_compared_with_the_last_night_and_not_with_the_last_update(local_store: Store) -> None:
    end_run(local_store, 47, **rows(1000, 1))
    end_run(local_store, 23, **rows(1000, 2))
    for minutes in range(5):
        end_run(local_store, minutes / 60, **rows(1000, 90 + minutes))
    health = measure_health(local_store, ())
    assert health.quarantined_before == 2
    (warning,) = find_warnings(health, Limits(), NOW_S)
    assert (warning.kind, "90 of 1,000 items" in warning.reason) == ("quarantine", True)


def test_what_is_no_document_of_a_run_is_passed_over(local_store: Store) -> None:
    end_run(local_store, 30, "good")
    for name, data in {"2026-11-21T110000.json": b"{", "notes.json": b"{}", "going/run-1.json": b"a lease"}.items():
        local_store.put(f"runs/{name}", data)
    last = measure_health(local_store, ()).last_run
    assert last is not None
    assert last.release == "good"


def test_folders_on_one_disk_count_once_also_where_they_do_not_exist_yet(tmp_path: Path, local_store: Store) -> None:
    disks = measure_health(local_store, (tmp_path / "later" / "store", tmp_path)).disks
    assert [disk.folder for disk in disks] == [tmp_path / "later" / "store"]
    assert 0 < disks[0].free_bytes <= disks[0].total_bytes


def test_the_folder_of_a_local_store_is_watched_and_the_cache_of_a_remote_one(
    tmp_path: Path, local_store: Store, s3_store: Store
) -> None:
    settings = Settings(cache_dir=tmp_path / "cache")
    assert watched_folders(local_store, settings) == (Path(local_store.url),)
    assert watched_folders(s3_store, settings) == (tmp_path / "cache",)


def health_of(hours: float = 1.0, quarantined: int = 0, before: int = 0, free_gb: float = 90.0) -> Health:
    ended_s = NOW_S - hours * HOUR_S
    run = RunRecord(
        ended_s=ended_s, release="r", outcome="held", reason="Held: recall@1 fell.", items=1000,
        quarantined=quarantined, seconds={},
    )  # fmt: skip
    disk = Disk(folder=Path("/srv/store"), free_bytes=int(free_gb * 1e9), total_bytes=100 * 10**9)
    return Health(production="r", production_s=ended_s, last_run=run, quarantined_before=before, disks=(disk,))


@pytest.mark.parametrize(
    ("health", "reasons"),
    [
        (health_of(), []),
        (health_of(hours=35), []),
        (health_of(hours=41), ["Searches see the catalogue of 41 hours ago; nothing newer was published. The last run "
                               "ended so: Held: recall@1 fell."]),
        (health_of(quarantined=10), []),
        (health_of(quarantined=11), ["11 of 1,000 items are in quarantine, 0 were before; see the report."]),
        (health_of(quarantined=110, before=100), []),
        (health_of(quarantined=111, before=100), ["111 of 1,000 items are in quarantine, 100 were before; see the "
                                                  "report."]),
        (health_of(quarantined=100, before=111), []),
        (health_of(free_gb=10), []),
        (health_of(free_gb=9.9), ["The disk of /srv/store has only 9.9 of 100.0 GB free."]),
    ],
)  # fmt: skip
def test_a_warning_is_a_plain_sentence_and_comes_past_its_limit(health: Health, reasons: list[str]) -> None:
    assert [warning.reason for warning in find_warnings(health, Limits(), NOW_S)] == reasons


def test_a_warning_is_the_same_until_it_is_twice_as_bad() -> None:
    subjects = [find_warnings(health_of(free_gb=free), Limits(), NOW_S)[0].subject for free in (4.2, 4.1, 2.0)]
    assert subjects[0] == subjects[1] != subjects[2]
    ages = [find_warnings(health_of(hours=hours), Limits(), NOW_S)[0].subject for hours in (37, 38)]
    assert ages[0] == ages[1]


def test_a_limit_of_zero_silences_a_disk() -> None:
    assert find_warnings(health_of(free_gb=0), Limits(disk_percent=0, disk_gb=0), NOW_S) == []
