"""Count the requests and bytes of reading files over the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Traffic:
    """What was read from web servers and S3: the requests, and the bytes of bodies as they were sent.

    Repeated requests count, except those that boto3 repeats by itself. `not_modified` counts the files whose known
    version turned out to be the current one.
    """

    requests: int = 0
    bytes: int = 0
    not_modified: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.requests + other.requests, self.bytes + other.bytes, self.not_modified + other.not_modified)


class TrafficCounter:
    """The traffic so far, for any number of threads."""

    def __init__(self) -> None:
        self.total = Traffic()
        self._lock = threading.Lock()

    def add(self, traffic: Traffic) -> None:
        with self._lock:
            self.total += traffic


_COUNTER: ContextVar[TrafficCounter | None] = ContextVar("counter", default=None)


@contextmanager
def counted_traffic() -> Iterator[TrafficCounter]:
    """Count what this thread reads until the context ends, and what threads read for it in `counting` functions."""
    counter = TrafficCounter()
    token = _COUNTER.set(counter)
    try:
        yield counter
    finally:
        _COUNTER.reset(token)


def counting(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function for another thread that counts what it reads as if this thread called it."""
    counter = _COUNTER.get()

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _COUNTER.set(counter)
        try:
            return function(*args, **kwargs)
        finally:
            _COUNTER.reset(token)

    return call


def count(*, requests: int = 0, n_bytes: int = 0, not_modified: int = 0) -> None:
    """Add to the counter of this thread, if it has one."""
    if counter := _COUNTER.get():
        counter.add(Traffic(requests, n_bytes, not_modified))
