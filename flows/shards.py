"""Runs a task over the shards of a plan: one after the other on this machine, or on a Dask cluster.

One shard fills the cores of a machine already. Only the work on shards leaves the flow's process, so the settings of
the run choose the runner here; a runner in the flow's decorator would be chosen before any settings are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from prefect import Task
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import get_current_settings
from prefect.utilities.callables import get_call_parameters

from flows.run import Runner
from flows.ui_artifacts import Progress, shard_progress
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.shards import WorkPlan
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings
from retrieval_core.store.s3 import LOOPBACK

R = TypeVar("R")

CONNECT_TIMEOUT_S = 60.0  # until the scheduler answers, and again until it has a worker


class _DaskFuture(Protocol):
    """The future of a task on the cluster, which wraps Dask's own."""

    @property
    def wrapped_future(self) -> Any: ...


def each_shard(work: Task[..., R], settings: Settings, plan: WorkPlan, *shared: object) -> list[R]:
    """Run `work(settings, shard, *shared)` for each shard of a plan and return the results in order."""
    return in_shards(work, settings, plan.split(), *shared)


def in_shards(work: Task[..., R], settings: Settings, shards: Sequence[Value], *shared: object) -> list[R]:
    """Run `work(settings, shard, *shared)` for each of these shards and return the results in order.

    Raises `BadConfig` when the cluster that the settings name cannot be reached.
    """
    calls = [(settings, shard, *shared) for shard in shards]
    progress = shard_progress(work, calls)
    if settings.runner == "local" or not calls:
        return [_counted(future, progress) for future in [work.submit(*call) for call in calls]]
    with _cluster(settings.dask_address) as runner:
        futures = [runner.submit(work, get_call_parameters(work.fn, call, {})) for call in calls]
        for future in as_completed(futures):
            _fetch(future)
            progress.advance()
        return [future.result() for future in futures]


def check_runner(settings: Settings) -> None:
    """Check before a run that its shards can run. Raises `BadConfig` when the cluster cannot be reached."""
    if settings.runner == "dask":
        with _cluster(settings.dask_address):
            pass


def _counted(future: PrefectFuture[R], progress: Progress) -> R:
    result = future.result()
    progress.advance()
    return result


@contextmanager
def _cluster(address: str) -> Iterator[Runner]:
    """Connect to a Dask cluster that has at least one worker."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise BadConfig("runner dask needs prefect-dask: pip install 'vitrine[dask]'") from error
    host = urlsplit(address).hostname
    if not address.startswith("tls://") and host not in LOOPBACK:
        raise BadConfig(f"{address} has neither encryption nor a login; set up TLS as docs/scaling.md shows: tls://…")
    if not get_current_settings().api.url:
        raise BadConfig(
            "runner dask needs a Prefect server that every worker reaches: "
            "start one with `prefect server start` and set PREFECT_API_URL"
        )
    with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_TIMEOUT_S}) as runner:
        try:
            runner.client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except OSError as error:  # TimeoutError is one
            raise BadConfig(
                f"no Dask cluster with a worker at {address}: {error}; start `dask scheduler` and `dask "
                "worker`, as docs/scaling.md shows, or set VITRINE_RUNNER=local"
            ) from error
        yield cast(Runner, runner)


def _fetch(future: PrefectFuture[Any]) -> None:
    """Take a result from its worker and release it there: Dask recomputes what a worker still holds when it dies."""
    future.result()
    cast(_DaskFuture, future).wrapped_future.release()
