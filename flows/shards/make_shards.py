"""The flow `make-shards`, which a worker of a pool runs: makes the shards of one order of another run."""

from __future__ import annotations

from typing import Any

from prefect import State, Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.responses import SetStateStatus
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Pending

from flows.run import RUNNER, interruptible_run
from flows.shards.orders import Order, Outcome
from retrieval_core.errors import LeaseLost, NotFound, VitrineError
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.leases import is_held, shared_lease
from tasks.classify import classify_shard
from tasks.evaluate import search_shard
from tasks.head import boost_shard
from tasks.index import build_index_shard
from tasks.ingest import read_shard
from tasks.pictures import mask_and_embed_shard
from tasks.reduce import reduce_shard
from tasks.stage import running_stage

NAME = "make-shards"
TAKEN_OVER = "TakenOver"  # the state of a run that never started; its message is the id of the run that makes its range
# By the stage that `Settings.pools` names: the tasks whose shards may be made in pools.
TASKS: dict[str, Task[..., Any]] = {
    "ingest": read_shard,
    "embed": mask_and_embed_shard,
    "classify": classify_shard,
    "head": boost_shard,
    "reduce": reduce_shard,
    "index": build_index_shard,
    "evaluate": search_shard,
}


@flow(name=NAME, task_runner=RUNNER, validate_parameters=True)
def make_shards(settings: Settings, order: str) -> State[Any] | None:
    """Make the shards of an order that have no outcome yet, and store what comes of each.

    Then take over the orders of the same stage that no worker has started: a process takes seconds to start. The run is
    cancelled as soon as the run that waits for these shards has ended. Raises what the task raises.

    Args:
        settings: where the store is; the rest is as this machine's environment says.
        order: the key of the order in the store.
    """
    try:
        _make(settings, order)
    except LeaseLost as error:
        return Cancelled(message=str(error))
    return None


def _make(settings: Settings, key: str) -> None:
    store = settings.open_store()
    order = _read(store, key)
    with interruptible_run(), shared_lease(store, f"the run {NAME}", within=order.lease), running_stage(order.stage):
        _make_missing(store, settings, order)
        while next_key := _take_over():
            order = _read(store, next_key)
            get_run_logger().info("taking over %s", order.title)
            _make_missing(store, settings, order)


def _read(store: Store, key: str) -> Order:
    try:
        return Order.read(store, key)
    except NotFound as error:
        raise LeaseLost(f"{key} is no order any more: the run that it is part of has ended") from error


def _make_missing(store: Store, settings: Settings, order: Order) -> None:
    work = TASKS[order.stage]
    done = order.numbers_done(store)
    for number, call in enumerate(order.calls(work, settings)):
        if number in done:
            continue
        if not is_held(store, order.lease):
            raise LeaseLost(f"{order.title}: the run that it is part of has ended")
        try:
            outcome = Outcome.of_result(work, work(*call))
        except LeaseLost:
            raise
        except VitrineError as error:
            order.put_outcome(store, number, Outcome.of_error(error))
            raise
        order.put_outcome(store, number, outcome)


def _take_over() -> str | None:
    """Return the key of an order of the run that waits for this one, whose own run no worker has and none will get."""
    if not (parent := flow_run.parent_flow_run_id):
        return None
    waiting = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]),
        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled", "Late"])),
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=waiting):
            # Workers claim a run so, too: of all who try, one succeeds.
            if client.set_flow_run_state(run.id, Pending()).status == SetStateStatus.ACCEPT:
                client.set_flow_run_state(run.id, Completed(name=TAKEN_OVER, message=str(flow_run.id)))
                return str(run.parameters["order"])
    return None
