"""Runs share a store, a vacuum or a repair has it alone, and the lease of a killed process expires."""

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
from retrieval_core.store.leases import exclusive_lease, shared_lease

pytestmark = pytest.mark.usefixtures("aws_environment")
ROOT = Path(__file__).parents[3]


def lease_keys(store: Store) -> list[str]:
    return list(store.list(leases.FOLDER))


@pytest.mark.parametrize("where", ["local_store", "s3_store"])
def test_runs_share_a_store_and_keep_an_exclusive_lease_out(where: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(where)
    with shared_lease(store, "the night"), shared_lease(store, "an update"):
        assert len(lease_keys(store)) == 2
        message = r"a vacuum .* (the night|an update) on .* since 20"
        with pytest.raises(StoreBusy, match=message), exclusive_lease(store, "a vacuum"):
            pytest.fail("it was not alone")
    assert lease_keys(store) == []
    with (
        exclusive_lease(store, "a vacuum"),
        pytest.raises(StoreBusy, match="a repair"),
        exclusive_lease(store, "a repair"),
    ):
        pytest.fail("there were two")


def test_a_run_waits_for_an_exclusive_lease_whose_holder_is_told(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.01)
    began = threading.Event()

    def run() -> None:
        with shared_lease(local_store, "the night"):
            began.set()

    waiting = threading.Thread(target=run)
    with exclusive_lease(local_store, "a vacuum") as has_waiter:
        assert not has_waiter()
        waiting.start()
        while not has_waiter():
            time.sleep(0.01)
        assert not began.is_set()
    waiting.join(60)
    assert began.is_set()


def test_a_lease_ends_with_its_block_even_if_that_fails(local_store: Store) -> None:
    with pytest.raises(ZeroDivisionError), shared_lease(local_store, "the night"):
        raise ZeroDivisionError
    assert lease_keys(local_store) == []


def test_the_lease_of_a_slow_run_does_not_expire(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    monkeypatch.setattr(leases, "EXPIRES_S", 3.0)
    with shared_lease(local_store, "the night"):
        (key,) = lease_keys(local_store)
        first = Path(local_store.url, key).stat().st_mtime
        while Path(local_store.url, key).stat().st_mtime < first + 3.5:
            time.sleep(0.05)
        with pytest.raises(StoreBusy), exclusive_lease(local_store, "a vacuum"):
            pytest.fail("the run was taken for dead")


_KILLED = """
import os, signal, sys
from retrieval_core.store.leases import shared_lease
from retrieval_core.store.uris import open_store
with shared_lease(open_store(sys.argv[1]), "the night"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lease_of_a_killed_run_expires(local_store: Store) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, local_store.url], cwd=ROOT, check=False)
    (key,) = lease_keys(local_store)
    with pytest.raises(StoreBusy), exclusive_lease(local_store, "a vacuum"):
        pytest.fail("the run may still be alive")

    expired_s = time.time() - leases.EXPIRES_S - 1
    os.utime(Path(local_store.url, key), (expired_s, expired_s))

    with exclusive_lease(local_store, "a vacuum") as has_waiter:
        assert not has_waiter()
