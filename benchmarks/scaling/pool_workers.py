"""A work pool of Prefect with worker processes, each of which makes one range of shards at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.settings import get_current_settings

from deployments.pools import PROCESSES, register_pool
from deployments.register import register_shards

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0


class PoolWorkers:
    """A pool on the server that Prefect's settings name; runs within a `with`; `folder` gets the log."""

    def __init__(self, folder: Path, pool: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.pool, self._folder = pool, folder
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with get_client(sync_client=True) as client:
            register_pool(client, self.pool, PROCESSES)
            register_shards(client, "vitrine", self.pool)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.workers:
            self.kill(worker)

    def start_workers(self, n: int) -> None:
        """Start as many workers as are missing for `n` that run, and wait until the server knows of all."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        self.workers += [self._start() for _ in range(n - len(self.workers))]
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._n_online() < n:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {n} workers after {START_TIMEOUT_S:.0f} s; see {self._folder / 'log'}")
            time.sleep(0.2)

    def runs_of(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """Return the process ids of the runs of a worker."""
        pids: list[int] = []
        for tasks in Path(f"/proc/{worker.pid}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, tasks.read_text().split())
        return pids

    def lose_worker(self) -> None:
        """End a run of a worker, and the worker, which tells Prefect of it, as the automation `zombie` later would.

        It takes no other run meanwhile: one that is lost before it starts is missed after `PATIENCE_S` only.
        """
        worker = next(worker for worker in self.workers if self.runs_of(worker))
        for pid in self.runs_of(worker):
            os.kill(pid, signal.SIGKILL)
        worker.terminate()
        worker.wait(END_TIMEOUT_S)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """End a worker and its runs at once, as the loss of its machine would."""
        for pid in self.runs_of(worker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.kill()
        worker.wait()

    def _n_online(self) -> int:
        with get_client(sync_client=True) as client:
            workers = client.read_workers_for_work_pool(self.pool)
        return sum(worker.status == WorkerStatus.ONLINE for worker in workers)

    def _start(self) -> subprocess.Popen[bytes]:
        settings = get_current_settings()
        environment = os.environ | {
            "PREFECT_API_URL": str(settings.api.url),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "VITRINE_HOME": str(ROOT),
            "VITRINE_THREADS": "1",
        }
        command = [sys.executable, "-m", "deployments.worker", "--pool", self.pool, "--limit", "1"]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)
