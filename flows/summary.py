"""What a night says when it is over, and the clock of its stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prefect.logging import get_run_logger

from retrieval_core.artifacts import Value


class CatalogSummary(Value):
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    quarantined: int


class RunSummary(Value):
    """What a run did: the document of `vitrine run --json`."""

    release: str
    gate: Literal["published", "held"]
    reason: str
    catalog: CatalogSummary
    masked: int
    embedded: int
    classified: int
    trained: list[str]
    seconds: dict[str, float]
    metrics: dict[str, float]
    report: str

    def as_markdown(self) -> str:
        """A table for Prefect's UI."""
        rows = [
            ("release", self.release),
            ("gate", f"{self.gate}: {self.reason}"),
            ("catalogue", ", ".join(f"{name} {n}" for name, n in self.catalog.model_dump().items())),
            ("embedded", str(self.embedded)),
            ("trained", ", ".join(self.trained) or "nothing"),
            ("seconds", ", ".join(f"{name} {s:.0f}" for name, s in self.seconds.items())),
            ("report", self.report),
        ]
        headline = [(name, f"{value:.4f}") for name, value in self.metrics.items() if "/" not in name]
        return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows + headline)


class Clock:
    """Seconds per stage, in the order the stages ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        get_run_logger().info("stage %s", name)
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._started, 3)}
