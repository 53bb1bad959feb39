"""Render the facts of a run as one HTML page, which first answers a reader's questions in sentences.

The page is self-contained: it loads no script, font or picture, and its content security policy prevents a catalogue
row from loading any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from retrieval_core.evaluate.analysis.embedding_map import MAP_COLUMNS, map_cells
from retrieval_core.evaluate.analysis.run_history import N_RUNS
from retrieval_core.evaluate.analysis.stage_losses import search_loss
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.measure.setup import K
from retrieval_core.evaluate.report import charts, fix_list, tables
from retrieval_core.evaluate.report.catalog_map import catalog_map, map_mark
from retrieval_core.evaluate.report.curves import search_setting, training_charts, tuning_charts
from retrieval_core.evaluate.report.fix_list import FixEntry
from retrieval_core.evaluate.report.formatting import (
    NOTHING,
    counted,
    day,
    duration,
    moment,
    number,
    p_value,
    percent,
    short_moment,
    signed,
    size,
)
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.evaluate.report.sentences import first_screen
from retrieval_core.metrics.registry import METRICS, Metric


class Tile(NamedTuple):
    """A headline figure; `trend` compares it with production (see `tables.trend`), `spark` draws the past runs."""

    name: str
    meaning: str
    value: str
    interval: str = ""
    baseline: str = ""
    change: str = ""
    trend: str = ""
    spark: Markup = Markup()


class PrintedFix(NamedTuple):
    """An entry of the printed fix list, with its picture if the page has it."""

    item_id: str
    title: str
    suggestion: str
    evidence: str
    link: str
    jpeg: str

    @classmethod
    def of(cls, facts: ReportFacts, entry: FixEntry) -> PrintedFix:
        title, shop, search = fix_list.words(facts, entry.item_id)
        picture = facts.album.get(entry.item_id)
        jpeg = picture.jpeg if picture else ""
        return cls(entry.item_id, title, entry.suggestion, entry.evidence, shop or search, jpeg)


def render(facts: ReportFacts) -> str:
    """Return the report as one HTML document of a few hundred kilobytes, most of it thumbnails.

    Equal facts give equal text. Everything that comes from the catalogue is escaped. Sections without facts say so in a
    sentence.
    """
    columns = tables.representations(facts)
    return (
        environment()
        .get_template("report.html")
        .render(
            facts=facts,
            screen=first_screen(facts),
            tiles_of_search=_quality_tiles(facts),
            comparison=tables.compare_with_production(facts),
            representations=columns,
            rows=tables.metric_rows(columns, facts),
            plots=tables.metric_plots(columns, facts.metrics),
            categories=tables.category_table(facts),
            confused=tables.confused(facts.quality.confusion),
            chains=tables.chain_plots(facts.losses),
            search_loss=search_loss(facts.losses) if facts.losses else None,
            churn_plot=tables.churn_plot(facts.churn),
            regained=tables.regained(facts.losses),
            groups=fix_list.groups(facts),
            not_looked_for=fix_list.not_looked_for(facts),
            drifts=tables.drift_plots(facts.drift.catalog) if facts.drift else [],
            constants=[drift for drift in facts.drift.catalog if drift.is_constant] if facts.drift else [],
            map_cells=[cell for cell in map_cells(facts.map) if cell[0] in facts.album] if facts.map else [],
            map_columns=MAP_COLUMNS,
            arrived=tables.drift_plots(facts.drift.arrived) if facts.drift else [],
            map_drawing=catalog_map(facts.map) if facts.map and facts.map.points else Markup(),
            map_table=tables.map_table(facts.map),
            margin=0.98 / math.sqrt(facts.n_queries) if facts.n_queries else 0.0,
            training=[(model, training_charts(model.name, model.history)) for model in facts.training],
            tuning=tuning_charts(facts.index),
            total_s=sum(facts.seconds.values()),
            ledger=facts.quarantine[: tables.MAX_QUARANTINE_ROWS],
            frequent=tables.frequent_reasons(facts.quarantine),
            figures=tables.figures(facts),
        )
    )


@cache
def environment() -> Environment:
    """Return the templates of all pages, with their filters for numbers; every value is escaped."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= {
        "number": number,
        "counted": counted,
        "prose": prose,
        "signed": signed,
        "percent": percent,
        "p_value": p_value,
        "duration": duration,
        "size": size,
        "search_setting": search_setting,
        "day": day,
        "moment": moment,
        "short_moment": short_moment,
    }
    templates.globals |= {
        "bar": charts.bar,
        "interval": charts.interval,
        "stacked": charts.stacked,
        "map_mark": map_mark,
    }
    templates.globals |= {"trend": tables.trend, "NOTHING": NOTHING, "K": K}
    templates.globals |= {"GONE": tables.GONE_WORDS, "CAME": tables.CAME_WORDS, "MAX_ROWS": tables.MAX_CATEGORY_ROWS}
    templates.globals |= {"SHOWN": fix_list.N_SHOWN, "words_of": fix_list.words}
    return templates


