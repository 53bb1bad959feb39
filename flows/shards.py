"""The shards of a plan: one after the other on this machine, whose cores one shard fills already, or on a cluster.

Only the work on shards leaves the flow's process, so who does it is settled here, by the settings that the run was
given. A runner in the flow's decorator would be settled before anybody gives any.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from prefect import Task
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.callables import get_call_parameters

from flows.story import Progress, shard_progress
from retrieval_core.artifacts.growing_sets import WorkPlan
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings
from retrieval_core.store.leases import at_work

P = ParamSpec("P")
R = TypeVar("R")
Runner = TaskRunner[PrefectFuture[Any]]

RUNNER = cast(Runner, ThreadPoolTaskRunner(max_workers=1))
CONNECT_TIMEOUT_S = 60.0  # until the scheduler answers, and again until it has a worker


class _OnCluster(Protocol):
    """A future of a task on the cluster, and Dask's own within it."""

    @property
    def wrapped_future(self) -> Any: ...


def each_shard(work: Task[..., R], settings: Settings, plan: WorkPlan, *shared: object) -> list[R]:
    """What a task makes of each shard of a plan, in their order."""
    return in_shards(work, settings, plan.split(), *shared)


def in_shards(work: Task[..., R], settings: Settings, shards: Sequence[Value], *shared: object) -> list[R]:
    """What `work(settings, shard, *shared)` makes of these shards, in their order.

    Raises `BadConfig` where the settings name a cluster that is not there.
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


def _counted(future: PrefectFuture[R], progress: Progress) -> R:
    made = future.result()
    progress.advance()
    return made


def check_runner(settings: Settings) -> None:
    """Find out before a run whether its shards can be made. Raises `BadConfig` for a cluster that is not there."""
    if settings.runner == "dask":
        with _cluster(settings.dask_address):
            pass


@contextmanager
def _cluster(address: str) -> Iterator[Runner]:
    """A connection to a Dask cluster that has a worker."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise BadConfig("runner dask needs prefect-dask: pip install 'vitrine[dask]'") from error
    if not get_current_settings().api.url:
        raise BadConfig(
            "runner dask needs a Prefect server that every worker reaches: "
            "start one with `prefect server start` and set PREFECT_API_URL"
        )
    with DaskTaskRunner(address=address, client_kwargs={"timeout": CONNECT_TIMEOUT_S}) as runner:
        try:
            runner.client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except OSError as error:  # a time-out is one
            raise BadConfig(
                f"no Dask cluster with a worker at {address}: {error}; start `dask scheduler` and `dask worker "
                "--nthreads 1`, or set VITRINE_RUNNER=local"
            ) from error
        yield cast(Runner, runner)


def _fetch(future: PrefectFuture[Any]) -> None:
    """Take a result from its worker and let the cluster forget it: what a worker holds is made again when it dies."""
    future.result()
    cast(_OnCluster, future).wrapped_future.release()


def announced(run: Callable[P, R]) -> Callable[P, R]:
    """Say in the store of the run's `settings` that it goes on, so that no vacuum or repair gets in its way."""
    signature, what = inspect.signature(run), f"the run {run.__name__}"

    @wraps(run)
    def announcing(*args: P.args, **kwargs: P.kwargs) -> R:
        settings = signature.bind(*args, **kwargs).arguments["settings"]
        with at_work(settings.open_store(), what):
            return run(*args, **kwargs)

    # Prefect would look for the types that annotations name in this module instead of the run's.
    announcing.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
    return announcing
