"""How much each web server is asked for, so that reading a catalogue is polite to the hosts that serve it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from retrieval_core.errors import StoreUnavailable, VitrineError

MAX_PAUSE_S = 120.0  # a host that asks for a longer one is not waited for, but left alone for as long
MAX_FAILURES = 3  # requests in a row of which every attempt failed, until a host is left alone for a while
REST_S = 60.0


class HostLimits(NamedTuple):
    """How much one host is asked for: connections at a time, and requests a second, 0 for any number."""

    n_connections: int = 24  # 395 pictures/s at 50 ms, by `python -m benchmarks.ingest.web_pictures`
    requests_per_s: float = 0.0


class HostShare:
    """The share of a host: when the next request may be made to it, and whether it is left alone for a while."""

    def __init__(self, limits: HostLimits) -> None:
        self._connections = threading.BoundedSemaphore(limits.n_connections)
        self._interval_s = 1 / limits.requests_per_s if limits.requests_per_s else 0.0
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._n_failures = 0
        self._rests_until_s = 0.0
        self._problem = ""

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Hold one of the connections from when a request may be made; yield the seconds that it took to get there."""
        start_s = time.monotonic()
        with self._connections:
            while (wait_s := self._seconds_to_wait()) > 0:
                time.sleep(wait_s)
            yield time.monotonic() - start_s

    def _seconds_to_wait(self) -> float:
        """Return 0 if a request may be made now, which counts as made, else the seconds until one may.

        Raises `StoreUnavailable` while the host is left alone.
        """
        with self._lock:
            now_s = time.monotonic()
            if now_s < self._rests_until_s:
                raise StoreUnavailable(f"the host failed before and is left alone for a while: {self._problem}")
            if now_s >= self._next_s:
                self._next_s = now_s + self._interval_s
                return 0.0
            return self._next_s - now_s

    def pause(self, pause_s: float) -> None:
        """Make no request for so long, as the host asks."""
        with self._lock:
            self._next_s = max(self._next_s, time.monotonic() + pause_s)

    def succeed(self) -> None:
        """End the count of failures in a row."""
        self._n_failures = 0

    def fail(self, error: VitrineError, pause_s: float) -> None:
        """Count a request that failed for good; a host that asks for a long pause gets it."""
        with self._lock:
            self._n_failures += 1
            if self._n_failures >= MAX_FAILURES or pause_s > MAX_PAUSE_S:
                self._problem, self._rests_until_s = str(error), time.monotonic() + max(pause_s, REST_S)
