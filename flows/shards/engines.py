"""Chooses what runs a task over the shards of a plan: this machine, one after the other, a Dask cluster, or work pools.

One shard fills the cores of a machine already. Only the work on shards leaves the flow's process, so the settings of
the run choose the engine here; a runner in the flow's decorator would be chosen before any settings are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture

from flows.shards.dask_cluster import check_cluster, run_on_cluster
from flows.shards.work_pools import check_pools, pool_of, run_in_pool
from flows.ui_artifacts import Progress, shard_progress
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.shards import WorkPlan
from retrieval_core.evaluate.search_shards import Machines
from retrieval_core.settings import Settings

R = TypeVar("R")


def each_shard(work: Task[..., R], settings: Settings, plan: WorkPlan, *shared: object) -> list[R]:
    """Run `work(settings, shard, *shared)` for each shard of a plan and return the results in order."""
    return in_shards(work, settings, plan.split(), *shared)


def in_shards(work: Task[..., R], settings: Settings, shards: Sequence[Value], *shared: object) -> list[R]:
    """Run `work(settings, shard, *shared)` for each of these shards and return the results in order.

    Raises what the task raises, and `BadConfig` when the cluster or the pools that the settings name are not there.
    """
    calls = [(settings, shard, *shared) for shard in shards]
    progress = shard_progress(work, calls)
    if settings.runner == "dask" and calls:
        return run_on_cluster(work, settings, calls, progress)
    if calls and (pool := pool_of(work, settings)):
        return run_in_pool(pool, work, settings, calls, progress)
    return [_counted(future, progress) for future in [work.submit(*call) for call in calls]]


def others_for(work: Task[..., Any], settings: Settings) -> Machines | None:
    """Return the other machines that make the shards of a task; None where the run makes them itself.

    Another task may ask for these shards: they are tasks of the flow that calls this, so that nothing of the task that
    asks is sent with each of them.
    """
    if settings.runner == "local" or (settings.runner == "pools" and not pool_of(work, settings)):
        return None
    of_flow = copy_context()
    return Machines(lambda shards: of_flow.run(in_shards, work, settings, shards))


def check_runner(settings: Settings) -> None:
    """Check before a run that its shards can run. Raises `BadConfig`, or `ServerUnavailable`."""
    if settings.runner == "dask":
        check_cluster(settings)
    elif settings.runner == "pools":
        check_pools(settings)


def _counted(future: PrefectFuture[R], progress: Progress) -> R:
    result = future.result()
    progress.advance()
    return result
