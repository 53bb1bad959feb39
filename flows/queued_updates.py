"""Merge the updates that wait in the queue into the one that runs, so that a burst of events costs one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled
from pydantic import ValidationError

from retrieval_core.ingest.change import Change, merge_changes

_NAMES = ("added", "changed", "removed")
MAX_MERGED = 200  # Prefect lists no more in one answer


@contextmanager
def merging_queued_updates(change: Change) -> Iterator[Change]:
    """Give `change` merged with those of the queued runs that differ from this one in names only; then cancel these.

    If this run fails they stay in the queue, so no change is lost; merging a run twice does no harm. Outside a
    deployment there is no queue.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if not isinstance(run, FlowRun) or run.deployment_id is None:
        yield change
        return
    with get_client(sync_client=True) as client:
        queued = {other.id: merged for other in _queued_runs(client, run) if (merged := _queued_change(run, other))}
        if queued:
            get_run_logger().info("merging the changes of %d queued runs", len(queued))
        yield merge_changes([change, *queued.values()])[0] if queued else change
        for run_id in queued:
            message = f"Its items were merged into run {run.name}."
            client.set_flow_run_state(run_id, Cancelled(message=message), force=True)


def _queued_runs(client: SyncPrefectClient, run: FlowRun) -> list[FlowRun]:
    """The due runs of the same deployment, earliest first."""
    scheduled = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        limit=MAX_MERGED,
    )
    now = datetime.now(UTC)
    due = [other for other in scheduled if other.expected_start_time and other.expected_start_time <= now]
    return sorted(due, key=lambda other: (other.expected_start_time, other.id))


def _queued_change(run: FlowRun, other: FlowRun) -> Change | None:
    """The change of a queued run; None if it differs in more than names, or is not a valid change."""
    compared = {*run.parameters, *other.parameters} - {*_NAMES, "manifest_uri"}
    if any(run.parameters.get(key) != other.parameters.get(key) for key in compared):
        return None
    try:
        change = Change.model_validate({name: other.parameters.get(name, ()) for name in _NAMES})
    except ValidationError:
        return None  # it will fail by itself, with a message
    return None if change.is_empty or other.parameters.get("manifest_uri") else change
