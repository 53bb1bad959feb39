"""Tells whether the process that holds a lease has ended, where it ran on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> dict[str, str]:
    """Return facts that tell this process from every other one of any machine; none where Linux's /proc is missing."""
    try:
        return {"machine": _machine(), "process": f"{os.getpid()} {_started(os.getpid())}"}
    except OSError:
        return {}


def has_ended(facts: Mapping[str, str]) -> bool:
    """Return whether the process with these facts has certainly ended; False for one of another machine or container.

    A process id that is used again does not mislead it, because a process is known by its time of start, too.
    """
    # Facts that another program wrote, or damage changed, say nothing.
    with suppress(OSError, KeyError, ValueError, OverflowError):
        pid, started = str(facts["process"]).split()
        if facts["machine"] != _machine():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it lives, and is another user's
            pass
        return _started(int(pid)) != started
    return False


def _machine() -> str:
    """Return what is the same for processes that see each other: this start of the machine, and the container."""
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(_PROC / 'self/ns/pid')}"


def _started(pid: int) -> str:
    """Return the time at which a process started, in ticks since the machine's start; "ended" for a zombie."""
    state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return "ended" if state in "ZX" else fields[18]
