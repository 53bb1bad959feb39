"""A process that was suspended or cut off past its lease writes nothing beside the one that took over the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import LeaseLost, StoreUnavailable
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.leases import exclusive_lease, shared_lease
from retrieval_core.store.uris import open_store
from tests.faults.s3_proxy import NO_FAULT, Fault, Proxy, running_proxy
from tests.faults.suspension import suspend

pytestmark = pytest.mark.usefixtures("aws_environment")
ROOT = Path(__file__).parents[3]
SHORT = {"RENEW_S": 0.05, "OVERDUE_S": 0.1, "EXPIRES_S": 0.6, "FRESH_S": 0.05, "SETTLE_S": 0.15, "POLL_S": 0.02}

_HOLDER = f"""
import sys
from pathlib import Path
from retrieval_core.errors import LeaseLost
from retrieval_core.store import leases
from retrieval_core.store.uris import open_store
vars(leases).update({SHORT})
store = open_store(sys.argv[1])
writes = (
    lambda: store.put_if_absent("manifest.json", b"1"),
    lambda: store.compare_and_swap("alias", b"new", b"old"),
    lambda: store.compare_and_swap("another", b"1", None),
    lambda: store.delete("part"),
    lambda: store.put("part", b"new"),
    lambda: store.put_file("part", Path("Makefile")),
)
try:
    with getattr(leases, sys.argv[2])(store, "the holder"):
        print("holding", flush=True)
        sys.stdin.readline()
        for write in writes:
            try:
                print("wrote", write(), flush=True)
            except LeaseLost as error:
                print("stopped", error, flush=True)
        store.get("absent")
except Exception as error:
    print("ended by", type(error).__name__, flush=True)
"""


@pytest.fixture
def store(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose leases expire within a second."""
    for name, seconds in SHORT.items():
        monkeypatch.setattr(leases, name, seconds)
    local_store.put("alias", b"old")
    local_store.put("part", b"old")
    return local_store


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("") if not key.startswith(leases.FOLDER)}


@contextmanager
def suspended_holder(store: Store, kind: str) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that wakes a holder, which is suspended past its lease, and returns what it printed."""
    command = [sys.executable, "-c", _HOLDER, store.url, kind]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        suspend(process.pid, Path(store.url, ".lock"))
        time.sleep(leases.EXPIRES_S + 0.1)

        def wake() -> list[str]:
            process.send_signal(signal.SIGCONT)
            return process.communicate("write\n", timeout=60)[0].splitlines()

        try:
            yield wake
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("holder", "successor"),
    [("shared_lease", exclusive_lease), ("exclusive_lease", shared_lease), ("exclusive_lease", exclusive_lease)],
    ids=["a run, then a vacuum", "a vacuum, then a run", "a vacuum, then a repair"],
)
def test_a_holder_that_wakes_after_another_took_over_writes_nothing(
    store: Store, holder: str, successor: Callable[..., Any]
) -> None:
    before = contents(store)
    with suspended_holder(store, holder) as wake, successor(store, "the successor"):
        lines = wake()

    assert [line.split()[0] for line in lines] == ["stopped"] * 6 + ["ended"]
    assert "the holder was suspended, or cut off from" in lines[0]
    assert lines[-1] == "ended by LeaseLost", "the loss explains what the holder did not find afterwards"
    assert contents(store) == before


def test_a_holder_that_wakes_after_another_came_and_went_writes_nothing(store: Store) -> None:
    before = contents(store)
    with suspended_holder(store, "shared_lease") as wake:
        with exclusive_lease(store, "a vacuum"):
            pass
        assert sum(line.startswith("stopped") for line in wake()) == 6
    assert contents(store) == before


def test_a_run_that_wakes_in_a_store_that_was_left_alone_continues(store: Store) -> None:
    with suspended_holder(store, "shared_lease") as wake, shared_lease(store, "another run"):
        lines = wake()
    assert [line.split()[0] for line in lines] == ["wrote"] * 6 + ["ended"]
    assert lines[-1] == "ended by NotFound"


@pytest.mark.parametrize("write", ["seal", "swap"])
def test_what_a_process_wrote_that_was_suspended_just_before_is_undone(
    store: Store, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had checked its lease, and the write itself came after the takeover."""
    before, name = contents(store), "_put_if_absent" if write == "seal" else "_compare_and_swap"
    really_write = getattr(type(store), name)

    def write_late(self: Store, key: str, *data: bytes) -> bool:
        if not key.startswith(leases.FOLDER):
            time.sleep(leases.FRESH_S + 0.01)
            for lease in list(self.list(leases.FOLDER)):
                self._delete(lease)
        written: bool = really_write(self, key, *data)
        return written

    monkeypatch.setattr(leases, "RENEW_S", 60.0)

    def run() -> None:
        with shared_lease(store, "a run"):
            monkeypatch.setattr(type(store), name, write_late)
            if write == "seal":
                store.put_if_absent("manifest.json", b"1")
            else:
                store.compare_and_swap("alias", b"new", b"old")

    with pytest.raises(LeaseLost):
        run()
    assert contents(store) == before


def test_a_run_that_cannot_renew_its_lease_stops_writing(
    store: Store, bucket: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network between the run and the store is cut, and a vacuum on another machine takes over."""
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    truth = open_store(f"s3://{bucket}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path)
    monkeypatch.setattr(leases, "EXPIRES_S", 1.5)  # S3 dates objects to the second

    def run(store: Store, proxy: Proxy) -> None:
        with shared_lease(store, "a run"):
            store.put("part", b"1")
            proxy.fault = Fault("", "refuse 503 SlowDown", times=10**6)
            time.sleep(leases.OVERDUE_S + 0.1)
            with pytest.raises(StoreUnavailable):
                store.put("part", b"2")
            with exclusive_lease(truth, "a vacuum", wait_s=30):
                proxy.fault = NO_FAULT
                for write in (lambda: store.put("part", b"3"), lambda: store.put_if_absent("manifest.json", b"")):
                    with pytest.raises(LeaseLost):
                        write()
            store.put("part", b"4")

    with running_proxy(s3_endpoint) as proxy, pytest.raises(LeaseLost):
        run(open_store(truth.url, s3_endpoint_url=proxy.url, cache_dir=tmp_path), proxy)
    assert contents(truth) == {"part": b"1"}


def test_a_lease_from_before_a_clock_was_set_back_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXPIRES_S", 600.0)
    store.put(f"{leases.FOLDER}run-1", b"{}")
    future_s = time.time() + 86_400
    os.utime(Path(store.url, leases.FOLDER, "run-1"), (future_s, future_s))
    with exclusive_lease(store, "a vacuum"):
        assert len(list(store.list(leases.FOLDER))) == 1
