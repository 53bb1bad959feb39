"""The one decorator every task uses, and the progress lines of long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.tasks import TaskRunNameCallbackWithParameters

from retrieval_core.errors import Transient

P = ParamSpec("P")
R = TypeVar("R")

PROGRESS_EVERY_S = 10.0

# Not Prefect's tags: for each of those every task run asks the server whether it is limited.
_RUNNING: ContextVar[str] = ContextVar("running stage", default="")


def stage(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function the Prefect task `name`: transient failures are retried three times, others never.

    Prefect's own cache stays off: whether work exists already is decided by the store, which can check what it holds.
    A run of the task is called by its stage, its title and, of several shards, which: `embed: plan vectors`,
    `embed masked 3/12`.
    """

    def run_name(parameters: dict[str, Any]) -> str:
        return _called(name, parameters)

    return task(
        name=name,
        task_run_name=cast(TaskRunNameCallbackWithParameters, run_name),
        retries=3,
        retry_delay_seconds=[2, 10, 60],
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
    )


@contextmanager
def running_stage(name: str) -> Iterator[None]:
    """The tasks called meanwhile are of this stage."""
    before = _RUNNING.set(name)
    yield
    _RUNNING.reset(before)


def _called(name: str, parameters: Mapping[str, Any]) -> str:
    shard = parameters.get("shard")
    which = f" {shard.number + 1}/{shard.n_shards}" if shard is not None else ""
    called, running = f"{title(name, parameters)}{which}", _RUNNING.get()
    return called if called.startswith(running) else f"{running}: {called}"


def title(name: str, parameters: Mapping[str, Any]) -> str:
    """What a task does, for people: its name without the shard, and the view of the pictures where it is told one."""
    view = parameters.get("view") or parameters.get("variant")
    return f"{name.removesuffix(' shard')} {view}" if isinstance(view, str) else name.removesuffix(" shard")


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