def prose(text: str) -> Markup:
    """Write a text with its first sentence in bold and what stands in backticks as code."""
    first, stop, rest = text.partition(". ")
    marked = Markup("<strong>{}{}</strong> {}").format(first, stop.strip(), rest)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(marked)))


def render_fix_list(facts: ReportFacts, entries: Sequence[FixEntry]) -> str:
    """Return the fix list as an HTML document to print; all of it up to `fix_list.N_PRINTED` entries."""
    shown = [
        (
            fix_list.HEADINGS[action],
            [PrintedFix.of(facts, entry) for entry in entries[: fix_list.N_PRINTED] if entry.action == action],
        )
        for action in fix_list.ACTIONS
    ]
    template = environment().get_template("fix_list.html")
    n_shown = min(len(entries), fix_list.N_PRINTED)
    return template.render(facts=facts, n=len(entries), n_shown=n_shown, groups=[group for group in shown if group[1]])


def _quality_tiles(facts: ReportFacts) -> list[Tile]:
    return [
        _tile(metric, facts) for metric in METRICS if metric.words and metric.headline and metric.name in facts.metrics
    ]


def _tile(metric: Metric, facts: ReportFacts) -> Tile:
    name, value = metric.name, facts.metrics[metric.name]
    random = facts.metrics.get(metric.full_name("random"))
    change = next((change for change in facts.changes if change.name == name), None)
    return Tile(
        name=name,
        meaning=metric.words,
        value=number(value),
        interval=_interval(name, facts),
        baseline=_against_random(value, random),
        change="" if change is None else _since_production(change),
        trend="" if change is None else tables.trend(change),
        spark=_spark(name, facts),
    )


def _spark(name: str, facts: ReportFacts) -> Markup:
    """Draw the value of a metric over the past runs and this one."""
    past = [(short_moment(run.ended), run.metrics.get(name), run.gate == "published") for run in facts.nights]
    current = ("this run", facts.metrics.get(name), facts.gate == "published")
    return charts.sparkline(name, [*past[1 - N_RUNS :], current])


def _interval(name: str, facts: ReportFacts) -> str:
    fact = next((fact for fact in facts.quality.metrics if fact.name == name), None)
    if fact is None or fact.low is None or fact.high is None:
        return ""
    return f"{number(fact.low)} to {number(fact.high)}"


def _since_production(change: MetricChange) -> str:
    """Say how a metric changed, on the searches that both releases answered."""
    if change.difference == 0:
        return "the same where both answered"
    effect = {"better": "better", "worse": "worse", "same": "within chance", "tiny": "negligible", "": ""}
    moved = f"{number(change.production)} to {number(change.candidate)} where both answered"
    return f"{moved}, {effect[tables.trend(change)]}".rstrip(", ")


def _against_random(value: float, random: float | None) -> str:
    if random is None:
        return ""
    if value <= random:
        return f"no better than by chance ({number(random)})"
    if random <= 0 or value / random >= 100:
        return f"over 100 times as good as chance ({number(random)})" if random > 0 else f"by chance {number(random)}"
    return f"{value / random:.1f} times as good as chance ({number(random)})"
