"""Runs beside each other, a vacuum or a repair alone; whoever was killed is not waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from retrieval_core.errors import StoreBusy
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.leases import alone, at_work

pytestmark = pytest.mark.usefixtures("aws_environment")
ROOT = Path(__file__).parents[3]


def going(store: Store) -> list[str]:
    return list(store.list(leases.FOLDER))


@pytest.mark.parametrize("where", ["local_store", "s3_store"])
def test_nobody_is_alone_while_a_run_goes_on_and_runs_do_not_mind_each_other(
    where: str, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(where)
    with at_work(store, "the night"), at_work(store, "an update"):
        assert len(going(store)) == 2
        said = r"a vacuum .* (the night|an update) on .* since 20"
        with pytest.raises(StoreBusy, match=said), alone(store, "a vacuum"):
            pytest.fail("it was not alone")
    assert going(store) == []
    with alone(store, "a vacuum"), pytest.raises(StoreBusy, match="a repair"), alone(store, "a repair"):
        pytest.fail("there were two")


def test_a_run_waits_for_who_is_alone_who_is_told_of_it(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_S", 0.01)
    began = threading.Event()

    def run() -> None:
        with at_work(local_store, "the night"):
            began.set()

    waiting = threading.Thread(target=run)
    with alone(local_store, "a vacuum") as disturbed:
        assert not disturbed()
        waiting.start()
        while not disturbed():
            time.sleep(0.01)
        assert not began.is_set()
    waiting.join(60)
    assert began.is_set()


def test_a_lease_ends_with_its_work_even_where_that_fails(local_store: Store) -> None:
    with pytest.raises(ZeroDivisionError), at_work(local_store, "the night"):
        raise ZeroDivisionError
    assert going(local_store) == []


def test_a_slow_run_is_told_from_a_dead_one(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    monkeypatch.setattr(leases, "DEAD_AFTER_S", 3.0)
    with at_work(local_store, "the night"):
        (own,) = going(local_store)
        first = Path(local_store.url, own).stat().st_mtime
        while Path(local_store.url, own).stat().st_mtime < first + 3.5:
            time.sleep(0.05)
        with pytest.raises(StoreBusy), alone(local_store, "a vacuum"):
            pytest.fail("the run was taken for dead")


_KILLED = """
import os, signal, sys
from retrieval_core.leases import at_work
from retrieval_core.store import open_store
with at_work(open_store(sys.argv[1]), "the night"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_is_not_waited_for_beyond_its_time(local_store: Store) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, local_store.url], cwd=ROOT, check=False)
    (left,) = going(local_store)
    with pytest.raises(StoreBusy), alone(local_store, "a vacuum"):
        pytest.fail("it may still go on")

    then = time.time() - leases.DEAD_AFTER_S - 1
    os.utime(Path(local_store.url, left), (then, then))

    with alone(local_store, "a vacuum") as disturbed:
        assert not disturbed()
