"""A bound on the local copies of a remote store: those not used for longest go first.

A copy that goes while a search has it mapped stays readable until that search ends; the next one fetches it again. The
access time says when a copy was last asked for, so that all processes of a machine, and the next start, agree.
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

IN_USE_S = 15 * 60.0  # a copy asked for since then may not be open yet
NOTICE_S = 30.0  # access times are no finer, so that asking stays cheap
KEPT_SHARE = 0.9  # of the bound, so that not every download has to make room
COUNTED_SHARE = 0.02  # of the bound: downloads between two countings of the folder

_log = logging.getLogger(__name__)


class ReadCache:
    """The copies in a folder, `max_bytes` of them (0: no bound); names with a dot in front are no copies.

    Several processes may share the folder. The bound is passed by what they download between two countings (each counts
    at its first download), and by copies in use.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes

    def use(self, copy: Path) -> None:
        """Note that a copy is asked for, if it is there."""
        if not self._max_bytes:
            return
        with suppress(OSError):
            found = copy.stat()
            if _idle_s(found) > NOTICE_S:
                os.utime(copy, ns=(time.time_ns(), found.st_mtime_ns))

    def make_room(self, copy: Path) -> None:
        """After a download: remove what was not used for longest while there is more than the bound."""
        if not self._max_bytes:
            return
        downloaded = _downloaded(self._root)
        with suppress(OSError):
            downloaded[0] += copy.stat().st_size
        if downloaded[0] > COUNTED_SHARE * self._max_bytes:
            downloaded[0] = 0
            self._evict()

    def _evict(self) -> None:
        copies = sorted(_copies(self._root), key=lambda copy: copy.idle_s, reverse=True)
        n_bytes = sum(copy.n_bytes for copy in copies)
        if n_bytes <= self._max_bytes:
            return
        for copy in copies:
            if n_bytes <= KEPT_SHARE * self._max_bytes:
                return
            if _remove(self._root, copy.path):
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


def _idle_s(found: os.stat_result) -> float:
    """How long ago a copy was asked for. A time to come, of a clock that was set back since, is as far away."""
    return abs(time.time() - found.st_atime)


@lru_cache(maxsize=256)
def _downloaded(root: Path) -> list[float]:
    """The bytes this process has downloaded into a folder since it was counted; a race loses some, which is fine.

    Infinite before the first counting: processes too short to download much must not fill the disk together.
    """
    return [math.inf]


def _copies(root: Path) -> Iterator[_Copy]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            with suppress(OSError):
                path = Path(folder, name)
                found = path.stat()
                yield _Copy(path, found.st_size, _idle_s(found))


def _remove(root: Path, path: Path) -> bool:
    """Whether a copy was removed: one that came into use since it was counted stays."""
    with suppress(OSError):
        if _idle_s(path.stat()) > IN_USE_S:
            path.unlink()
            (root / ".etags" / path.relative_to(root)).unlink(missing_ok=True)
            return True
    return False
