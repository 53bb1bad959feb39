"""Vacuums that meet runs or each other: one waits or is refused, nothing is lost; and what runs leave under `runs/`."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.errors import StoreBusy
from retrieval_core.maintenance.vacuum import DAY_S, KEPT_RUNS, RUNS_DAYS, STOPPED, Policy, Vacuumed, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

NOW_S = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
ELSEWHERE = ("runs/notes.json", "runs/2024-01-01.json", "runs/kept/2024-01-01T010000.000+0000.json", "runs/going.txt")
ONLY_PRODUCTION = Policy(keep=0, older_than_days=7, safe_hours=24)


def later() -> float:
    return time.time() + 30 * DAY_S


def keys(store: Store) -> set[str]:
    return set(store.list(""))


def test_nothing_is_removed_while_a_run_is_active(three_runs: tuple[Store, list[Release]]) -> None:
    """It may build on what no kept release needs, and not have said so yet."""
    store, _ = three_runs
    before = keys(store)
    with leases.shared_lease(store, "the night"), pytest.raises(StoreBusy, match="the night"):
        vacuum(store, ONLY_PRODUCTION, later())
    assert keys(store) == before


@pytest.mark.parametrize("turn_s", [0.0, 600.0])
def test_a_run_that_begins_meanwhile_waits_for_the_end_or_for_that_of_the_turn(
    three_runs: tuple[Store, list[Release]], monkeypatch: pytest.MonkeyPatch, turn_s: float
) -> None:
    store, sealed = three_runs
    monkeypatch.setattr(leases, "POLL_S", 0.01)
    monkeypatch.setattr("retrieval_core.maintenance.vacuum.TURN_S", turn_s)
    began, delete = threading.Event(), type(store).delete

    def run() -> None:
        with leases.shared_lease(open_store(store.url), "the nightly"):
            began.set()

    waiting = threading.Thread(target=run)

    def delete_slowly(self: Store, key: str) -> None:
        if key == f"{sealed[0].key}/manifest.json":
            waiting.start()
            while not list(self.list(f"{leases.FOLDER}wait-")):
                time.sleep(0.01)
        assert key.startswith(leases.FOLDER) or not began.is_set()
        delete(self, key)

    monkeypatch.setattr(type(store), "delete", delete_slowly)
    plan, done = vacuum(store, ONLY_PRODUCTION, later())
    waiting.join(60)

    assert began.is_set()
    if turn_s:
        assert done == Vacuumed(n_removed=len(plan.keys))
    else:
        assert (done.n_removed, done.stopped) == (0, STOPPED)
        assert sealed[0].fingerprint in releases.release_names(store)


def test_of_two_vacuums_at_once_each_removes_or_is_refused(three_runs: tuple[Store, list[Release]]) -> None:
    store, sealed = three_runs
    outcomes: list[object] = []

    def sweep(keep: int) -> None:
        try:
            outcomes.append(vacuum(open_store(store.url), Policy(keep=keep), later())[1])
        except StoreBusy as error:
            outcomes.append(error)

    threads = [threading.Thread(target=sweep, args=(keep,)) for keep in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(outcomes) == 2
    assert all(isinstance(outcome, StoreBusy | Vacuumed) for outcome in outcomes)
    assert verify(store).ok
    assert releases.read_release(store, "production") == sealed[2]
    vacuum(store, ONLY_PRODUCTION, later())
    assert releases.release_names(store) == [sealed[2].fingerprint]


def end_run(store: Store, days_ago: float) -> str:
    ended = datetime.fromtimestamp(NOW_S - days_ago * DAY_S, UTC).isoformat(timespec="milliseconds")
    key = f"runs/{ended.replace(':', '')}.json"
    store.put(key, b"{}")
    return key


def test_documents_of_runs_go_after_a_year_except_the_latest_hundred(local_store: Store) -> None:
    old = [end_run(local_store, RUNS_DAYS + KEPT_RUNS - n) for n in range(KEPT_RUNS)]
    young = [end_run(local_store, RUNS_DAYS - 1 - n) for n in range(KEPT_RUNS - 10)]
    for key in ELSEWHERE:
        local_store.put(key, b"{}")
    plan, done = vacuum(local_store, Policy(), NOW_S)
    assert (set(plan.keys), done.n_removed) == (set(old[:-10]), len(old) - 10)
    assert plan.n_bytes == 2 * len(plan.keys)
    assert sorted(releases.run_keys(local_store)) == sorted([*old[-10:], *young, *ELSEWHERE[:2]])
    assert set(local_store.list("runs/")) >= set(ELSEWHERE)


def test_the_weekly_vacuum_removes_the_leases_of_dead_runs(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    for kind in ("run", "wait", "alone"):
        key = f"{leases.FOLDER}{kind}-{'0' * 32}"
        local_store.put(key, b'{"what": "the run nightly", "host": "elsewhere", "began": "2026-11-01"}')
        os.utime(Path(local_store.url) / key, (1e9, 1e9))
    vacuum(local_store, Policy(), NOW_S)
    assert not list(local_store.list(leases.FOLDER))
