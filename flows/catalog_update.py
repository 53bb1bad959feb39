"""An update of the catalogue by event or by hand: only the items that it names are read again."""

from __future__ import annotations

from prefect import flow

from flows.pipeline import publish_catalog
from flows.preflight import preflight
from flows.queued_updates import merging_queued_updates
from flows.run import DEFAULTS, RUNNER, holds_lease
from flows.summary import RunSummary
from flows.ui_artifacts import show_run
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.ingest.change import Change
from retrieval_core.settings import Settings
from tasks.ingest import update_catalog
from tasks.preflight import check_before_run


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
    source: a name in the wrong list does no harm, and an unknown one is passed over with a warning. Runs of the same
    deployment that wait in the queue are merged into this one.

    Args:
        source: KIND:URI of the catalogue, as the nightly reads it.
        settings: where the store is and how many threads to use.
        config: what to make, stage by stage; the same as the nightly's.
        added: items that are new.
        changed: items with another picture or other metadata.
        removed: items that were removed; they may be removed already.
        manifest_uri: a .csv or .parquet file with a column item_id that names more items.
    """
    preflight(check_before_run, settings, source, config)
    change = Change(added=added, changed=changed, removed=removed, manifest_uri=manifest_uri)
    with merging_queued_updates(change) as merged:
        summary = _publish_change(source, settings, config, merged)
    show_run("catalog-update", summary, "What the update did")
    return summary


def _publish_change(source: str, settings: Settings, config: NightlyConfig, change: Change) -> RunSummary:
    store = settings.open_store()

    def ingest(production: Release | None) -> IngestOutcome:
        base = production or releases.read_release(store, releases.LATEST)
        if base is None:
            raise BadConfig(f"{store.url} has no release yet, so there is nothing to update; run the nightly first")
        return update_catalog(settings, source, base.catalog, change, config.ingest)

    return publish_catalog(source, settings, config, ingest)
