"""Local copies of a remote store's objects, kept below a bound: the least recently used are removed first.

A copy that is removed while a search has it mapped stays readable until that search ends; the next one downloads it
again. A copy's access time records its last use, so that all processes of a machine, and later ones, agree on it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

IN_USE_S = 15 * 60.0  # a copy used more recently stays: its reader may not have opened it yet
TOUCH_INTERVAL_S = 30.0  # access times are no finer, to keep lookups cheap
TARGET_SHARE = 0.9  # of the bound: evict down to this, so that not every download has to evict
RECOUNT_SHARE = 0.02  # of the bound: bytes downloaded between two scans of the folder

_log = logging.getLogger(__name__)


class ReadCache:
    """The copies in a folder, at most about `max_bytes` of them (0: no bound); names that start with a dot are ignored.

    Several processes may share the folder. The bound is exceeded by what they download between two scans (each process
    scans at its first download) and by copies in use.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes

    def touch(self, copy: Path) -> None:
        """Record that a copy is used now, if it exists."""
        if not self._max_bytes:
            return
        with suppress(OSError):
            status = copy.stat()
            if _idle_s(status) > TOUCH_INTERVAL_S:
                os.utime(copy, ns=(time.time_ns(), status.st_mtime_ns))

    def make_room(self, copy: Path) -> None:
        """Count a copy just downloaded, and evict the least recently used ones if the folder exceeds the bound."""
        if not self._max_bytes:
            return
        downloaded = _bytes_since_scan(self._root)
        with suppress(OSError):
            downloaded[0] += copy.stat().st_size
        if downloaded[0] > RECOUNT_SHARE * self._max_bytes:
            downloaded[0] = 0
            self._evict()

    def _evict(self) -> None:
        copies = sorted(_scan(self._root), key=lambda copy: copy.idle_s, reverse=True)
        n_bytes = sum(copy.n_bytes for copy in copies)
        if n_bytes <= self._max_bytes:
            return
        for copy in copies:
            if n_bytes <= TARGET_SHARE * self._max_bytes:
                return
            if _remove_idle(self._root, copy.path):
                n_bytes -= copy.n_bytes
        if n_bytes > self._max_bytes:
            _log.warning(
                "%s holds %.1f GB that are in use, more than its bound of %.1f GB; raise VITRINE_CACHE_GB",
                self._root,
                n_bytes / 1e9,
                self._max_bytes / 1e9,
            )


class _Copy(NamedTuple):
    path: Path
    n_bytes: int
    idle_s: float


def _idle_s(status: os.stat_result) -> float:
    """Return the seconds since the last use; a time in the future, from before the clock was set back, counts alike."""
    return abs(time.time() - status.st_atime)


@lru_cache(maxsize=256)
def _bytes_since_scan(root: Path) -> list[float]:
    """Return a mutable counter of the bytes that this process downloaded since its last scan; races may lose some.

    It starts at infinity, so that processes too short to download much scan too and cannot fill the disk together.
    """
    return [math.inf]


def _scan(root: Path) -> Iterator[_Copy]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            with suppress(OSError):
                path = Path(folder, name)
                status = path.stat()
                yield _Copy(path, status.st_size, _idle_s(status))


def _remove_idle(root: Path, path: Path) -> bool:
    """Remove a copy and return True, unless it came into use since the scan."""
    with suppress(OSError):
        if _idle_s(path.stat()) > IN_USE_S:
            path.unlink()
            (root / ".etags" / path.relative_to(root)).unlink(missing_ok=True)
            return True
    return False
