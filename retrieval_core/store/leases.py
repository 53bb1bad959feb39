"""Leases on a store: runs share it, a vacuum or a repair has it alone.

A holder writes its own lease before it looks for others, so of two that start at once at least one sees the other. It
renews its lease while its process lives. A lease that was not renewed for `EXPIRES_S`, by the store's clock and not
those of the machines, belongs to a process that was killed, suspended or cut off; that a process of the same machine
has ended is known at once. Who cannot work beside such a lease revokes it: deletes it, then waits for `SETTLE_S`.

A holder cannot renew a lease that was revoked, and so finds out: before a seal, a swap or a delete it renews a lease
that is older than `FRESH_S`, before other writes one that is overdue. Its last writes thus fall into the time that the
other waits for, unless it is suspended between that check and its write. Then a seal or a swap is undone when it wakes
(`Store.put_if_absent`), other writes are parts that no manifest lists, and of a vacuum's deletes those on their way are
at most as many as it has threads.
"""

from __future__ import annotations

import json
import logging
import math
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from weakref import WeakSet

from retrieval_core.errors import LeaseLost, NotFound, StoreBusy, VitrineError
from retrieval_core.store.base import Store, check_conditions, guarded
from retrieval_core.store.holders import has_ended, this_process

log = logging.getLogger(__name__)

FOLDER = "runs/going/"
_SHARED, _EXCLUSIVE, _WAITING = f"{FOLDER}run-", f"{FOLDER}alone-", f"{FOLDER}wait-"
RENEW_S = 30.0
OVERDUE_S = 60.0  # since the last renewal
EXPIRES_S = 600.0  # since the last renewal
FRESH_S = 1.0
SETTLE_S = 3.0  # more than FRESH_S and the time of a write
POLL_S = 2.0

_active: WeakSet[_Lease] = WeakSet()  # of this process
_active_lock = threading.Lock()
_is_ending = threading.Event()  # this process takes no lease any more


@contextmanager
def shared_lease(store: Store, holder: str, within: str = "") -> Iterator[str]:
    """Hold a lease beside other runs, so that nothing is removed meanwhile; first wait for an exclusive one to end.

    Yields the key of the lease. `within` is that of a run which this work is part of: an exclusive lease waits for that
    run, so the work must not wait. Raises `BadConfig` for a store that ignores conditions, and `LeaseLost` if another
    process revoked the lease, or the run `within` has ended.
    """
    check_conditions(store)
    with _take_part(store, holder, within) if within else _take_shared(store, holder) as lease, lease.guarding():
        yield lease.key


def is_held(store: Store, key: str) -> bool:
    """Return whether a lease is still renewed, as far as can be seen without waiting: it may just have been lost."""
    renewed_s = {entry.key: entry.modified_s for entry in store.entries(FOLDER)}
    is_there = key in renewed_s and abs(max(renewed_s.values()) - renewed_s[key]) < EXPIRES_S
    return is_there and not has_ended(_facts(store, key))


@contextmanager
def exclusive_lease(store: Store, holder: str, wait_s: float = 0.0) -> Iterator[Callable[[], bool]]:
    """Hold the only lease; yield a function that returns whether a run waits for its end.

    Runs that began before may take `wait_s` to end; those that begin meanwhile wait. Raises `StoreBusy` if they take
    longer, `BadConfig` for a store that ignores conditions, and `LeaseLost` if another process revoked the lease.
    """
    check_conditions(store)
    with _take_exclusive(store, holder, wait_s) as lease, lease.guarding():
        yield lambda: bool(lease.others(_WAITING))


def end_all() -> None:
    """End every lease of this process, which is about to end; writes that need one, and new ones, raise `LeaseLost`."""
    with _active_lock:
        _is_ending.set()
        active = list(_active)
    for lease in active:
        lease.end()


def _take_shared(store: Store, holder: str) -> _Lease:
    while True:
        lease = _Lease(store, _SHARED, holder)
        with lease.ending_on_error():
            exclusive = lease.others(_EXCLUSIVE)
            if not exclusive:
                return lease
        lease.end()
        log.warning("%s waits until this has ended: %s", holder, _describe(store, exclusive[0]))
        with _Lease(store, _WAITING, holder) as waiting:
            while waiting.others(_EXCLUSIVE):
                time.sleep(POLL_S)


def _take_part(store: Store, holder: str, within: str) -> _Lease:
    lease = _Lease(store, _SHARED, holder)
    with lease.ending_on_error():
        # Written before this look: whoever takes the other lease away looks again, and finds this one.
        if not is_held(store, within):
            raise LeaseLost(f"{holder} has nothing to do any more: the run that it is part of has ended")
    return lease


