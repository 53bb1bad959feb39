"""The report as one page: every fact of a night, drawn so that "may we publish?" is answered first.

The page is self-contained: no script, no font and no picture comes from outside it, and its content security policy
forbids a catalogue row to bring any.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from retrieval_core.evaluate import charts
from retrieval_core.evaluate.facts import Facts
from retrieval_core.evaluate.gate import HEADLINES, MetricChange
from retrieval_core.evaluate.history import history_charts
from retrieval_core.evaluate.tuning import tuning_charts, way_to_search

PUBLISHED = "published"
MAX_QUARANTINE_ROWS = 50
SMALLEST_SHOWN = 0.0005  # of a figure with three decimals
# In the order of the page; the quality of search first, then that of the parts.
MEANINGS = {
    "recall@1": "the first hit is the same product",
    "map@5": "how early relevant hits come, first 5",
    "attribute_map@10": "the same by all attributes, first 10",
    "label_iou@5": "labels shared with the first 5 hits",
    "ann_recall@10": "exact neighbours that the index finds",
    "mask_iou": "overlap of predicted and true masks",
}
NOTHING = "\N{EN DASH}"


class Banner(NamedTuple):
    """The verdict in words; `tone` is good, warning or held."""

    tone: str
    title: str


class Tile(NamedTuple):
    """A headline figure; `trend` is better, worse or same where production's interval tells."""

    name: str
    meaning: str
    value: str
    deviation: str = ""
    baseline: str = ""
    change: str = ""
    trend: str = ""


class Representation(NamedTuple):
    """A column of the table of representations."""

    name: str
    note: str
    metrics: dict[str, float]


class Cell(NamedTuple):
    """One metric of one representation; None where it has none."""

    value: float | None
    deviation: float | None = None
    best: bool = False


class MetricRow(NamedTuple):
    """A metric over all representations, in their order, and what search at random reaches."""

    name: str
    cells: tuple[Cell, ...]
    random: Cell


class Comparison(NamedTuple):
    """Changes against production: those the gate tested, the others, and what is no measure of quality."""

    tested: list[MetricChange]
    watched: list[MetricChange]
    baselines: list[MetricChange]
    reach: float


def render(facts: Facts) -> str:
    """The report as one HTML document: a few hundred kilobytes, most of it thumbnails. The same facts, the same text.

    Everything that came from the catalogue is escaped. Sections whose facts are empty say so in a sentence.
    """
    representations = _representations(facts)
    rows = _metric_rows(representations, facts.metrics)
    return (
        environment()
        .get_template("report.html")
        .render(
            facts=facts,
            banner=_banner(facts),
            quality=_quality_tiles(facts),
            parts=_part_tiles(facts),
            comparison=_comparison(facts.changes),
            representations=representations,
            rows=rows,
            plots=_plots(representations, facts.metrics),
            margin=0.98 / math.sqrt(facts.n_queries) if facts.n_queries else 0.0,
            training=[(model, history_charts(model.name, model.history)) for model in facts.training],
            tuning=tuning_charts(facts.index),
            total_s=facts.seconds.get("total", sum(facts.seconds.values())),
            seconds={name: s for name, s in facts.seconds.items() if name != "total"},
            ledger=facts.quarantine[:MAX_QUARANTINE_ROWS],
            frequent=[(reason, n) for reason, n in Counter(r.reason for r in facts.quarantine).most_common(3) if n > 1],
            figures=_figures(facts),
        )
    )


