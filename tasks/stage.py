"""The decorator of every task: retries and names of runs; and what the core logs, forwarded to the log of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.tasks import TaskRunNameCallbackWithParameters

from retrieval_core.errors import Transient

P = ParamSpec("P")
R = TypeVar("R")

# Not a tag of Prefect: for each tag a task run asks the server whether runs of it are limited.
_RUNNING: ContextVar[str] = ContextVar("running stage", default="")


def stage(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function the Prefect task `name`; transient failures are retried three times, others never.

    Prefect's own cache is off: the store decides whether results exist already, since it can check them. A run of the
    task is named after its stage, its title and the number of its shard: `embed: plan vectors`, `embed masked 3/12`.
    """

    def run_name(parameters: dict[str, Any]) -> str:
        return _run_name(name, parameters)

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
    """Name the runs of the tasks called within the block after this stage."""
    token = _RUNNING.set(name)
    yield
    _RUNNING.reset(token)


def _run_name(name: str, parameters: Mapping[str, Any]) -> str:
    shard, stage_name = parameters.get("shard"), _RUNNING.get()
    number = f" {shard.number + 1}/{shard.n_shards}" if shard is not None else ""
    run_name = f"{title(name, parameters)}{number}"
    return run_name if run_name.startswith(stage_name) else f"{stage_name}: {run_name}"


def title(name: str, parameters: Mapping[str, Any]) -> str:
    """Return what a task does, for people: its name without "shard", and the view of the pictures if it has one."""
    view = parameters.get("view")
    return f"{name.removesuffix(' shard')} {view}" if isinstance(view, str) else name.removesuffix(" shard")


def _is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    # raise_on_failure=False returns the exception instead of raising it here.
    return isinstance(state.result(raise_on_failure=False), Transient)


class _RunLog(logging.Handler):
    """Sends what the core logs to the log of the Prefect run it is part of; outside of a run to the root's handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            run_log = get_run_logger()
        except MissingContextError:
            if logging.root.isEnabledFor(record.levelno):
                for handler in logging.root.handlers:
                    if handler not in _CORE_LOG.handlers and record.levelno >= handler.level:
                        handler.handle(record)
        else:
            run_log.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)


_CORE_LOG = logging.getLogger("retrieval_core")
_CORE_LOG.setLevel(logging.INFO)
_CORE_LOG.addHandler(_RunLog())
_CORE_LOG.propagate = False
