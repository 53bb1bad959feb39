"""Runs the shards of a plan in Prefect work pools: ranges of them as runs of the deployment `make-shards` of a pool.

Prefect brings the runs to the workers, whatever these are: processes, containers, jobs of Kubernetes or of a cloud.
What came of each shard is in the store as soon as it was made. So a run that died, was cancelled or evicted costs the
shard in its hands, and the rest of its range is submitted again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType, WorkerStatus, WorkPool
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed

from flows.run import LEASE
from flows.shards.make_shards import NAME, TAKEN_OVER, TASKS
from flows.shards.orders import Order, Outcome, delete_orders, write_orders
from flows.ui_artifacts import Progress
from retrieval_core.errors import BadConfig, Permanent, ServerUnavailable
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

R = TypeVar("R")

RANGES_PER_SLOT = 2  # runs that a pool makes at the same time have slots: the faster then makes more ranges
MAX_RANGE = 16  # shards
MAX_DEATHS = 4  # of runs at the same shard
POLLS_S = (0.2, 2.0)  # between two looks at the runs: the longer nothing has ended, the fewer
POLL_SHARE = 0.05  # of the time since a range ended
PATIENCE_S = 600.0  # without any worker, or until a run that a worker took has started


def check_pools(settings: Settings) -> None:
    """Check that each pool has a deployment and a worker. Raises `BadConfig`, or `ServerUnavailable`."""
    if not get_current_settings().api.url:
        raise BadConfig(
            "runner pools needs the Prefect server of the pools: set PREFECT_API_URL, or VITRINE_RUNNER=local"
        )
    with _server() as client:
        for name in settings.pools.names():
            pool = _read_pool(client, name)
            if pool.is_paused:
                raise BadConfig(f"the work pool {name} is paused; resume it with `prefect work-pool resume {name}`")
            if not _has_worker(client, pool):
                raise BadConfig(
                    f"no worker takes the runs of the pool {name}; start one with `python -m deployments.worker --pool "
                    f"{name} --limit 1`, as docs/scaling.md shows, or set VITRINE_RUNNER=local"
                )


def pool_of(work: Task[..., Any], settings: Settings) -> str | None:
    """Return the pool that makes the shards of a task; None where the run does."""
    return settings.pools.of(_stage_of(work)) if settings.runner == "pools" else None


def run_in_pool(
    pool_name: str, work: Task[..., R], settings: Settings, calls: Sequence[tuple[Any, ...]], progress: Progress
) -> list[R]:
    """Run `work(*call)` for each of the calls in a pool and return the results in order.

    Raises what the task raises, `Permanent` where a shard ends one process after the other, `BadConfig` where the pool
    or its deployment is missing, and `ServerUnavailable` where no worker is left.
    """
    store = settings.open_store()
    with _server() as client:
        _cancel_ranges(client)  # of an attempt of this run that was stopped
        pool = _read_pool(client, pool_name)
        n_ranges = min(len(calls), max(RANGES_PER_SLOT * _n_slots(client, pool), -(-len(calls) // MAX_RANGE)))
        orders = write_orders(store, _stage_of(work), work, LEASE.get(), calls, n_ranges)
        results: dict[str, list[R]] = {}
        try:
            ranges = _Ranges(client, pool, store, settings)
            for order in orders:
                ranges.submit(order)
            for order, outcomes in ranges.made():
                results[order.key] = [outcomes[number].returned(work) for number in sorted(outcomes)]
                for _ in order.shards:
                    progress.advance()
        finally:
            with suppress(httpx.HTTPError, PrefectException):  # they end by themselves once the lease has ended
                _cancel_ranges(client)
            delete_orders(store, orders)
    return [result for order in orders for result in results[order.key]]


class _Ranges:
    """The ranges of a stage that are not made yet, by the runs of the pool's deployment that make them."""

    def __init__(self, client: SyncPrefectClient, pool: WorkPool, store: Store, settings: Settings) -> None:
        self._client, self._pool, self._store = client, pool, store
        self._settings = {"store": store.url, "s3_endpoint_url": settings.s3_endpoint_url}
        self._orders: dict[UUID, list[Order]] = {}
        self._deaths = Counter[tuple[str, int]]()
        self._had_worker_s = time.monotonic()

    def submit(self, order: Order) -> None:
        """Submit a range; the shards that have an outcome are not made again."""
        parameters = {"settings": self._settings, "order": order.key}
        name = f"{NAME}/{self._pool.name}"
        run = cast(FlowRun, run_deployment(name, parameters=parameters, flow_run_name=order.title, timeout=0))
        self._orders[run.id] = [order]

    def made(self) -> Iterator[tuple[Order, dict[int, Outcome]]]:
        """Yield each range as soon as it is made, or a shard failed, with what came of its shards.

        Ranges whose run died are submitted again. Raises `Permanent` and `ServerUnavailable`.
        """
        waiting_since_s = time.monotonic()
        while self._orders:
            shortest_s, longest_s = POLLS_S
            time.sleep(min(longest_s, max(shortest_s, POLL_SHARE * (time.monotonic() - waiting_since_s))))
            self._check_worker()
            for run in self._ended():
                waiting_since_s = time.monotonic()
                orders = self._orders.pop(run.id)
                if run.state_name == TAKEN_OVER and run.state and (maker := UUID(run.state.message)) in self._orders:
                    self._orders[maker] += orders
                    continue
                for order in orders:
                    outcomes = order.outcomes(self._store)
                    missing = set(range(len(order.shards))) - outcomes.keys()
                    if missing and not any(outcome.error for outcome in outcomes.values()):
                        self._count_death(run, order, min(missing))
                        self.submit(order)
                    else:
                        yield order, outcomes

    def _ended(self) -> list[FlowRun]:
        """Return the runs that have ended, those taken over first; those that never started are ended before."""
        types = [*TERMINAL_STATES, StateType.PENDING]
        of_ranges = FlowRunFilter(
            id=FlowRunFilterId(any_=list(self._orders)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)),
        )
        ended = []
        for run in self._client.read_flow_runs(flow_run_filter=of_ranges):
            if run.state_type != StateType.PENDING:
                ended.append(run)
            elif run.state and datetime.now(UTC) - run.state.timestamp > timedelta(seconds=PATIENCE_S):
                self._client.set_flow_run_state(run.id, Crashed(message="Its worker never started it."), force=True)
        return sorted(ended, key=lambda run: run.state_name != TAKEN_OVER)

    def _count_death(self, run: FlowRun, order: Order, number: int) -> None:
        """Note that a run ended without an outcome of the shard in its hands. Raises `Permanent` after `MAX_DEATHS`."""
        what = f"{order.title}, run {run.name}: {run.state.message if run.state else 'no state'}"
        if run.state_type == StateType.FAILED:
            raise Permanent(f"{what}; its log on Prefect's page says more")
        self._deaths[order.key, number] += 1
        if self._deaths[order.key, number] == MAX_DEATHS:
            raise Permanent(
                f"{MAX_DEATHS} processes ended at shard {number + 1} of {len(order.shards)} of {what}; they may lack "
                "memory, or a picture ends its decoder: the logs of the workers say more"
            )
        get_run_logger().warning("submitting again what is left of %s", what)

    def _check_worker(self) -> None:
        if _has_worker(self._client, self._pool):
            self._had_worker_s = time.monotonic()
        elif time.monotonic() - self._had_worker_s > PATIENCE_S:
            raise ServerUnavailable(
                f"the pool {self._pool.name} has had no worker for {PATIENCE_S / 60:.0f} minutes; start one, and this "
                "run again: it resumes where it stopped"
            )


