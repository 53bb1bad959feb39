"""Render the facts of a run as one HTML page, which first answers whether the release may be published.

The page is self-contained: it loads no script, font or picture, and its content security policy prevents a catalogue
row from loading any.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from retrieval_core.evaluate.analysis.embedding_map import MAP_COLUMNS, map_cells
from retrieval_core.evaluate.analysis.run_history import N_RUNS, n_held_in_a_row
from retrieval_core.evaluate.analysis.stage_losses import search_loss
from retrieval_core.evaluate.measure.setup import K
from retrieval_core.evaluate.report import charts, tables
from retrieval_core.evaluate.report.catalog_map import catalog_map, map_mark
from retrieval_core.evaluate.report.curves import search_setting, training_charts, tuning_charts
from retrieval_core.evaluate.report.formatting import (
    NOTHING,
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
from retrieval_core.metrics.registry import METRICS, Metric

SHOWN_CAUSES = 4  # the others are folded away


class Banner(NamedTuple):
    """The verdict as a heading; `tone` is good, warning or held."""

    tone: str
    title: str


class Tile(NamedTuple):
    """A headline figure; `trend` compares it with production (see `tables.trend`), `spark` draws the past runs."""

    name: str
    meaning: str
    value: str
    deviation: str = ""
    interval: str = ""
    baseline: str = ""
    change: str = ""
    trend: str = ""
    spark: Markup = Markup()


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
            banner=_banner(facts),
            held_before=n_held_in_a_row(facts.nights),
            quality=_quality_tiles(facts),
            parts=_part_tiles(facts),
            comparison=tables.compare_with_production(facts),
            representations=columns,
            rows=tables.metric_rows(columns, facts),
            plots=tables.metric_plots(columns, facts.metrics),
            categories=tables.category_table(facts),
            confused=tables.confused(facts.quality.confusion),
            chains=tables.chain_plots(facts.losses),
            search_loss=search_loss(facts.losses) if facts.losses else None,
            churn_plot=tables.churn_plot(facts.churn),
            problems=tables.problems(facts.hygiene) if facts.hygiene else [],
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
            total_s=facts.seconds.get("total", sum(facts.seconds.values())),
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
    templates.globals |= {"SHOWN_CAUSES": SHOWN_CAUSES}
    return templates


def _banner(facts: ReportFacts) -> Banner:
    if facts.gate != "published":
        return Banner("held", "Held back")
    # In mode `warn` the gate publishes what it would have held, and its reason begins with these words.
    if facts.reason.startswith("Published with a warning") or any(change.blocks for change in facts.changes):
        return Banner("warning", "Published with a warning")
    return Banner("good", "Published")


def _quality_tiles(facts: ReportFacts) -> list[Tile]:
    return [
        _tile(metric, facts) for metric in METRICS if metric.words and metric.headline and metric.name in facts.metrics
    ]


def _part_tiles(facts: ReportFacts) -> list[Tile]:
    parts = [metric for metric in METRICS if metric.words and not metric.headline]
    tiles = [_tile(metric, facts) for metric in parts if metric.name in facts.metrics]
    if facts.index.latency_ms_p50 > 0:
        p50, p95 = facts.index.latency_ms_p50, facts.index.latency_ms_p95
        tiles.append(Tile("query latency", f"median of single queries; 95% within {p95:.3g} ms", f"{p50:.3g} ms"))
    return tiles


def _tile(metric: Metric, facts: ReportFacts) -> Tile:
    name, value = metric.name, facts.metrics[metric.name]
    deviation, random, random_deviation = (
        facts.metrics.get(metric.full_name(statistic)) for statistic in ("std", "random", "random_std")
    )
    change = next((change for change in facts.changes if change.name == name), None)
    return Tile(
        name=name,
        meaning=metric.words,
        value=number(value),
        deviation="" if deviation is None else number(deviation),
        interval=_interval(name, facts),
        baseline=_against_random(value, random, random_deviation),
        change="" if change is None else signed(change.difference),
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


def _against_random(value: float, random: float | None, deviation: float | None) -> str:
    if random is None:
        return ""
    baseline = number(random) + (
        "" if deviation is None else f"\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}{number(deviation)}"
    )
    if value <= random:
        return f"no better than random ({baseline})"
    if random <= 0 or value / random >= 100:
        return f"over 100 times random ({baseline})" if random > 0 else f"random {baseline}"
    return f"{value / random:.1f} times random ({baseline})"
