"""An update of the catalogue by event or by hand: only the items that it names are read again.

The updates that wait in the queue are merged into the one that runs, so that a burst of events costs one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from prefect import flow
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

from flows.pictures import update_catalog
from flows.pipeline import publish_catalog
from flows.preflight import preflight, with_backbone
from flows.run import DEFAULTS, RUNNER, holds_lease
from flows.summary import RunSummary
from flows.ui_artifacts import show_run
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.ingest.change import Change, merge_changes
from retrieval_core.settings import Settings
from tasks.preflight import check_before_run

_NAMES = ("added", "changed", "removed")
MAX_MERGED = 200  # Prefect lists no more in one answer


@flow(name="catalog-update", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def catalog_update(
    source: str,
    settings: Settings,
    config: NightlyConfig = DEFAULTS,
    added: tuple[str, ...] = (),
    changed: tuple[str, ...] = (),
    removed: tuple[str, ...] = (),
    manifest_uri: str = "",
) -> RunSummary:
    """Make the named items searchable as the source has them now, and publish unless search got worse.

    An item is named by its id or by the URI of its picture. Whether it was added, changed or removed is read from the
    source: a name in the wrong list does no harm, an unknown one is passed over and noted. Runs of the same
    deployment that wait in the queue are merged into this one.

    Args:
        source: KIND:URI of the catalogue, as the nightly reads it.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        config: what to make, stage by stage; the same as the nightly's.
        added: items that are new.
        changed: items with another picture or other metadata.
        removed: items that were removed; they may be removed already.
        manifest_uri: a .csv, .tsv or .parquet file with a column item_id that names more items.
    """
    preflight(check_before_run, settings, source, config)
    config = with_backbone(settings, config)
    change = Change(added=added, changed=changed, removed=removed, manifest_uri=manifest_uri)
    with _merging_queued_updates(change) as merged:
        summary = _publish_change(source, settings, config, merged)
    show_run("catalog-update", summary, "What the update did")
    return summary


def _publish_change(source: str, settings: Settings, config: NightlyConfig, change: Change) -> RunSummary:
    store = settings.open_store()

    def ingest(production: Release | None) -> IngestOutcome:
        base = production or releases.read_release(store, releases.LATEST)
        if base is None:
            raise BadConfig(f"{store.url} has no release yet, so there is nothing to update; run the nightly first")
        return update_catalog(settings, source, base, change, config.ingest)

    return publish_catalog(source, settings, config, ingest)


@contextmanager
def _merging_queued_updates(change: Change) -> Iterator[Change]:
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
            # By its name no automation takes it for a run that was refused.
            message = f"Its items were merged into run {run.name}."
            client.set_flow_run_state(run_id, Cancelled(name="Merged", message=message), force=True)


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
