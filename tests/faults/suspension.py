"""Suspend a process as a laptop or a hypervisor does."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def suspend(pid: int, lock: Path) -> None:
    """Suspend a process at a moment at which it does not hold the store's lock, which others would wait for."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while not _has_stopped(pid):
            time.sleep(0.001)
        with lock.open("ab") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def _has_stopped(pid: int) -> bool:
    """Return whether every thread of a process has stopped; one could take the lock until then."""
    stats = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
