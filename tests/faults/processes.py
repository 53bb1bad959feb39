"""Runs in processes that a test may kill, forked from one that has imported everything already.

A new process would import for ten seconds; a forked one starts at once, so that a test can afford many.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from deployments.cli import interruption
from deployments.cli.main import main

PATIENCE_S = 120.0
WORK_POOL = Path(__file__).parents[2] / "deployments" / "work_pool.json"
# Imported before the fork, so that no run has to.
IMPORTED = (
    "__main__", "flows.nightly", "flows.catalog_update", "retrieval_core.search.release",
    "retrieval_core.ingest.sources.tables.table", "faiss", "jinja2", "onnx", "onnxruntime", "onnxscript",
    "prefect.engine", "prefect.flow_engine", "prefect.task_engine", "prefect.telemetry.run_telemetry",
    "pyarrow.parquet", "pyarrow.dataset", "scipy", "segmentation_models_pytorch", "timm", "torch",
    "torchvision.transforms.v2",
)  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*IMPORTED])


class Order(NamedTuple):
    """A run to start: the nightly, or a catalogue update if it names items; its output goes to `log`.

    With `command` it is the command line with these arguments instead, in a process that has imported everything or,
    with `is_program`, in a new one with `MARK=STORE` in its environment. `lease_times` replaces constants of the module
    `leases`.
    """

    source: str
    store: Path
    config: tuple[str, ...]
    api_url: str
    log: Path
    item_ids: tuple[str, ...] = ()
    lease_times: tuple[tuple[str, float], ...] = ()
    command: tuple[str, ...] = ()
    is_program: bool = False
    temporary: Path = Path(tempfile.gettempdir())


class Run:
    """A running process, in a session of its own."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._process: BaseProcess = _context.Process(target=_run, args=(order,))
        self._process.start()
        self.started_s = time.monotonic()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def log(self) -> str:
        return self.order.log.read_text() if self.order.log.exists() else ""

    @property
    def stage(self) -> str:
        """The stage that the run last logged, "" before the first."""
        stages = [line.rpartition("stage ")[2] for line in self.log.splitlines() if " stage " in line]
        return stages[-1].strip() if stages else ""

    @property
    def handles_signals(self) -> bool:
        """Whether SIGTERM no longer ends it without its doing."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> signal.SIGTERM - 1 & 1)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait_for(self, stage: str) -> None:
        """Wait until the run logs the begin of a stage, or has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while f" stage {stage}\n" not in self.log and self.is_alive:
            assert time.monotonic() < deadline, f"stage {stage} never began:\n{self.log[-4000:]}"
            time.sleep(0.002)

    def kill(self) -> bool:
        """Send SIGKILL; return whether the run was still alive."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.join(PATIENCE_S)
        return self._process.exitcode == -signal.SIGKILL

    def interrupt(self, number: signal.Signals) -> int | None:
        """Send a signal to the run's session, if it is alive; return the exit code, None if it is still alive then."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        self._process.join(PATIENCE_S)
        return self._process.exitcode

    def end(self) -> float:
        """Wait for it to succeed; return the seconds that it took."""
        self._process.join(PATIENCE_S)
        if self._process.exitcode != 0:
            self.kill()
            raise AssertionError(f"a run ended with {self._process.exitcode}:\n{self.log[-4000:]}")
        return time.monotonic() - self.started_s

    def orphans(self) -> list[int]:
        """Return the ids of the live processes in the run's session."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    pids.append(int(folder.name))
        return pids


def deployed_environment() -> dict[str, str]:
    """Return the Prefect settings that the work pool gives every run."""
    environment: dict[str, str] = json.loads(WORK_POOL.read_text())["job_configuration"]["env"]
    return {name: value for name, value in environment.items() if name.startswith("PREFECT_")}


def _run(order: Order) -> None:
    gc.freeze()  # what was imported before the fork is never garbage
    os.fsync = lambda fd: None  # a killed process loses nothing that the kernel has, and waiting for the disk is slow
    os.setsid()
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order.is_program:
        os.environ.update(PREFECT_API_URL=order.api_url, MARK=str(order.store), TMPDIR=str(order.temporary))
        os.execv(sys.executable, [sys.executable, "-m", "deployments.cli.main", *order.command])
    interruption.END_S = PATIENCE_S  # a busy test machine answers late
    interruption.end_on_signals()
    from prefect import settings as prefect_settings

    from flows.catalog_update import catalog_update
    from flows.nightly import nightly
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.settings import Settings
    from retrieval_core.store import leases

    vars(leases).update(order.lease_times)
    settings = Settings.load(store=str(order.store), threads=1, device="cpu")
    config = NightlyConfig.load(None, list(order.config))
    environment = deployed_environment() | {"PREFECT_API_URL": order.api_url}
    with prefect_settings.temporary_settings(
        {getattr(prefect_settings, name): environment[name] for name in environment}
    ):
        if order.command:
            sys.exit(main(order.command))
        elif order.item_ids:
            catalog_update(order.source, settings, config, changed=order.item_ids)
        else:
            nightly(order.source, settings, config)