def _stage_of(work: Task[..., Any]) -> str:
    return next(stage for stage, task in TASKS.items() if task is work)


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    """Open a client of Prefect's server, whose failures are `ServerUnavailable`."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPError as error:
        raise ServerUnavailable(f"Prefect's server at {get_current_settings().api.url} fails: {error}") from error


def _read_pool(client: SyncPrefectClient, name: str) -> WorkPool:
    """Return a pool that has a deployment of `make-shards`. Raises `BadConfig` otherwise."""
    try:
        pool = client.read_work_pool(name)
        client.read_deployment_by_name(f"{NAME}/{name}")
    except ObjectNotFound as error:
        raise BadConfig(
            f"Prefect's server has no work pool {name} with a deployment {NAME}; `python -m deployments.register` "
            "makes both for every pool that VITRINE_POOLS names"
        ) from error
    return pool


def _workers(client: SyncPrefectClient, pool: WorkPool) -> int:
    workers = client.read_workers_for_work_pool(pool.name)
    return sum(worker.status == WorkerStatus.ONLINE for worker in workers)


def _has_worker(client: SyncPrefectClient, pool: WorkPool) -> bool:
    return pool.is_push_pool or pool.is_managed_pool or _workers(client, pool) > 0


def _n_slots(client: SyncPrefectClient, pool: WorkPool) -> int:
    """Return how many runs the pool makes at the same time: as many as it allows, or one a worker."""
    return pool.concurrency_limit or max(1, _workers(client, pool))


def _cancel_ranges(client: SyncPrefectClient) -> None:
    """Cancel the runs that this run submitted, as far as they have not ended."""
    types = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    submitted = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)),
    )
    for run in client.read_flow_runs(flow_run_filter=submitted):
        client.set_flow_run_state(run.id, Cancelling())
