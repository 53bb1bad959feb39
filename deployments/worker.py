"""A worker of Prefect that ends within seconds when it is told to; its runs resume when a worker is back.

    python -m deployments.worker --with-healthcheck

Prefect's own worker waits for its runs. This one has them give back their lease, tells Prefect that they wait to be
resumed, and ends them. A run that must not be repeated, such as a rollback, is waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from abc import ABC
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments.cli.prefect_server import check_server_is_named
from deployments.cli.terminal import print_error
from deployments.environment import prepare_environment
from deployments.pools import PROCESSES
from deployments.shop import shop_name
from flows.run import RESCHEDULE
from retrieval_core.errors import VitrineError

POLL_S = 0.2
IDLE_S = 1.0  # without a run until none is on its way any more
# In a session of its own: Ctrl-C and signals to the worker's group reach the worker alone, which tells its runs.
ENGINE = "import os, runpy; os.setsid(); runpy.run_module('prefect.engine', run_name='__main__', alter_sys=True)"


class EngineProcess(ProcessJobConfiguration):
    """A run starts as the process that runs its flow; Prefect's default starts another one before, for 2 s of CPU."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        self.command = command_to_string([sys.executable, "-c", ENGINE])
        super().prepare_for_flow_run(*args, **kwargs)


class StoppableWorker(ProcessWorker, ABC):  # Prefect does not register an ABC in place of its own worker
    """A worker that takes no more runs once it is to stop, and tells those that it has to end."""

    job_configuration = EngineProcess

    def __init__(self, work_pool_name: str, limit: int | None) -> None:
        super().__init__(work_pool_name=work_pool_name, base_job_template=PROCESSES.template, limit=limit)
        self._is_stopping, self._n_runs = False, 0

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        return [] if self._is_stopping else await super().get_and_submit_flow_runs()

    async def run(self, *args: Any, **kwargs: Any) -> ProcessWorkerResult:
        self._n_runs += 1
        try:
            return await super().run(*args, **kwargs)
        finally:
            self._n_runs -= 1

    async def end_runs(self) -> None:
        """Take no more runs, tell each to end as soon as it listens to the signal, and return when all have ended."""
        self._is_stopping = True
        told = set[int]()
        idle_s = 0.0
        while idle_s < IDLE_S:
            for pid in set(_children()) - told:
                if _listens(pid):
                    told.add(pid)
                    os.kill(pid, RESCHEDULE)
            await asyncio.sleep(POLL_S)
            idle_s = 0.0 if self._n_runs else idle_s + POLL_S


async def work(pool: str, has_healthcheck: bool, limit: int | None = None) -> None:
    """Take runs from the pool, at most `limit` at a time, until the process gets SIGTERM or SIGINT."""
    worker, is_stopping = StoppableWorker(pool, limit), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_stopping.set)
    working = asyncio.create_task(worker.start(with_healthcheck=has_healthcheck))
    stopping = asyncio.create_task(is_stopping.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        await worker.end_runs()
        working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def _children() -> Iterator[int]:
    for tasks in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            yield from map(int, (tasks / "children").read_text().split())


def _listens(pid: int) -> bool:
    """Return whether a process has a handler for the signal."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> RESCHEDULE - 1 & 1)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Work until interrupted and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.worker", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", metavar="NAME", help="the work pool; by default the shop's")
    text = "answer /health on port 8080, as PREFECT_WORKER_WEBSERVER_PORT says"
    parser.add_argument("--with-healthcheck", action="store_true", help=text)
    text = "make at most so many runs at a time; 1 where each fills the machine, as runs of make-shards do"
    parser.add_argument("--limit", metavar="N", type=int, help=text)
    arguments = parser.parse_args(argv)
    prepare_environment()
    try:
        check_server_is_named()
        asyncio.run(work(arguments.pool or shop_name(), arguments.with_healthcheck, arguments.limit))
    except VitrineError as error:
        return print_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
