"""A Dask cluster on loopback: a scheduler, and worker processes of one thread each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0


class DaskCluster:
    """Runs within a `with`; `folder` gets its files and its log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file = folder, folder / "scheduler.json"
        self._scheduler = self._start("scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={self._file}")
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()

    def start_workers(self, n: int) -> None:
        """Start as many workers as are missing for `n` that run."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        options = (
            f"--scheduler-file={self._file}",
            "--nthreads=1",
            "--no-nanny",
            "--host=127.0.0.1",
            "--local-directory=.",
        )
        self.workers += [self._start("worker", *options) for _ in range(n - len(self.workers))]

    @property
    def address(self) -> str:
        """Return the scheduler's address, once it listens. Raises `TimeoutError`."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, json.JSONDecodeError):  # the file may be there and not yet written
                return str(json.loads(self._file.read_text(encoding="utf-8"))["address"])
            time.sleep(0.1)
        raise TimeoutError(f"no scheduler after {START_TIMEOUT_S:.0f} s; its log is {self._folder / 'log'}")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)
