"""What a run shows in Prefect's UI beside its tasks: how far a stage is, what came out, and where the report is."""

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
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.utilities.callables import get_call_parameters

from flows.summary import RunSummary, slug
from tasks.stage import title

EVERY_S = 5.0  # between two updates of one artifact, however many shards there are


class Progress:
    """The share of `total` steps that is done, as an artifact; of a single step there is nothing to show."""

    def __init__(self, what: str, total: int) -> None:
        self._total, self._done, self._told = total, 0, time.monotonic()
        self._artifact: UUID | None = None
        if total > 1:
            with _at_most_a_warning():
                description = f"{what}: {total} shards"
                self._artifact = cast(UUID, create_progress_artifact(0.0, f"progress-{slug(what)}", description))

    def advance(self) -> None:
        """One step more is done."""
        self._done += 1
        now = time.monotonic()
        if self._artifact is not None and (self._done == self._total or now - self._told >= EVERY_S):
            self._told = now
            with _at_most_a_warning():
                update_progress_artifact(self._artifact, 100 * self._done / self._total)


def shard_progress(work: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> Progress:
    """The progress of a task over the shards it is called with."""
    what = title(work.name, get_call_parameters(work.fn, calls[0], {})) if calls else work.name
    return Progress(what, len(calls))


def show_run(name: str, run: RunSummary, description: str) -> None:
    """Artifacts `NAME-summary` and, where a browser can reach it, `NAME-report`."""
    show_table(f"{name}-summary", run.as_markdown(), description)
    show_report(name, run.link)


def show_table(key: str, markdown: str, description: str) -> None:
    """A text in Markdown as an artifact."""
    with _at_most_a_warning():
        create_markdown_artifact(markdown, key=key, description=description)


def show_report(name: str, link: str) -> None:
    """A link to a report as artifact `NAME-report`; none where the link is empty."""
    if link:
        with _at_most_a_warning():
            create_link_artifact(link, "report", key=f"{name}-report", description="Everything that was measured")


@contextmanager
def _at_most_a_warning() -> Iterator[None]:
    """A server that does not answer costs the artifact, not the run."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("an artifact is missing in Prefect's UI: %s", error)