def _take_exclusive(store: Store, holder: str, wait_s: float) -> _Lease:
    deadline_s = _clock_s() + wait_s
    while True:
        lease = _Lease(store, _EXCLUSIVE, holder)
        with lease.ending_on_error():
            blocking = lease.others(_EXCLUSIVE)
            while not blocking:
                runs = lease.others(_SHARED)
                if not runs:
                    return lease
                if _clock_s() >= deadline_s:
                    blocking = runs
                    break
                lease.check()
                time.sleep(POLL_S)
        lease.end()
        if _clock_s() >= deadline_s:
            raise StoreBusy(
                f"{holder} needs {store.url} to itself, but this is running: {_describe(store, blocking[0])}; try "
                f"again when it has ended, or {EXPIRES_S / 60:.0f} minutes after it was killed"
            )
        time.sleep(POLL_S * random.uniform(0.5, 1.5))  # two that refuse each other do not meet again


class _Lease:
    """A lease of this process, renewed in the background until it ends."""

    def __init__(self, store: Store, kind: str, holder: str) -> None:
        began = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"what": holder, "host": socket.gethostname(), "began": began, **this_process()}
        self._store, self._holder, self._data = store, holder, json.dumps(facts).encode()
        self.key = f"{kind}{uuid.uuid4().hex}"
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._renewed_s = _clock_s()
        with _active_lock:
            if _is_ending.is_set():
                self._ended.set()
            _active.add(self)
        with self._lock:
            self._check_not_ended()
            store.put(self.key, self._data)
        threading.Thread(target=self._renew_regularly, name="lease", daemon=True).start()

    def __enter__(self) -> _Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._ended.set()
        with self._lock, suppress(VitrineError):  # it expires by itself
            self._store.delete(self.key)
        with _active_lock:
            _active.discard(self)

    @contextmanager
    def ending_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.end()
            raise

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Check the lease before each write of this process to the store, and name its loss as the cause of errors."""

        def guard(key: str, decides: bool) -> None:
            if not key.startswith(FOLDER):
                self.check(FRESH_S if decides else OVERDUE_S)

        with guarded(self._store, guard):
            try:
                yield
            except LeaseLost:
                raise
            except VitrineError as error:
                try:
                    self.check()
                except LeaseLost as lost:
                    raise lost from error
                except VitrineError:
                    log.warning("%s cannot check its lease", self._holder)
                raise

    def check(self, max_age_s: float = FRESH_S) -> None:
        """Renew the lease if it is older than that. Raises `LeaseLost` if it ended or another process revoked it."""
        with self._lock:
            self._check_not_ended()
            if _clock_s() - self._renewed_s > max_age_s:
                self._renew()

    def _check_not_ended(self) -> None:
        if self._ended.is_set():
            raise LeaseLost(f"{self._holder} is ending, so it changes nothing more")

    def others(self, kind: str) -> list[str]:
        """Return the leases of a kind that others hold; revoke those that are over, and wait for their holders."""
        renewed_s = {entry.key: entry.modified_s for entry in self._store.entries(FOLDER)}
        now_s = renewed_s.get(self.key) or max(renewed_s.values(), default=0.0)
        # One that is far in the future was renewed before a clock was set back.
        is_expired = {key: abs(now_s - at_s) >= EXPIRES_S for key, at_s in renewed_s.items()}
        others = [key for key in renewed_s if key.startswith((kind, _WAITING)) and key != self.key]
        revoked = [key for key in others if is_expired[key] or has_ended(_facts(self._store, key))]
        for key in revoked:
            log.warning("%s revokes a lease that is over: %s", self._holder, _describe(self._store, key))
            self._store.delete(key)
        if revoked:
            time.sleep(SETTLE_S)
            return self.others(kind)  # some servers let a lease be renewed at the moment of its deletion
        return [key for key in renewed_s if key.startswith(kind) and key != self.key]

    def _renew_regularly(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self.check(max_age_s=0.0)
            except LeaseLost:
                return
            except VitrineError as error:
                log.warning("%s cannot renew its lease: %s", self._holder, error)

    def _renew(self) -> None:
        started_s = _clock_s()
        is_renewed = self._store.compare_and_swap(self.key, self._data, self._data)
        if not is_renewed and not self._store.exists(self.key):  # a busy server may refuse a swap for other reasons
            self._renewed_s = -math.inf
            raise LeaseLost(
                f"{self._holder} was suspended, or cut off from {self._store.url}, for so long that another process "
                "took over the store; it has stopped before it changed anything more: start it again"
            )
        self._renewed_s = started_s


def _clock_s() -> float:
    """Return a time that only moves forward and, where the system has such a clock, while the machine sleeps, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _describe(store: Store, key: str) -> str:
    try:
        return "{what} on {host} since {began}".format_map(_facts(store, key))
    except KeyError:
        return key


def _facts(store: Store, key: str) -> dict[str, str]:
    """Return what a holder wrote into its lease; nothing if that cannot be read."""
    with suppress(NotFound, ValueError):
        facts = json.loads(store.get(key))
        if isinstance(facts, dict):
            return facts
    return {}
