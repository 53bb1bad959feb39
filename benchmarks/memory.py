"""What a process holds in memory, by its own account; Linux only. Imports nothing that weighs."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")


def resident_mb() -> dict[str, float]:
    """This process's memory: `all`, `own` (of no file), and of mapped files by their names, in 10^6 bytes."""
    held: dict[str, float] = {"all": 0.0, "own": 0.0}
    name = ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            name = Path(mapping[1].removesuffix(" (deleted)")).name
        elif line.startswith("Rss:"):
            for key in ("all", name):
                held[key] = held.get(key, 0.0) + _megabytes(line)
        elif line.startswith("Anonymous:"):
            held["own"] += _megabytes(line)
    return held


class PeakOwn:
    """Within a `with`: how much the memory of no file grew at most, in 10^6 bytes, looked at every 5 ms."""

    def __enter__(self) -> Self:
        self._before = self._peak = _own_mb()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._watcher.join()

    @property
    def growth_mb(self) -> float:
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, _own_mb())


def _own_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return _megabytes(next(line for line in status.splitlines() if line.startswith("RssAnon:")))


def _megabytes(line: str) -> float:
    return int(line.split()[1]) * 1024 / 1e6
