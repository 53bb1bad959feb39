"""What a night says when it is over, and the clock of its stages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from retrieval_core.artifacts.manifests import Value
from retrieval_core.metrics.registry import UNLABELLED, find_metric


class CatalogSummary(Value):
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    quarantined: int


class RunSummary(Value):
    """What a run did: the document of `vitrine run --json`.

    `production` are the metrics of what was production by then; `report` is a file, `link` where a browser finds it.
    """

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
    production: dict[str, float] = {}
    causes: list[str] = []
    lost_most: str = ""
    report: str
    link: str = ""

    def as_markdown(self) -> str:
        """Tables for Prefect's UI."""
        catalog = self.catalog.model_dump()
        work = [("masked", self.masked), ("embedded", self.embedded), ("classified", self.classified)]
        rows = [
            ("release", self.release),
            (self.gate, self.reason),
            *((f"cause {place}", cause) for place, cause in enumerate(self.causes, start=1) if len(self.causes) > 1),
            ("where quality is lost", self.lost_most or "in no step beyond chance"),
            *((name, f"{n:,}") for name, n in work if n),
            ("trained", ", ".join(self.trained) or "nothing"),
            ("report", self.link or self.report),
        ]
        tables = (
            as_table(("", ""), rows),
            as_table(tuple(catalog), [[f"{n:,}" for n in catalog.values()]]),
            as_table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in self.seconds.items()]),
            metrics_table(self.metrics, self.production, "production"),
        )
        return "\n\n".join(tables)


def metrics_table(metrics: Mapping[str, float], others: Mapping[str, float], other: str) -> str:
    """The published search's metrics beside those of another release, in Markdown."""
    shown = {name: value for name, value in metrics.items() if _is_shown(name)}
    rows = [
        (
            name,
            f"{value:.4f}",
            *((f"{others[name]:.4f}", f"{value - others[name]:+.4f}") if name in others else ("", "")),
        )
        for name, value in shown.items()
    ]
    return as_table(("metric", "here", other, "difference"), rows)


def _is_shown(name: str) -> bool:
    known = find_metric(name)
    return known is None or not (known.scope or known.metric.source in UNLABELLED or "std" in known.statistic)


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; what stands in a cell is shown as it is."""
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def slug(text: str) -> str:
    """A text as an artifact's key may be spelled: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
