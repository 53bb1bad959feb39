"""The nightly run: make the whole catalogue searchable as the source has it now."""

from __future__ import annotations

from prefect import flow

from flows.pictures import snapshot_catalog
from flows.pipeline import publish_catalog
from flows.preflight import preflight, with_backbone
from flows.run import DEFAULTS, RUNNER, holds_lease
from flows.summary import RunSummary
from flows.ui_artifacts import show_run
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.settings import Settings
from tasks.preflight import check_before_run
from tasks.publish import send_first_screen


@flow(name="nightly", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def nightly(source: str, settings: Settings, config: NightlyConfig = DEFAULTS) -> RunSummary:
    """Bring the search up to date with the catalogue, measure it, and publish unless it got worse.

    Args:
        source: KIND:URI of the catalogue, for example table:items.csv.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        config: what to make, stage by stage.
    """
    preflight(check_before_run, settings, source, config)
    config = with_backbone(settings, config)
    summary = publish_catalog(source, settings, config, lambda _: snapshot_catalog(settings, source, config.ingest))
    show_run("nightly", summary, "What the run did")
    send_first_screen(settings, summary.release, summary.screen, summary.link or summary.report)
    return summary
