"""The shards of a plan, one after the other: a shard's own threads decode and embed on every core already."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from prefect import Task, unmapped
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from retrieval_core.sets import WorkPlan
from retrieval_core.settings import Settings

R = TypeVar("R")

RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=1))


def each_shard(work: Task[..., R], settings: Settings, plan: WorkPlan, *shared: object) -> list[R]:
    """What a task makes of each shard of a plan, in their order."""
    arguments = (unmapped(argument) for argument in shared)
    futures = work.map(unmapped(settings), unmapped(plan), range(len(plan.shards)), *arguments)
    return [future.result() for future in futures]
