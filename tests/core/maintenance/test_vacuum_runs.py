"""What runs leave under `runs/` does not grow for ever: documents go after a year, leases of dead runs at once."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.maintenance.vacuum import DAY_S, KEPT_RUNS, RUNS_DAYS, Policy, vacuum
from retrieval_core.store import leases
from retrieval_core.store.base import Store

NOW_S = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
ELSEWHERE = ("runs/notes.json", "runs/2024-01-01.json", "runs/kept/2024-01-01T010000.000+0000.json", "runs/going.txt")


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
