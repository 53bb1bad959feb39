"""Bundle a run into a release, publish it if the gate let it through, and tell people what the report says first."""

from __future__ import annotations

import os

from prefect.logging import get_run_logger

from retrieval_core.artifacts.manifests import Ref, Report
from retrieval_core.artifacts.releases import get_release
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate import publish
from retrieval_core.evaluate.publish import Publication
from retrieval_core.evaluate.report.sentences import PICTURE_FILES, FirstScreen
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.settings import Settings
from tasks.stage import stage

REPORT_TO = "VITRINE_REPORT_TO"


@stage("publish")
def publish_release(
    settings: Settings, outputs: RunOutputs, report: Ref, production: str | None, config: NightlyConfig
) -> Publication:
    """Seal the release; promote it if the gate published it and `production` is still what it was compared with."""
    store = settings.open_store()
    return publish.publish_release(store, outputs, Report.open(store, report), production, config)


@stage("send first screen")
def send_first_screen(settings: Settings, release: str, screen: FirstScreen, link: str) -> None:
    """Send what the report of a release says first to each address of `VITRINE_REPORT_TO`, separated by spaces.

    An address is a URL of Apprise, such as mailto://, slack:// or json://. What cannot be sent is logged by its scheme,
    as the rest of an address may be secret, and the run goes on.
    """
    import apprise
    from apprise.attachment.memory import AttachMemory

    store, addresses = settings.open_store(), os.environ.get(REPORT_TO, "").split()
    if not addresses:
        return
    report = Report.open(store, get_release(store, release).report)
    pictures = [
        AttachMemory(store.local_path(part.key, part.sha256).read_bytes(), name, "image/jpeg")  # type: ignore[no-untyped-call]
        for name in PICTURE_FILES
        if (part := report.find_part(name))
    ]
    title, *lines = screen.as_lines()
    asset = apprise.AppriseAsset(app_id="Vitrine", app_desc="Vitrine's nightly report", app_url="")
    for address in addresses:
        sender = apprise.Apprise(asset=asset)
        is_sent = sender.add(address) and sender.notify("\n".join([*lines, link]), title, attach=pictures)
        if not is_sent:
            scheme = address.partition("://")[0]
            get_run_logger().warning("the report's first sentences could not be sent to %s://…", scheme)
