"""The report as one page: every fact of a night, drawn so that "may we publish?" is answered first.

The page is self-contained: no script, no font and no picture comes from outside it, and its content security policy
forbids a catalogue row to bring any.
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
from retrieval_core.evaluate.measure.search_setup import K
from retrieval_core.evaluate.report import charts, tables
from retrieval_core.evaluate.report.catalog_map import catalog_map, map_mark
from retrieval_core.evaluate.report.curves import training_charts, tuning_charts, search_setting
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
from retrieval_core.evaluate.report.schema import Facts
from retrieval_core.metrics.registry import METRICS, Metric

SHOWN_CAUSES = 4  # before the fold


class Banner(NamedTuple):
    """The verdict in words; `tone` is good, warning or held."""

    tone: str
    title: str


class Tile(NamedTuple):
    """A headline figure; `trend` is better, worse or same where production's interval tells, `spark` the nights."""

    name: str
    meaning: str
    value: str
    deviation: str = ""
    interval: str = ""
    baseline: str = ""
    change: str = ""
    trend: str = ""
    spark: Markup = Markup()


def render(facts: Facts) -> str:
    """The report as one HTML document: a few hundred kilobytes, most of it thumbnails. The same facts, the same text.

    Everything that came from the catalogue is escaped. Sections whose facts are empty say so in a sentence.
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
            comparison=tables.comparison(facts),
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
            map_drawn=catalog_map(facts.map) if facts.map and facts.map.points else Markup(),
            map_words=tables.map_words(facts.map),
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
    """Where the templates of all reports lie, and how they write numbers; whatever they are given is escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
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
    made.globals |= {"bar": charts.bar, "interval": charts.interval, "stacked": charts.stacked, "map_mark": map_mark}
    made.globals |= {"trend": tables.trend, "share_interval": tables.share_interval, "NOTHING": NOTHING, "K": K}
    made.globals |= {"GONE": tables.GONE_WORDS, "CAME": tables.CAME_WORDS, "MAX_ROWS": tables.MAX_CATEGORY_ROWS}
    made.globals |= {"SHOWN_CAUSES": SHOWN_CAUSES}
    return made


def _banner(facts: Facts) -> Banner:
    if facts.gate != "published":
        return Banner("held", "Held back")
    # In mode `warn` the gate publishes what it would have held, and its reason begins so.
    if facts.reason.startswith("Published with a warning") or any(change.blocks for change in facts.changes):
        return Banner("warning", "Published with a warning")
    return Banner("good", "Published")


def _quality_tiles(facts: Facts) -> list[Tile]:
    return [
        _tile(metric, facts) for metric in METRICS if metric.words and metric.headline and metric.name in facts.metrics
    ]


def _part_tiles(facts: Facts) -> list[Tile]:
    parts = [metric for metric in METRICS if metric.words and not metric.headline]
    tiles = [_tile(metric, facts) for metric in parts if metric.name in facts.metrics]
    if facts.index.latency_ms_p50 > 0:
        p50, p95 = facts.index.latency_ms_p50, facts.index.latency_ms_p95
        tiles.append(Tile("query latency", f"median of single queries; 95% within {p95:.3g} ms", f"{p50:.3g} ms"))
    return tiles


def _tile(metric: Metric, facts: Facts) -> Tile:
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


def _spark(name: str, facts: Facts) -> Markup:
    """The nights before this one, and this one."""
    nights = [(short_moment(night.ended), night.metrics.get(name), night.gate == "published") for night in facts.nights]
    tonight = ("this night", facts.metrics.get(name), facts.gate == "published")
    return charts.sparkline(name, [*nights[1 - N_RUNS :], tonight])


def _interval(name: str, facts: Facts) -> str:
    known = next((fact for fact in facts.quality.metrics if fact.name == name), None)
    if known is None or known.low is None or known.high is None:
        return ""
    return f"{number(known.low)} to {number(known.high)}"


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
