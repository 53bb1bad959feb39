"""Bundle a run into a release, and publish it if the gate let it through."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Ref, Report
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate import publish
from retrieval_core.evaluate.publish import Publication
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.settings import Settings
from tasks.stage import stage


@stage("publish")
def publish_release(
    settings: Settings, outputs: RunOutputs, report: Ref, production: str | None, config: NightlyConfig
) -> Publication:
    """Seal the release; promote it if the gate published it and `production` is still what it was compared with."""
    store = settings.open_store()
    return publish.publish_release(store, outputs, Report.open(store, report), production, config)
