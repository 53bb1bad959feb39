"""A command run to its end, and what it and the processes that it starts hold meanwhile; Linux only."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.1
N_CORES = 2  # of the machine that the figures are promised for

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class Watched(NamedTuple):
    """What a command printed and took; memory is what was resident at most, mapped files included, in 10^6 bytes.

    `peak_mb` is of the process itself, `helpers_mb` the sum over those that it started (Prefect's embedded server);
    `cpu_s` is of all of them, over all cores.
    """

    stdout: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    helpers_mb: float


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command on `N_CORES` cores of this machine. Raises `RuntimeError` with its last words where it fails."""
    cores = sorted(os.sched_getaffinity(0))[:N_CORES]
    cpu_before, started = _cpu_of_children_s(), time.perf_counter()
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    peaks_mb: dict[int, float] = {}
    stdout = stderr = ""
    while child.returncode is None:
        for pid in _family(child.pid):
            peaks_mb[pid] = max(peaks_mb.get(pid, 0.0), _peak_mb(pid))
        with suppress(subprocess.TimeoutExpired):
            stdout, stderr = child.communicate(timeout=LOOK_EVERY_S)
    wall_s = time.perf_counter() - started
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {child.returncode}:\n{stderr[-2000:]}")
    own_mb = peaks_mb.pop(child.pid)
    return Watched(stdout, wall_s, _cpu_of_children_s() - cpu_before, own_mb, sum(peaks_mb.values()))


def _family(pid: int) -> Iterator[int]:
    """A process and those below it, as far as they are still there and no fork that is about to be something else."""
    yield pid
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text(encoding="ascii").split()):
                if _read(child, "cmdline") != _read(pid, "cmdline"):
                    yield from _family(child)


def _peak_mb(pid: int) -> float:
    found = _PEAK.search(_read(pid, "status"))
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _read(pid: int, name: str) -> str:
    """What the kernel says of a process, "" once it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    return ""


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