@cache
def environment() -> Environment:
    """Where the templates of all reports lie, and how they write numbers; whatever they are given is escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "number": number,
        "signed": charts.signed,
        "percent": percent,
        "duration": duration,
        "size": size,
        "way_to_search": way_to_search,
        "day": day,
        "moment": moment,
    }
    made.globals |= {"bar": charts.bar, "interval": charts.interval, "trend": trend, "NOTHING": NOTHING}
    return made


def _banner(facts: Facts) -> Banner:
    if facts.gate != "published":
        return Banner("held", "Held back")
    # In mode `warn` the gate publishes what it would have held, and its reason begins so.
    if facts.reason.startswith("Published with a warning") or any(change.blocks for change in facts.changes):
        return Banner("warning", "Published with a warning")
    return Banner("good", "Published")


def _quality_tiles(facts: Facts) -> list[Tile]:
    return [_tile(name, facts) for name in HEADLINES if name in facts.metrics]


def _part_tiles(facts: Facts) -> list[Tile]:
    tiles = [_tile(name, facts) for name in MEANINGS if name in facts.metrics and name not in HEADLINES]
    if facts.index.latency_ms_p50 > 0:
        p50, p95 = facts.index.latency_ms_p50, facts.index.latency_ms_p95
        tiles.append(Tile("query latency", f"median of single queries; 95% within {p95:.3g} ms", f"{p50:.3g} ms"))
    return tiles


def _tile(name: str, facts: Facts) -> Tile:
    value, deviation = facts.metrics[name], facts.metrics.get(f"{name}_std")
    change = next((change for change in facts.changes if change.name == name), None)
    return Tile(
        name=name,
        meaning=MEANINGS[name],
        value=number(value),
        deviation="" if deviation is None else number(deviation),
        baseline=_against_random(value, facts.metrics.get(f"{name}_random"), facts.metrics.get(f"{name}_random_std")),
        change="" if change is None else charts.signed(change.difference),
        trend="" if change is None else trend(change),
    )


def _against_random(value: float, random: float | None, deviation: float | None) -> str:
    if random is None:
        return ""
    reached = number(random) + (
        "" if deviation is None else f"\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}{number(deviation)}"
    )
    if value <= random:
        return f"no better than random ({reached})"
    if random <= 0 or value / random >= 100:
        return f"over 100 times random ({reached})" if random > 0 else f"random {reached}"
    return f"{value / random:.1f} times random ({reached})"


def trend(change: MetricChange) -> str:
    """Whether a metric moved beyond chance: `better`, `worse` or `same`; empty where no interval is known.

    `tiny` is a move beyond chance that three decimals do not show.
    """
    if change.low is None or change.high is None:
        return ""
    if (change.low > 0 or change.high < 0) and abs(change.difference) < SMALLEST_SHOWN:
        return "tiny"
    return "better" if change.low > 0 else "worse" if change.high < 0 else "same"


def _comparison(changes: tuple[MetricChange, ...]) -> Comparison:
    tested = [change for change in changes if change.p_holm is not None or change.blocks]
    baselines = [change for change in changes if change.name.endswith(("_random", "_std"))]
    watched = [change for change in changes if change not in tested and change not in baselines]
    ends = [abs(end) for row in tested + watched for end in (row.low, row.difference, row.high) if end is not None]
    return Comparison(tested, watched, baselines, max(ends, default=0.0))


def _representations(facts: Facts) -> list[Representation]:
    """The published chain first, then every variant in the order it was measured, and any that only `metrics` knows."""
    metrics: dict[str, dict[str, float]] = {variant.name: dict(variant.metrics) for variant in facts.variants}
    filters = {chosen.name for chosen in facts.index.filters}
    for full_name, value in facts.metrics.items():
        variant, slash, name = full_name.rpartition("/")
        if slash and variant not in filters:
            metrics.setdefault(variant, {})[name] = value
    known = {name for of_variant in metrics.values() for name in of_variant}
    published = {
        name: value for name, value in facts.metrics.items() if name in known or f"{name}_random" in facts.metrics
    }
    notes = {variant.name: variant.note or f"{variant.dim:,} dim" for variant in facts.variants}
    chain = [Representation(PUBLISHED, f"{facts.index.variant}, by the index", published)] if published else []
    return chain + [Representation(name, notes.get(name, ""), values) for name, values in metrics.items()]


def _metric_rows(representations: list[Representation], metrics: dict[str, float]) -> list[MetricRow]:
    names = list(dict.fromkeys(name for column in representations for name in column.metrics))
    rows = []
    for name in (name for name in names if not name.endswith("_std")):
        values = [column.metrics.get(name) for column in representations]
        shown = [number(value) for value in values if value is not None]
        best = number(max((value for value in values if value is not None), default=0.0))
        cells = (
            Cell(value, column.metrics.get(f"{name}_std"), number(value) == best and len(set(shown)) > 1)
            for value, column in zip(values, representations, strict=True)
        )
        rows.append(
            MetricRow(name, tuple(cells), Cell(metrics.get(f"{name}_random"), metrics.get(f"{name}_random_std")))
        )
    return rows


def _plots(representations: list[Representation], metrics: dict[str, float]) -> list[tuple[str, Markup]]:
    plots = []
    for name in HEADLINES:
        values = {column.name: column.metrics[name] for column in representations if name in column.metrics}
        if values:
            plots.append((name, charts.dots(name, values, metrics.get(f"{name}_random"), PUBLISHED)))
    return plots


def _figures(facts: Facts) -> list[tuple[str, float | None, float | None, str]]:
    """Every plain metric of the night, measured or only defined: name, value, value at random, definition."""
    names = dict.fromkeys([*facts.metrics, *facts.definitions])
    # A baseline stands in its metric's row, and has one of its own only where its definition says more.
    baselines = {f"{name}_random" for name in names} - facts.definitions.keys()
    shown = [name for name in names if "/" not in name and name not in baselines]
    return [
        (name, facts.metrics.get(name), facts.metrics.get(f"{name}_random"), facts.definitions.get(name, ""))
        for name in shown
    ]


def number(value: float | None) -> str:
    """A metric: three decimals; a dash where there is none."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", charts.MINUS)


def percent(share: float) -> str:
    """A share, 0 to 1: 4.2%, and never 0% or 100% of what is not quite."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    if text == "0" and share > 0:
        return "under 0.1%"
    return "over 99.9%" if text == "100" and share < 1 else f"{text}%"


def duration(seconds: float) -> str:
    """0.28 s, 12.3 s, 4 min 12 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes} min {s:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(n_bytes: float) -> str:
    """Bytes in decimal units: 206 kB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def day(iso: str) -> str:
    """21 November 2026; what is no ISO date as it is."""
    when = _parse(iso)
    return f"{when.day} {when:%B %Y}" if when else iso


def moment(iso: str) -> str:
    """Saturday 21 November 2026, 07:04 UTC; what is no ISO date as it is."""
    when = _parse(iso)
    return f"{when:%A} {when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip() if when else iso


def _parse(iso: str) -> datetime | None:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None
