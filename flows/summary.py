"""What a run did: the document of `vitrine run --json`, and its tables for Prefect's UI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from retrieval_core.artifacts.anchors import find_report
from retrieval_core.artifacts.manifests import Head, Release, Report, Value
from retrieval_core.evaluate.publish import Publication
from retrieval_core.evaluate.report.sentences import SUMMARY_FILE, FirstScreen, overruled_screen, unchanged_screen
from retrieval_core.evaluate.run_outputs import CatalogFacts, RunOutputs
from retrieval_core.metrics.registry import UNLABELLED, find_metric
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.traffic import Traffic


class CatalogSummary(Value):
    rows: int
    added: int
    changed: int
    removed: int
    unchanged: int
    quarantined: int
    moved: int = 0  # of the unchanged: their pictures have another address
    refreshed: int = 0  # of the unchanged: they have other fields, such as a price
    passed_over: int = 0  # rows of the source that are not in the catalogue


class RunSummary(Value):
    """What a run did: the document of `vitrine run --json`.

    `screen` is the first screen of its report, in sentences. `notes` say how the source was read and what was passed
    over; `fetched` is what reading it over the network took. `variant` says which representation is searched, and why.
    `production` holds the metrics of the release that was production before; `report` is a file, `link` its URL if a
    browser can reach it, else "".
    """

    release: str
    gate: Literal["published", "held"]
    reason: str
    screen: FirstScreen = FirstScreen(tone="good", title="")
    catalog: CatalogSummary
    notes: list[str] = []
    fetched: Traffic = Traffic()
    masked: int
    embedded: int
    classified: int
    trained: list[str]
    variant: str = ""
    seconds: dict[str, float]
    metrics: dict[str, float]
    production: dict[str, float] = {}
    causes: list[str] = []
    lost_most: str = ""
    report: str
    link: str = ""

    def as_markdown(self) -> str:
        """Return tables for Prefect's UI."""
        catalog = self.catalog.model_dump()
        work = [("masked", self.masked), ("embedded", self.embedded), ("classified", self.classified)]
        rows = [
            (self.gate, self.screen.title),
            *((answer.question, answer.text) for answer in self.screen.answers),
            ("release", self.release),
            ("the gate's words", self.reason),
            *((name, f"{n:,}") for name, n in work if n),
            *(("source", note) for note in self.notes),
            *([("fetched", _traffic_text(self.fetched))] if self.fetched.requests else []),
            ("trained", ", ".join(self.trained) or "nothing"),
            ("variant", self.variant),
            ("report", self.link or self.report),
        ]
        tables = (
            as_table(("", ""), rows),
            as_table(tuple(catalog), [[f"{n:,}" for n in catalog.values()]]),
            as_table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in self.seconds.items()]),
            metrics_table(self.metrics, self.production, "production"),
        )
        return "\n\n".join(tables)


def _traffic_text(traffic: Traffic) -> str:
    return (
        f"{traffic.requests:,} requests to web servers and S3, {traffic.bytes / 1e6:,.1f} MB; "
        f"{traffic.not_modified:,} files not modified"
    )


def summarise_run(
    settings: Settings,
    outputs: RunOutputs,
    report: Report,
    publication: Publication,
    production: Release | None,
    seconds: dict[str, float],
) -> RunSummary:
    """Return the summary of a finished run; `production` is the release that it was compared with."""
    store, facts = settings.open_store(), outputs.catalog_facts
    compared = find_report(store, production) if production else None
    fitted = {"segmenter": outputs.segmenter, "reducer": outputs.reducer}
    fitted |= {f"head/{Head.open(store, head.ref).variant}": head for head in outputs.heads}
    return RunSummary(
        release=publication.release,
        gate=publication.gate,
        reason=publication.reason,
        screen=_screen(store, report, publication, production, facts),
        catalog=CatalogSummary(**{name: getattr(facts, name) for name in CatalogSummary.model_fields}),
        notes=list(facts.notes),
        masked=outputs.n_masked,
        embedded=outputs.n_pictures["embed"],
        classified=outputs.n_pictures["classify"],
        trained=[name for name, model in fitted.items() if model and model.trained],
        variant=outputs.choice.why if outputs.choice else "",
        seconds=seconds,
        metrics=report.metrics,
        causes=list(report.gate_causes),
        lost_most=report.lost_most,
        production=compared.metrics if compared else {},
        report=str(store.local_path(report.part("report.html").key)),
        link=settings.report_link(publication.release),
    )


def _screen(
    store: Store, report: Report, publication: Publication, production: Release | None, catalog: CatalogFacts
) -> FirstScreen:
    """Return the first screen of the run's report, as far as it is still true of what was published."""
    part = report.part(SUMMARY_FILE)
    screen = FirstScreen.model_validate_json(store.local_path(part.key, part.sha256).read_bytes())
    if publication.gate != report.gate:
        screen = overruled_screen(screen, publication.gate, publication.reason)
    is_searched_as_before = production is not None and production.report == report.ref
    return unchanged_screen(screen, catalog) if is_searched_as_before and publication.gate == "published" else screen


def metrics_table(metrics: Mapping[str, float], baseline: Mapping[str, float], baseline_name: str) -> str:
    """Return a Markdown table of the published search's metrics beside those of a baseline."""
    rows = []
    for name, value in metrics.items():
        if _is_shown(name):
            other = baseline.get(name)
            compared = ("", "") if other is None else (f"{other:.4f}", f"{value - other:+.4f}")
            rows.append((name, f"{value:.4f}", *compared))
    return as_table(("metric", "here", baseline_name, "difference"), rows)


def _is_shown(name: str) -> bool:
    known = find_metric(name)
    return known is None or not (known.scope or known.metric.source in UNLABELLED or "std" in known.statistic)


def as_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the text of a cell is shown literally."""
    lines = [header, ["---"] * len(header), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def slug(text: str) -> str:
    """Return a text as the key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
