"""Memory and time of processes, as the kernel of Linux counts them. Imports nothing beyond the standard library.

`resident_mb` and `PeakMemory` measure this process, `run_measured` another one. Memory is in MB of 10^6 bytes.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

N_CORES = 2  # of the machine that the aims are stated for
SAMPLE_EVERY_S = 0.1  # of another process
SAMPLE_OWN_EVERY_S = 0.005

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_OWN = re.compile(r"RssAnon:\s+(\d+) kB")


def resident_mb() -> dict[str, float]:
    """Return this process's resident memory: `all`, `own` (backed by no file), and each mapped file by its name."""
    sizes: dict[str, float] = {"all": 0.0, "own": 0.0}
    name = ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            name = Path(mapping[1].removesuffix(" (deleted)")).name
        elif line.startswith("Rss:"):
            for key in ("all", name):
                sizes[key] = sizes.get(key, 0.0) + _megabytes(line)
        elif line.startswith("Anonymous:"):
            sizes["own"] += _megabytes(line)
    return sizes


class PeakMemory:
    """Measures within a `with` how much this process's memory that is backed by no file grew at most."""

    def __enter__(self) -> Self:
        self._before = self._peak = _own_mb()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._sampler.join()

    @property
    def growth_mb(self) -> float:
        return self._peak - self._before

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_OWN_EVERY_S):
            self._peak = max(self._peak, _own_mb())


def _own_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return _megabytes(next(line for line in status.splitlines() if line.startswith("RssAnon:")))


def _megabytes(line: str) -> float:
    return int(line.split()[1]) * 1024 / 1e6


class Usage(NamedTuple):
    """What a command printed and used.

    `peak_mb` is the most resident memory of the process itself, mapped files included, and `peak_own_mb` the most that
    no file backs, sampled; `helpers_mb` is the sum of `peak_mb` over the processes that it started (Prefect's embedded
    server); `cpu_s` is of all of them, over all cores.
    """

    stdout: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    peak_own_mb: float
    helpers_mb: float


def run_measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command on `N_CORES` cores. Raises `RuntimeError` with the end of its stderr if it fails."""
    cores = sorted(os.sched_getaffinity(0))[:N_CORES]
    cpu_before, started = _children_cpu_s(), time.perf_counter()
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    peaks_mb: dict[int, float] = {}
    peak_own_mb = 0.0
    stdout = stderr = ""
    while child.returncode is None:
        peak_own_mb = max(peak_own_mb, _status_mb(child.pid, _OWN))
        for pid in _process_tree(child.pid):
            peaks_mb[pid] = max(peaks_mb.get(pid, 0.0), _status_mb(pid, _PEAK))
        with suppress(subprocess.TimeoutExpired):
            stdout, stderr = child.communicate(timeout=SAMPLE_EVERY_S)
    wall_s = time.perf_counter() - started
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {child.returncode}:\n{stderr[-2000:]}")
    child_mb = peaks_mb.pop(child.pid)
    return Usage(stdout, wall_s, _children_cpu_s() - cpu_before, child_mb, peak_own_mb, sum(peaks_mb.values()))


def _process_tree(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, without forks that have not yet become another program."""
    yield pid
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text(encoding="ascii").split()):
                if _read_proc(child, "cmdline") != _read_proc(pid, "cmdline"):
                    yield from _process_tree(child)


def _status_mb(pid: int, size: re.Pattern[str]) -> float:
    match = size.search(_read_proc(pid, "status"))
    return int(match[1]) * 1024 / 1e6 if match else 0.0


def _read_proc(pid: int, name: str) -> str:
    """Return the text of `/proc/PID/NAME`, "" if the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    return ""


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
