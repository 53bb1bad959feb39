"""The flow `make-shards`, which a worker of a pool runs: makes the shards of one order of another run."""

from __future__ import annotations

from typing import Any

from prefect import State, Task, flow
from prefect.states import Cancelled

from flows.run import RUNNER, interruptible_run
from flows.shards.orders import Order, Outcome
from retrieval_core.errors import LeaseLost, NotFound, VitrineError
from retrieval_core.settings import Settings
from retrieval_core.store.leases import is_held, shared_lease
from tasks.classify import classify_shard
from tasks.head import boost_shard
from tasks.index import build_index_shard
from tasks.ingest import read_shard
from tasks.pictures import mask_and_embed_shard
from tasks.reduce import reduce_shard
from tasks.stage import running_stage

NAME = "make-shards"
# By the stage that `Settings.pools` names: the tasks whose shards may be made in pools.
TASKS: dict[str, Task[..., Any]] = {
    "ingest": read_shard,
    "embed": mask_and_embed_shard,
    "classify": classify_shard,
    "head": boost_shard,
    "reduce": reduce_shard,
    "index": build_index_shard,
}


@flow(name=NAME, task_runner=RUNNER, validate_parameters=True)
def make_shards(settings: Settings, order: str) -> State[Any] | None:
    """Make the shards of an order that have no outcome yet, and store what comes of each.

    The run is cancelled as soon as the run that waits for these shards has ended. Raises what the task raises.

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
    try:
        order = Order.read(store, key)
    except NotFound as error:
        raise LeaseLost(f"{key} is no order any more: the run that it is part of has ended") from error
    work = TASKS[order.stage]
    with interruptible_run(), shared_lease(store, f"the run {NAME}", within=order.lease), running_stage(order.stage):
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
