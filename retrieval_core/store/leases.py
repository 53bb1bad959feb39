"""Who works in a store: runs beside each other, a vacuum or a repair alone.

Each writes its lease first and then looks for the others', so of two that begin at once one at least sees the other. A
lease is written again while its process lives: one that is not was killed. Its age is told by the store's own clock.
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
ALONE = f"{FOLDER}alone-"
BEAT_S = 30.0
DEAD_AFTER_S = 600.0  # without a beat
LOOK_S = 2.0


@contextmanager
def at_work(store: Store, what: str) -> Iterator[None]:
    """Say that a run goes on, so that nothing is removed under it; wait first for whoever works alone."""
    with _lease(store, f"{FOLDER}run-", what) as others:
        waited = False
        while alone := [key for key in others() if key.startswith(ALONE)]:
            if not waited:
                log.warning("%s waits until this has ended: %s", what, _describe(store, alone[0]))
            waited = True
            time.sleep(LOOK_S)
        yield


@contextmanager
def alone(store: Store, what: str) -> Iterator[Callable[[], bool]]:
    """Work with nobody beside; gives a function that says whether somebody came and waits. Raises `StoreBusy`."""
    with _lease(store, ALONE, what) as others:
        if found := others():
            raise StoreBusy(
                f"{what} of {store.url} must be alone, but this goes on: {_describe(store, found[0])}; try again when "
                f"it has ended, or {DEAD_AFTER_S / 60:.0f} minutes after it was killed"
            )
        yield lambda: bool(others())


@contextmanager
def _lease(store: Store, kind: str, what: str) -> Iterator[Callable[[], list[str]]]:
    """Hold a lease; gives a function that lists the leases of others that live."""
    key = f"{kind}{uuid.uuid4().hex}"
    said = {"what": what, "host": socket.gethostname(), "began": datetime.now(UTC).isoformat(timespec="seconds")}
    data, ended = json.dumps(said).encode(), threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            try:
                store.put(key, data)
            except VitrineError as error:
                log.warning("%s cannot say that it goes on: %s", what, error)

    def others() -> list[str]:
        found = {entry.key: entry.modified_s for entry in store.entries(FOLDER)}
        now_s = found.get(key) or max(found.values(), default=0.0)
        return [other for other, beaten_s in found.items() if other != key and now_s - beaten_s < DEAD_AFTER_S]

    store.put(key, data)
    heart = threading.Thread(target=beat, name="lease", daemon=True)
    heart.start()
    try:
        yield others
    finally:
        ended.set()
        heart.join()
        with suppress(VitrineError):  # it dies by itself
            store.delete(key)


def _describe(store: Store, key: str) -> str:
    try:
        said = json.loads(store.get(key))
        return f"{said['what']} on {said['host']} since {said['began']}"
    except (NotFound, ValueError, KeyError, TypeError):
        return key
