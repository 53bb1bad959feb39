"""SIGSTOP of a run or a vacuum for longer than its lease: the store goes to another, and the one that wakes stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import Policy, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
from tests.faults.processes import Order, Run
from tests.faults.suspension import suspend

ROOT = Path(__file__).parents[3]
SHORT = {"RENEW_S": 0.05, "OVERDUE_S": 0.1, "EXPIRES_S": 0.6, "FRESH_S": 0.05, "SETTLE_S": 0.15, "POLL_S": 0.02}
ITEMS = [f"item-{number}" for number in range(14)]
EVERYTHING = Policy(keep=0, older_than_days=0, safe_hours=0)

_START = f"""
import sys, time
from retrieval_core.errors import LeaseLost
from retrieval_core.maintenance import vacuum
from retrieval_core.store import leases
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
vars(leases).update({SHORT})
store = open_store(sys.argv[1])

def pause():
    print("pausing", flush=True)
    sys.stdin.readline()
"""
# It is suspended when all of its parts are written, and nothing is sealed.
_RUN = f"""{_START}
class Paused(SealedRuns):
    def _seal_report(self, index, anchor):
        pause()
        return super()._seal_report(index, anchor)

try:
    with leases.shared_lease(store, "a run"):
        Paused(store).seal({ITEMS[4:]})
except LeaseLost as error:
    print("stopped", error)
"""
# It is suspended when it has planned what to delete and has deleted the first few.
_VACUUM = f"""{_START}
vacuum.BATCH_KEYS, n_batches, really_delete = 3, 0, vacuum._delete

def delete(store, batch):
    global n_batches
    n_batches += 1
    if n_batches == 4:
        pause()
    return really_delete(store, batch)

vacuum._delete = delete
try:
    vacuum.vacuum(store, vacuum.Policy(keep=0, older_than_days=0, safe_hours=0), time.time())
except LeaseLost as error:
    print("stopped", error)
"""


@pytest.fixture
def store(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with a release, whose leases expire within a second."""
    for name, seconds in SHORT.items():
        monkeypatch.setattr(leases, name, seconds)
    SealedRuns(local_store).seal(ITEMS)
    return local_store


@contextmanager
def suspended(script: str, store: Store) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that was suspended at its pause for longer than its lease."""
    command = [sys.executable, "-c", script, store.url]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "pausing\n"
        suspend(process.pid, Path(store.url, ".lock"))
        time.sleep(SHORT["EXPIRES_S"] + 0.1)
        try:
            yield process
        finally:
            process.kill()


def wake(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGCONT)
    return process.communicate("\n", timeout=60)[0]


def check_every_release(store: Store) -> None:
    """Check that each sealed release can be served, not only the one that is production."""
    for name in releases.release_names(store):
        releases.point_alias(store, releases.PRODUCTION, name)
        checked = verify(store)
        assert checked.ok, checked


@pytest.mark.parametrize("successor", ["vacuum", "repair"])
def test_a_run_that_wakes_after_a_vacuum_or_a_repair_seals_nothing(store: Store, successor: str) -> None:
    before = releases.read_alias(store, releases.PRODUCTION)
    with suspended(_RUN, store) as run:
        if successor == "vacuum":
            assert vacuum(store, EVERYTHING, time.time())[1].n_removed, "it removes what the run has made so far"
        else:
            assert repair(store).ok
        assert "stopped a run was suspended" in wake(run)

    assert releases.read_alias(store, releases.PRODUCTION) == before
    assert verify(store).ok
    release = SealedRuns(store).seal(ITEMS[4:])
    assert releases.read_release(store, releases.PRODUCTION) == release
    check_every_release(store)


def test_a_vacuum_that_wakes_beside_a_run_deletes_nothing_more(store: Store) -> None:
    """The run builds on what the vacuum had planned to delete."""
    SealedRuns(store).seal(ITEMS[:3])
    with suspended(_VACUUM, store) as sleeper, leases.shared_lease(store, "a run"):
        release = SealedRuns(store).seal(ITEMS)
        before = set(store.list(""))
        assert "stopped a vacuum was suspended" in wake(sleeper)
        assert set(store.list("")) == before
        assert releases.read_release(store, releases.PRODUCTION) == release
    check_every_release(store)


CONFIG = (
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.size_px=16",
    "embed.background=raw",
    "embed.shard_rows=4",
    "head.enabled=false",
    "reduce.dims=[8]",
    "evaluate.queries=4",
    "evaluate.synthetic_queries=4",
)


def test_a_nightly_that_wakes_after_a_vacuum_stops_and_is_resumed(
    api_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in SHORT.items():
        monkeypatch.setattr(leases, name, seconds)
    source, store = f"synthetic:{tmp_path / 'catalog'}?products=12&views=2&size_px=64", open_store(str(tmp_path / "s"))
    open_source(source).rows()
    order = Order(source, tmp_path / "s", CONFIG, api_url, tmp_path / "log")
    run = Run(order._replace(lease_times=tuple(SHORT.items())))
    run.wait_for("reduce")
    suspend(run.pid, tmp_path / "s" / ".lock")
    time.sleep(SHORT["EXPIRES_S"] + 0.1)
    vacuum(store, EVERYTHING, time.time())
    os.kill(run.pid, signal.SIGCONT)
    with pytest.raises(AssertionError, match="LeaseLost: the run nightly was suspended"):
        run.end()
    assert not list(store.list("aliases/"))

    Run(order._replace(log=tmp_path / "again.log")).end()
    check_every_release(store)
