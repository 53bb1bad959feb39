"""What every flow shares: where its tasks run, its lease on the store, and the clock of its stages."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from retrieval_core.config import NightlyConfig
from retrieval_core.store.leases import shared_lease
from tasks.stage import running_stage

P = ParamSpec("P")
R = TypeVar("R")
Runner = TaskRunner[PrefectFuture[Any]]

DEFAULTS = NightlyConfig()  # a default, because Prefect's form for a parameter that may be None is awkward
RUNNER = cast(Runner, ThreadPoolTaskRunner(max_workers=1))


def holds_lease(run: Callable[P, R]) -> Callable[P, R]:
    """Hold a lease on the store of the run's `settings` while it lasts, so that no vacuum or repair interferes."""
    signature, holder = inspect.signature(run), f"the run {run.__name__}"

    @wraps(run)
    def with_lease(*args: P.args, **kwargs: P.kwargs) -> R:
        settings = signature.bind(*args, **kwargs).arguments["settings"]
        with shared_lease(settings.open_store(), holder):
            return run(*args, **kwargs)

    # Prefect would resolve the annotations in this module instead of the run's.
    with_lease.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
    return with_lease


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
        self.seconds[name] = round(time.perf_counter() - started, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._started, 3)}
