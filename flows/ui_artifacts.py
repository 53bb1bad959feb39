"""What a run shows in Prefect's UI beside its tasks: progress of a stage, tables of results, a link to the report.

The events of a run's outcome and of warnings are there for automations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import Task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.utilities.callables import get_call_parameters

from flows.summary import RunSummary, slug
from retrieval_core.maintenance.health import HealthWarning
from tasks.stage import title

UPDATE_EVERY_S = 5.0
PUBLISHED, HELD = "vitrine.release.published", "vitrine.release.held"
RELEASES = "vitrine.release.*"
WARNINGS = "vitrine.warning.*"


class Progress:
    """An artifact that shows the share of `total` steps that are done; none for a single step.

    It is updated every few seconds, however many steps there are.
    """

    def __init__(self, title: str, total: int) -> None:
        self._total, self._n_done, self._updated_at = total, 0, time.monotonic()
        self._artifact: UUID | None = None
        if total > 1:
            with _warning_on_failure():
                description = f"{title}: {total} shards"
                self._artifact = cast(UUID, create_progress_artifact(0.0, f"progress-{slug(title)}", description))

    def advance(self) -> None:
        """Count one more step as done."""
        self._n_done += 1
        now = time.monotonic()
        if self._artifact is not None and (self._n_done == self._total or now - self._updated_at >= UPDATE_EVERY_S):
            self._updated_at = now
            with _warning_on_failure():
                update_progress_artifact(self._artifact, 100 * self._n_done / self._total)


def shard_progress(work: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> Progress:
    """Return the progress of a task over the shards that it is called with."""
    name = title(work.name, get_call_parameters(work.fn, calls[0], {})) if calls else work.name
    return Progress(name, len(calls))


def show_run(name: str, run: RunSummary, description: str) -> None:
    """Show a run's tables as artifact `NAME-summary`, and its report as `NAME-report` if a browser can reach it.

    Emit the event of its outcome; Prefect adds the run, its deployment and their tags.
    """
    emit_event(
        PUBLISHED if run.gate == "published" else HELD,
        resource={"prefect.resource.id": f"vitrine.release.{run.release}", "prefect.resource.name": run.release},
        payload={
            "reason": run.reason,
            "causes": run.causes,
            "report": run.link or run.report,
            "summary": "\n".join(run.screen.as_lines()),
        },
    )
    show_table(f"{name}-summary", run.as_markdown(), description)
    show_report(name, run.link)


def emit_warning(warning: HealthWarning) -> None:
    """Emit the event of a warning; its resource is the same while the warning is."""
    name = f"{WARNINGS.removesuffix('*')}{warning.kind}"
    resource = {"prefect.resource.id": f"{name}.{warning.subject}", "prefect.resource.name": warning.subject}
    emit_event(name, resource=resource, payload={"reason": warning.reason})


def show_table(key: str, markdown: str, description: str) -> None:
    """Show a text in Markdown as an artifact."""
    with _warning_on_failure():
        create_markdown_artifact(markdown, key=key, description=description)


def show_report(name: str, link: str) -> None:
    """Show a link to a report as artifact `NAME-report`, unless it is empty."""
    if link:
        with _warning_on_failure():
            create_link_artifact(link, "report", key=f"{name}-report", description="Everything that was measured")


@contextmanager
def _warning_on_failure() -> Iterator[None]:
    """Log a warning when the server does not answer: the artifact is missing then, but the run continues."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("an artifact is missing in Prefect's UI: %s", error)
