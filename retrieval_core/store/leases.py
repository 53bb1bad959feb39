"""Leases on a store: runs share it, a vacuum or a repair has it alone.

Every holder writes its own lease before it looks for others, so of two that start at once at least one sees the other.
A lease is renewed while its process lives; one that is not renewed belongs to a killed process and expires. Its age is
measured with the store's clock, not with those of the machines.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from retrieval_core.errors import NotFound, StoreBusy, VitrineError
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

FOLDER = "runs/going/"
_SHARED, _EXCLUSIVE = f"{FOLDER}run-", f"{FOLDER}alone-"
RENEW_S = 30.0
EXPIRES_S = 600.0  # after the last renewal
POLL_S = 2.0


@contextmanager
def shared_lease(store: Store, holder: str) -> Iterator[None]:
    """Hold a lease beside other runs, so that nothing is removed meanwhile; first wait for an exclusive one to end."""
    with _lease(store, _SHARED, holder) as others:
        is_waiting = False
        while exclusive := [key for key in others() if key.startswith(_EXCLUSIVE)]:
            if not is_waiting:
                log.warning("%s waits until this has ended: %s", holder, _describe(store, exclusive[0]))
            is_waiting = True
            time.sleep(POLL_S)
        yield


@contextmanager
def exclusive_lease(store: Store, holder: str) -> Iterator[Callable[[], bool]]:
    """Hold the only lease; yield a function that returns whether somebody waits for its end. Raises `StoreBusy`."""
    with _lease(store, _EXCLUSIVE, holder) as others:
        if keys := others():
            raise StoreBusy(
                f"{holder} needs {store.url} to itself, but this is running: {_describe(store, keys[0])}; try again "
                f"when it has ended, or {EXPIRES_S / 60:.0f} minutes after it was killed"
            )
        yield lambda: bool(others())


@contextmanager
def _lease(store: Store, kind: str, holder: str) -> Iterator[Callable[[], list[str]]]:
    """Hold a lease; yield a function that lists the unexpired leases of others."""
    key = f"{kind}{uuid.uuid4().hex}"
    facts = {"what": holder, "host": socket.gethostname(), "began": datetime.now(UTC).isoformat(timespec="seconds")}
    data, ended = json.dumps(facts).encode(), threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            try:
                store.put(key, data)
            except VitrineError as error:
                log.warning("%s cannot renew its lease: %s", holder, error)

    def others() -> list[str]:
        renewed_s = {entry.key: entry.modified_s for entry in store.entries(FOLDER)}
        now_s = renewed_s.get(key) or max(renewed_s.values(), default=0.0)
        return [other for other, at_s in renewed_s.items() if other != key and now_s - at_s < EXPIRES_S]

    store.put(key, data)
    renewing = threading.Thread(target=renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield others
    finally:
        ended.set()
        renewing.join()
        with suppress(VitrineError):  # it expires by itself
            store.delete(key)


def _describe(store: Store, key: str) -> str:
    try:
        facts = json.loads(store.get(key))
        return f"{facts['what']} on {facts['host']} since {facts['began']}"
    except (NotFound, ValueError, KeyError, TypeError):
        return key
