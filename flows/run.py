"""What every flow shares: where its tasks run, its lease on the store, and the clock of its stages."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import AwaitingRetry, Cancelled, Crashed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from retrieval_core.config.stages import NightlyConfig
from retrieval_core.store.leases import end_all, shared_lease
from retrieval_core.store.signals import call_on_signal
from tasks.stage import running_stage

P = ParamSpec("P")
R = TypeVar("R")
Runner = TaskRunner[PrefectFuture[Any]]

DEFAULTS = NightlyConfig()  # a default, because Prefect's form for a parameter that may be None is awkward
RUNNER = cast(Runner, ThreadPoolTaskRunner(max_workers=1))

RESCHEDULE = signal.SIGUSR1  # what a worker that is stopped sends to its runs
REPORT_S = 10.0  # for Prefect's server to answer
_REASONS = {RESCHEDULE: "Its worker was stopped; the next worker resumes it."}

LEASE: ContextVar[str] = ContextVar("lease")  # key of the lease that the run of this context holds on its store
_active: dict[str, Context] = {}  # the runs of this process by id, each with the context that has its Prefect client
_is_ending = threading.Event()


def holds_lease(run: Callable[P, R]) -> Callable[P, R]:
    """Hold a lease on the store of the run's `settings` while it lasts, so that no vacuum or repair interferes."""
    signature, holder = inspect.signature(run), f"the run {run.__name__}"

    @wraps(run)
    def with_lease(*args: P.args, **kwargs: P.kwargs) -> R:
        settings = signature.bind(*args, **kwargs).arguments["settings"]
        with interruptible_run(), shared_lease(settings.open_store(), holder) as lease, _lease_of_context(lease):
            return run(*args, **kwargs)

    # Prefect would resolve the annotations in this module instead of the run's.
    with_lease.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
    return with_lease


@contextmanager
def _lease_of_context(key: str) -> Iterator[None]:
    """Set `LEASE`; a flow that named it itself could not be sent to Dask, which cannot pickle it."""
    token = LEASE.set(key)
    try:
        yield
    finally:
        LEASE.reset(token)


def report_interruption(number: signal.Signals) -> None:
    """Tell Prefect that the runs of this process were ended by a signal.

    They are cancelled by Ctrl-C, wait for a worker to resume them after `RESCHEDULE`, and have crashed otherwise. The
    process has to end afterwards: its flows never return.
    """
    _is_ending.set()
    new_state = {signal.SIGINT: Cancelled, RESCHEDULE: AwaitingRetry}.get(number, Crashed)
    for run_id, context in list(_active.items()):
        client = context.run(get_client, sync_client=True)
        client.set_flow_run_state(run_id, new_state(message=_REASONS.get(number, f"It was ended by {number.name}.")))


@contextmanager
def interruptible_run() -> Iterator[None]:
    """Let the run of this process, which may be repeated, be ended from outside with its state told to Prefect."""
    run_id = flow_run.id
    if not run_id:  # called as a function
        yield
        return
    _active[run_id] = copy_context()
    if os.environ.get("PREFECT__FLOW_RUN_ID") == run_id and threading.current_thread() is threading.main_thread():
        call_on_signal([RESCHEDULE], _end_to_resume)
    try:
        yield
    finally:
        if _is_ending.is_set():
            threading.Event().wait()  # Prefect would replace the reported state by that of the lost lease
        del _active[run_id]


def _end_to_resume(number: signal.Signals) -> None:
    """End the lease and this process, which a worker started; exit code 0 if Prefect knows that it is to resume."""
    _is_ending.set()
    end_all()
    report = threading.Thread(target=report_interruption, args=(number,), daemon=True)
    report.start()
    report.join(REPORT_S)
    os._exit(int(report.is_alive()))


class Clock:
    """Measures seconds per stage, in the order the stages ran; the names of a stage's task runs begin with its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        get_run_logger().info("stage %s", name)
        with running_stage(name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._started, 3)}
