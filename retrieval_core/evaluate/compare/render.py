"""Render a comparison as one self-contained HTML page; text from catalogue and config is never trusted."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from retrieval_core.evaluate.compare.schema import ComparisonFacts, Cost, MeasuredVariant, ModelFacts
from retrieval_core.evaluate.compare.tables import RANDOM, SIDES, Cell, Row, Table, best_rows
from retrieval_core.evaluate.report import curves
from retrieval_core.evaluate.report.curves import training_charts
from retrieval_core.evaluate.report.formatting import SMALLEST_SHOWN, number, size
from retrieval_core.evaluate.report.render import environment

COST_WORDS: dict[Cost, str] = {"ms_per_picture": "ms per picture", "n_bytes_per_item": "bytes per item"}
CONTRAST_WORDS = {
    "background": "the background",
    "boosted": "the head's boosting",
    "dim": "the number of dimensions",
    "mode": "the search mode",
}


class Difference(NamedTuple):
    """One metric of a row, compared with the row's baseline or partner."""

    row: Row
    metric: str
    cell: Cell


class TableView(NamedTuple):
    """A table with what its drawing needs.

    `best` are the best rows of each column, `differences` one line each, `reach` the largest absolute end of their
    intervals, `longest` the value that a full bar stands for, `sides` the heads of the two compared columns.
    """

    table: Table
    best: list[set[int]]
    differences: list[Difference]
    reach: float
    longest: float
    sides: tuple[str, str]


class FrontView(NamedTuple):
    """A Pareto front: its cost in words, its chart, and its variants, the cheapest first."""

    words: str
    chart: Markup
    variants: list[MeasuredVariant]


def render_comparison(facts: ComparisonFacts) -> str:
    """Return the report as one HTML document; the same facts give the same document.

    All text from the catalogue and the config is escaped. Sections without facts contain a sentence that says so.
    """
    return (
        environment()
        .get_template("compare_report.html")
        .render(
            facts=facts,
            lead=_lead(facts),
            tables=[_table_view(table) for table in facts.tables],
            fronts=_front_views(facts),
            models=[(model, training_charts(model.name, model.history)) for model in facts.models],
            badges={model.name: _collapse(model) for model in facts.models},
            total_s=facts.seconds.get("total", sum(facts.seconds.values())),
            seconds={name: s for name, s in facts.seconds.items() if name != "total"},
            crop_reach=_crop_reach(facts),
            cost_words=cost_words,
            effect=effect,
            contrast_words=CONTRAST_WORDS,
            random_name=RANDOM,
        )
    )


def _lead(facts: ComparisonFacts) -> str:
    """Return the outcome in one or two sentences."""
    if not facts.quality:
        return "Nothing was measured: no metric of the tables is defined for this catalogue; each table says why."
    best, random = facts.ranked[0], facts.random.get(facts.quality)
    words = f"“{best.name}” ranks first by {facts.quality}: {number(best.metrics[facts.quality])}"
    words += "." if random is None else f"; random retrieval reaches {number(random)}."
    cheapest = next(variant for variant in facts.variants if variant.name == facts.fronts[0].variants[0])
    if cheapest == best:
        return f"{words} No variant is faster."
    return (
        f"{words} It takes {best.ms_per_picture:.3g} ms a picture; the fastest, “{cheapest.name}”, "
        f"takes {cheapest.ms_per_picture:.3g} ms and reaches {number(cheapest.metrics[facts.quality])}."
    )


def _table_view(table: Table) -> TableView:
    differences = [
        Difference(row, metric, cell)
        for row in table.rows
        if row.against
        for metric, cell in zip(table.metrics, row.cells, strict=True)
        if cell.difference is not None or table.kind == "pairs"
    ]
    tests = [line.cell.test for line in differences if line.cell.test]
    ends = [abs(end) for test in tests for end in (test.low, test.difference, test.high)]
    first = [row.cells[0].value or 0.0 for row in table.rows]
    return TableView(
        table=table,
        best=best_rows(table) if table.kind == "metrics" else [],
        differences=differences,
        reach=max(ends, default=0.0),
        longest=max(first, default=0.0),
        sides=SIDES[table.contrast] if table.contrast else (table.baseline, "variant"),
    )


def effect(cell: Cell) -> str:
    """Return better, worse, same (within chance), tiny (invisible in three decimals), or "" if untested."""
    if cell.test is None:
        return ""
    verdict = cell.test.verdict
    return "tiny" if verdict != "same" and abs(cell.test.difference) < SMALLEST_SHOWN else verdict


def _front_views(facts: ComparisonFacts) -> list[FrontView]:
    named = {variant.name: variant for variant in facts.variants}
    views = []
    for front in facts.fronts:
        points = {
            name: (float(getattr(variant, front.cost)), variant.metrics[facts.quality])
            for name, variant in named.items()
        }
        chart = curves.front(facts.quality, points, front.variants, COST_WORDS[front.cost])
        views.append(FrontView(COST_WORDS[front.cost], chart, [named[name] for name in front.variants]))
    return views


def cost_words(variant: MeasuredVariant) -> str:
    """Return the costs of a variant in words, such as "6.1 ms, 2.05 kB"."""
    return f"{variant.ms_per_picture:.3g} ms, {size(variant.n_bytes_per_item)}"


def _collapse(model: ModelFacts) -> str:
    """Return whether a training collapsed, in words; "" if its objective does not measure that."""
    if not any("collapsed" in row for row in model.history):
        return ""
    since = model.collapsed_since
    return "did not collapse" if since is None else f"collapsed since epoch {since}"


def _crop_reach(facts: ComparisonFacts) -> float:
    ends = (abs(end) for crop in facts.crops for band in crop.bands for end in band.interval)
    return max(ends, default=0.0)
