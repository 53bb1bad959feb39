"""A burst of changes made by one run: the runs that wait behind it are taken along, and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

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
MAX_TAKEN = 200  # what Prefect lists in one answer


@contextmanager
def with_waiting(own: Change) -> Iterator[Change]:
    """`own` and what the runs wait for that differ from this one in names alone; they are cancelled at the end.

    Where this run fails they stay in the queue, so that nothing is lost; a run that is taken along twice does no harm.
    Outside a deployment nobody waits.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if not isinstance(run, FlowRun) or run.deployment_id is None:
        yield own
        return
    with get_client(sync_client=True) as client:
        waiting = {other.id: change for other in _waiting(client, run) if (change := _change(run, other))}
        if waiting:
            get_run_logger().info("taking along what %d waiting runs were told", len(waiting))
        yield merge_changes([own, *waiting.values()])[0] if waiting else own
        for name in waiting:
            _end(client, name, run)


def _waiting(client: SyncPrefectClient, run: FlowRun) -> list[FlowRun]:
    """The runs of the same deployment whose time has come, in the order they were asked for."""
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        limit=MAX_TAKEN,
    )
    now = datetime.now(UTC)
    due = [other for other in found if other.expected_start_time and other.expected_start_time <= now]
    return sorted(due, key=lambda other: (other.expected_start_time, other.id))


def _change(run: FlowRun, other: FlowRun) -> Change | None:
    """What another run was told; None where it was told more than names, or something that is no change."""
    if any(run.parameters.get(key) != other.parameters.get(key) for key in _questions(run, other)):
        return None
    try:
        change = Change.model_validate({name: other.parameters.get(name, ()) for name in _NAMES})
    except ValidationError:
        return None  # it fails by itself, and says why
    return None if change.is_empty or other.parameters.get("manifest_uri") else change


def _questions(run: FlowRun, other: FlowRun) -> set[str]:
    """The parameters that have to be equal."""
    return {*run.parameters, *other.parameters} - {*_NAMES, "manifest_uri"}


def _end(client: SyncPrefectClient, name: UUID, run: FlowRun) -> None:
    client.set_flow_run_state(name, Cancelled(message=f"Its items were taken along by run {run.name}."), force=True)
