"""Arrange the facts of a report into the rows, columns and panels of its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.drift import Drift
from retrieval_core.evaluate.analysis.embedding_map import MapFacts
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts
from retrieval_core.evaluate.analysis.quality import CategoryFacts, Confusion, MetricFacts
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.report import charts, curves
from retrieval_core.evaluate.report.formatting import SMALLEST_SHOWN, number
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.metrics.registry import HEADLINES, Statistic, find_metric

PUBLISHED = "published"
MAX_QUARANTINE_ROWS = 50
MAX_CATEGORY_ROWS = 12  # the others are folded away
GONE_WORDS = {
    "removed": "were removed from the catalogue",
    "changed": "show another picture",
    "crowded_out": "were crowded out",
}
CAME_WORDS = {"new": "are new", "changed": "show another picture", "moved_in": "moved in"}


class Representation(NamedTuple):
    """A column of the table of representations."""

    name: str
    note: str
    metrics: dict[str, float]


class MetricCell(NamedTuple):
    """One metric of one representation; None if it does not have that metric."""

    value: float | None
    deviation: float | None = None
    is_best: bool = False
    interval: tuple[float, float] | None = None


class MetricRow(NamedTuple):
    """A metric over all representations, in their order, and its value for random retrieval."""

    name: str
    cells: tuple[MetricCell, ...]
    random: MetricCell


class ProductionComparison(NamedTuple):
    """Changes against production: those that the gate tested, others for information, and baselines and deviations.

    `categories` are the changes tested within categories: first those that block, then by the size of the loss.
    `since_anchor` are those tested against the anchor, overall and where they block within a category. `reach` is the
    largest absolute end of an interval, for the scale of the drawings.
    """

    tested: list[MetricChange]
    watched: list[MetricChange]
    baselines: list[MetricChange]
    categories: list[MetricChange]
    since_anchor: list[MetricChange]
    reach: float


class CategoryTable(NamedTuple):
    """A column for each metric; each row is a category and its facts in that order, None if undefined."""

    columns: list[str]
    rows: list[tuple[CategoryFacts, list[MetricFacts | None]]]


def compare_with_production(facts: ReportFacts) -> ProductionComparison:
    """Sort the changes against production into the tables that show them."""
    changes = facts.changes
    tested = [change for change in changes if change.p_holm is not None or change.blocks]
    baselines = [change for change in changes if _is_derived(change.name)]
    watched = [change for change in changes if change not in tested and change not in baselines]
    categories = sorted(facts.category_changes, key=lambda row: (not row.blocks, row.difference))
    anchor = facts.anchor.changes if facts.anchor else ()
    since_anchor = [row for row in anchor if row.blocks or (row.p_holm is not None and not row.category)]
    rows = tested + watched + categories + since_anchor
    ends = [abs(end) for row in rows for end in (row.low, row.difference, row.high) if end is not None]
    return ProductionComparison(tested, watched, baselines, categories, since_anchor, max(ends, default=0.0))


def _name_of(statistic: Statistic, name: str) -> str:
    """Return the full name of another statistic of the metric `name`; "" if `name` is itself no plain value."""
    parsed = find_metric(name)
    return parsed.metric.full_name(statistic, parsed.scope) if parsed and parsed.statistic == "value" else ""


def _is_derived(name: str) -> bool:
    """Whether a name is that of a baseline or a deviation."""
    parsed = find_metric(name)
    return parsed is not None and parsed.statistic != "value"


def _is_published(name: str) -> bool:
    """Whether a name belongs to the published search, not to a variant or a filter."""
    parsed = find_metric(name)
    return parsed is None or not parsed.scope


def trend(change: MetricChange) -> str:
    """Return how a metric changed: `better`, `worse`, `same` (within chance) or `tiny`; "" if no interval is known.

    `tiny` is a change beyond chance that three decimals do not show.
    """
    if change.low is None or change.high is None:
        return ""
    if (change.low > 0 or change.high < 0) and abs(change.difference) < SMALLEST_SHOWN:
        return "tiny"
    return "better" if change.low > 0 else "worse" if change.high < 0 else "same"


def representations(facts: ReportFacts) -> list[Representation]:
    """Return the columns: the published search, each measured variant, then any other variant in `metrics`."""
    metrics: dict[str, dict[str, float]] = {variant.name: dict(variant.metrics) for variant in facts.variants}
    filters = {searched.name for searched in facts.index.filters}
    for full_name, value in facts.metrics.items():
        parsed = find_metric(full_name)
        if parsed and parsed.scope and parsed.scope not in filters:
            metrics.setdefault(parsed.scope, {})[parsed.metric.full_name(parsed.statistic)] = value
    of_variants = {name for of_variant in metrics.values() for name in of_variant}
    published = {
        name: value
        for name, value in facts.metrics.items()
        if name in of_variants or _name_of("random", name) in facts.metrics
    }
    notes = {variant.name: variant.note or f"{variant.dim:,} dim" for variant in facts.variants}
    chain = [Representation(PUBLISHED, f"{facts.index.variant}, by the index", published)] if published else []
    return chain + [Representation(name, notes.get(name, ""), values) for name, values in metrics.items()]


def metric_rows(columns: Sequence[Representation], facts: ReportFacts) -> list[MetricRow]:
    """Return one row for each metric; cells of the published search have an interval."""
    intervals = {
        fact.name: (fact.low, fact.high)
        for fact in facts.quality.metrics
        if fact.low is not None and fact.high is not None
    }
    names = list(dict.fromkeys(name for column in columns for name in column.metrics))
    rows = []
    for name in (name for name in names if not _is_derived(name)):
        values = [column.metrics.get(name) for column in columns]
        texts = {number(value) for value in values if value is not None}
        best = number(max((value for value in values if value is not None), default=0.0))
        cells = (
            MetricCell(
                value,
                column.metrics.get(_name_of("std", name)),
                number(value) == best and len(texts) > 1,
                intervals.get(name) if column.name == PUBLISHED else None,
            )
            for value, column in zip(values, columns, strict=True)
        )
        random = MetricCell(
            facts.metrics.get(_name_of("random", name)), facts.metrics.get(_name_of("random_std", name))
        )
        rows.append(MetricRow(name, tuple(cells), random))
    return rows


def metric_plots(columns: Sequence[Representation], metrics: dict[str, float]) -> list[tuple[str, Markup]]:
    """Draw each headline metric over the representations."""
    plots = []
    for name in HEADLINES:
        values = {column.name: column.metrics[name] for column in columns if name in column.metrics}
        if values:
            plots.append((name, charts.dots(name, values, metrics.get(_name_of("random", name)), PUBLISHED)))
    return plots


def category_table(facts: ReportFacts) -> CategoryTable:
    """Return every category of the queries, those with most queries first."""
    categories = facts.quality.categories
    columns = list(dict.fromkeys(fact.name for category in categories for fact in category.metrics))
    rows = []
    for category in categories:
        fact_of = {fact.name: fact for fact in category.metrics}
        rows.append((category, [fact_of.get(name) for name in columns]))
    return CategoryTable(columns, rows)


def confused(confusion: Confusion | None, n: int = 3) -> list[tuple[str, str, int, int]]:
    """Return the n most frequent mistakes as (query's category, category found, how often, of how many queries)."""
    if confusion is None:
        return []
    pairs = [
        (asked, found, count, sum(row))
        for asked, row in zip(confusion.asked, confusion.counts, strict=True)
        for found, count in zip(confusion.found, row, strict=True)
        if count and asked != found
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:n]


def chain_plots(losses: LossFacts | None) -> list[tuple[str, Markup]]:
    """Draw the chain of losses in each headline metric."""
    if losses is None:
        return []
    names = dict.fromkeys(name for link in losses.links for name in link.metrics)
    plots = [(name, curves.chain(name, losses)) for name in names]
    return [(name, plot) for name, plot in plots if plot]


def regained(losses: LossFacts | None) -> list[str]:
    """Return the steps of the search whose losses beyond chance reranking wins back."""
    if losses is None or losses.lost_most:
        return []
    return [link.step for link in losses.links if any(change.is_loss for change in link.changes)]


def churn_plot(churn: ChurnFacts | None) -> Markup:
    """Draw the number of items by how many of their ten nearest changed; "" if nothing was compared."""
    if churn is None or not churn.histogram:
        return Markup()
    labels = [f"{number}" for number in range(len(churn.histogram))]
    return charts.columns("Items by changed neighbours", churn.histogram, labels, "of the ten nearest that changed")


def drift_plots(drifts: Sequence[Drift]) -> list[tuple[Drift, Markup]]:
    """Draw each distribution, except those in which every item has the same value."""
    return [(drift, charts.histogram(drift)) for drift in drifts if not drift.is_constant]


def map_table(facts: MapFacts | None) -> list[tuple[str, int, float, float]]:
    """Return (category, items on the map, x and y of their centre), with x and y from 0 to 1 across the map."""
    if facts is None or not facts.points:
        return []
    xs, ys = [point.x for point in facts.points], [point.y for point in facts.points]
    width, height = max(max(xs) - min(xs), 1e-9), max(max(ys) - min(ys), 1e-9)
    rows = []
    for number_of_category, name in enumerate(facts.categories):
        points = [point for point in facts.points if point.category == number_of_category]
        x = sum((point.x - min(xs)) / width for point in points) / max(len(points), 1)
        y = sum((point.y - min(ys)) / height for point in points) / max(len(points), 1)
        rows.append((name, len(points), x, y))
    return rows


def frequent_reasons(quarantine: Sequence[Reject]) -> list[tuple[str, int]]:
    """Return the three most frequent reasons that several pictures share, with their counts."""
    return [(reason, n) for reason, n in Counter(reject.reason for reject in quarantine).most_common(3) if n > 1]


def figures(facts: ReportFacts) -> list[tuple[str, float | None, float | None, str]]:
    """Return (name, value, random value, definition) of every metric outside the variants, measured or only defined."""
    names = dict.fromkeys([*facts.metrics, *facts.definitions])
    # A baseline is shown in the row of its metric, and has its own row only if it has its own definition.
    baselines = {_name_of("random", name) for name in names} - facts.definitions.keys()
    listed = [name for name in names if (_is_published(name) or name in facts.definitions) and name not in baselines]
    return [
        (name, facts.metrics.get(name), facts.metrics.get(_name_of("random", name)), facts.definitions.get(name, ""))
        for name in listed
    ]
