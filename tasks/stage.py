"""The one decorator every task uses, and the progress lines of long work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from retrieval_core.errors import Transient

P = ParamSpec("P")
R = TypeVar("R")

PROGRESS_EVERY_S = 10.0


def stage(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function the Prefect task `name`: transient failures are retried three times, others never.

    Prefect's own cache stays off: whether work exists already is decided by the store, which can check what it holds.
    """
    return task(
        name=name,
        retries=3,
        retry_delay_seconds=[2, 10, 60],
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
    )


def _is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    # raise_on_failure=False hands the exception back instead of raising it here.
    return isinstance(state.result(raise_on_failure=False), Transient)


def progress(what: str, total: int) -> Callable[[int], None]:
    """A callback `done(n)` that adds up and logs at most every ten seconds."""
    logger = get_run_logger()
    started = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S:
            last = now
            logger.info("%s: %d of %d, %.1f/s", what, done, total, done / (now - started))

    return advance
