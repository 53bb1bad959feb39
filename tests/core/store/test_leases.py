"""Runs share a store, a vacuum or a repair has it alone after a bounded wait, and leases of killed processes expire."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import LeaseLost, StoreBusy
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.leases import exclusive_lease, is_held, shared_lease

pytestmark = pytest.mark.usefixtures("aws_environment")
ROOT = Path(__file__).parents[3]


def until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def lease_keys(store: Store) -> list[str]:
    return list(store.list(leases.FOLDER))


@pytest.mark.parametrize("where", ["local_store", "s3_store"])
def test_runs_share_a_store_and_keep_an_exclusive_lease_out(where: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(where)
    with shared_lease(store, "the nightly"), shared_lease(store, "an update"):
        assert len(lease_keys(store)) == 2
        message = r"a vacuum .* (the nightly|an update) on .* since 20"
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
        with shared_lease(local_store, "the nightly"):
            began.set()

    waiting = threading.Thread(target=run)
    with exclusive_lease(local_store, "a vacuum") as has_waiter:
        assert not has_waiter()
        waiting.start()
        until(has_waiter)
        assert not began.is_set()
    waiting.join(60)
    assert began.is_set()


def test_a_lease_ends_with_its_block_even_if_that_fails(local_store: Store) -> None:
    with pytest.raises(ZeroDivisionError), shared_lease(local_store, "the nightly"):
        raise ZeroDivisionError
    assert lease_keys(local_store) == []


def test_a_process_that_is_ending_takes_no_lease(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_is_ending", threading.Event())
    with shared_lease(local_store, "a run"):
        leases.end_all()
        assert lease_keys(local_store) == []
        for lease in (shared_lease, exclusive_lease):
            with pytest.raises(LeaseLost, match="a later one is ending"), lease(local_store, "a later one"):
                pytest.fail("a lease was taken")
        assert lease_keys(local_store) == []


def test_the_lease_of_a_slow_run_does_not_expire(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    monkeypatch.setattr(leases, "EXPIRES_S", 3.0)
    with shared_lease(local_store, "the nightly"):
        (key,) = lease_keys(local_store)
        first = Path(local_store.url, key).stat().st_mtime
        while Path(local_store.url, key).stat().st_mtime < first + 3.5:
            time.sleep(0.05)
        with pytest.raises(StoreBusy), exclusive_lease(local_store, "a vacuum"):
            pytest.fail("the run was taken for dead")


def test_a_vacuum_that_waits_gets_its_turn_among_runs_that_overlap(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment some run is active, and the next one starts before it ends."""
    monkeypatch.setattr(leases, "POLL_S", 0.02)
    stop, active, n_runs = threading.Event(), set[int](), []

    def start_runs(number: int) -> None:
        time.sleep(0.05 * number)
        while not stop.is_set():
            with shared_lease(local_store, f"update {number}"):
                active.add(number)
                time.sleep(0.15)
                active.remove(number)
                n_runs.append(number)

    threads = [threading.Thread(target=start_runs, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        with pytest.raises(StoreBusy, match="update"), exclusive_lease(local_store, "a hasty vacuum"):
            pytest.fail("a run was active")
        for _ in range(2):
            with exclusive_lease(local_store, "a vacuum", wait_s=60) as has_waiter:
                before = len(n_runs)
                until(has_waiter)
                assert not active
                assert len(n_runs) == before
            until(lambda before=before: len(n_runs) > before)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert lease_keys(local_store) == []


def test_the_wait_of_a_vacuum_is_bounded_and_the_runs_that_waited_for_it_start(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.02)
    began, refused = threading.Event(), threading.Event()

    def run() -> None:
        with shared_lease(local_store, "an update"):
            began.set()

    def vacuum() -> None:
        with suppress(StoreBusy), exclusive_lease(local_store, "a vacuum", wait_s=0.3):
            pytest.fail("the training was active")
        refused.set()

    threads = [threading.Thread(target=vacuum), threading.Thread(target=run)]
    with shared_lease(local_store, "a training"):
        threads[0].start()
        until(lambda: len(lease_keys(local_store)) == 2)
        threads[1].start()
        assert refused.wait(60)
        assert began.wait(60)
    for thread in threads:
        thread.join(60)


def test_a_part_of_a_run_starts_beside_a_vacuum_that_waits_for_the_run(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.02)
    alone = threading.Event()

    def vacuum() -> None:
        with exclusive_lease(local_store, "a vacuum", wait_s=60):
            alone.set()

    waiting = threading.Thread(target=vacuum)
    with shared_lease(local_store, "the nightly") as nightly:
        waiting.start()
        until(lambda: len(lease_keys(local_store)) == 2)
        part = shared_lease(local_store, "its shards", within=nightly)
        part.__enter__()
    assert not alone.wait(0.3), "the part may still write"
    part.__exit__(None, None, None)
    assert alone.wait(60)
    waiting.join(60)


@pytest.mark.parametrize("end", ["its end", "its death", "its silence"])
def test_a_part_of_a_run_that_has_ended_does_not_start(end: str, local_store: Store) -> None:
    if end == "its death":
        kill_holder(local_store, "shared_lease")
        (key,) = lease_keys(local_store)
    else:
        with shared_lease(local_store, "the nightly") as key:
            assert is_held(local_store, key)
            if end == "its silence":
                expire(local_store, key)
                local_store.put(f"{leases.FOLDER}run-of-another", b"{}")
                assert not is_held(local_store, key)
    with (
        pytest.raises(LeaseLost, match="the run that it is part of has ended"),
        shared_lease(local_store, "its shards", within=key),
    ):
        pytest.fail("nobody waits for them")
    assert len(lease_keys(local_store)) == (end != "its end")


def test_of_vacuums_and_repairs_that_wait_at_once_each_gets_its_turn(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, in_threads: Callable[..., list[Any]]
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.02)
    active: list[int] = []

    def work(number: int) -> bool:
        with exclusive_lease(local_store, f"holder {number}", wait_s=120):
            active.append(number)
            time.sleep(0.02)
            was_alone = active == [number]
            active.remove(number)
        return was_alone

    assert in_threads(4, work) == [True] * 4
    assert lease_keys(local_store) == []


_KILLED = """
import os, signal, sys
from retrieval_core.store import leases
from retrieval_core.store.uris import open_store
with getattr(leases, sys.argv[2])(open_store(sys.argv[1]), "the killed"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_holder(store: Store, kind: str) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, store.url, kind], cwd=ROOT, check=False)


def expire(store: Store, key: str) -> None:
    expired_s = time.time() - leases.EXPIRES_S - 1
    os.utime(Path(store.url, key), (expired_s, expired_s))


@pytest.mark.parametrize("kind", ["shared_lease", "exclusive_lease"])
def test_the_lease_of_a_process_that_died_on_this_machine_is_over_at_once(
    kind: str, local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    kill_holder(local_store, kind)
    with exclusive_lease(local_store, "a vacuum"):
        assert len(lease_keys(local_store)) == 1


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the holders of leases be on other machines, so that nothing is known of their processes."""
    monkeypatch.setattr(leases, "has_ended", lambda facts: False)


@pytest.mark.usefixtures("elsewhere")
def test_the_lease_of_a_killed_run_expires(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    kill_holder(local_store, "shared_lease")
    (key,) = lease_keys(local_store)
    with pytest.raises(StoreBusy, match="the killed"), exclusive_lease(local_store, "a vacuum"):
        pytest.fail("the run may still be alive")

    expire(local_store, key)

    with exclusive_lease(local_store, "a vacuum") as has_waiter:
        assert not has_waiter()
    assert lease_keys(local_store) == []


@pytest.mark.usefixtures("elsewhere")
def test_a_killed_vacuum_does_not_keep_runs_for_longer_than_its_lease(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.02)
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    kill_holder(local_store, "exclusive_lease")
    (key,) = lease_keys(local_store)
    began = threading.Event()

    def run() -> None:
        with shared_lease(local_store, "an update"):
            began.set()

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: any(local_store.list(f"{leases.FOLDER}wait-")))
    assert not began.is_set()
    expire(local_store, key)
    thread.join(60)
    assert began.is_set()
    assert lease_keys(local_store) == []
