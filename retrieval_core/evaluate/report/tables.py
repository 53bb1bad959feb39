"""The report's facts put in the order of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from retrieval_core.artifacts.manifests import Reject
from retrieval_core.evaluate.analysis.drift import Drift
from retrieval_core.evaluate.analysis.embedding_map import MapFacts
from retrieval_core.evaluate.analysis.hygiene import FixExample, HygieneFacts
from retrieval_core.evaluate.analysis.neighbour_churn import ChurnFacts
from retrieval_core.evaluate.analysis.quality import CategoryFacts, Confusion, MetricFacts, wilson
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.report import charts, curves
from retrieval_core.evaluate.report.formatting import SMALLEST_SHOWN, number
from retrieval_core.evaluate.report.schema import Facts
from retrieval_core.metrics.registry import HEADLINES, Statistic, find_metric

PUBLISHED = "published"
MAX_QUARANTINE_ROWS = 50
MAX_CATEGORY_ROWS = 12  # before the fold
MAX_FIXES_SHOWN = 4  # of each problem
PROBLEM_WORDS = {
    "category": "Category that the neighbours contradict",
    "label": "Label that the neighbours contradict",
    "near_duplicate": "One picture under two products",
    "orphan": "Nothing near it",
}
GONE_WORDS = {"removed": "were removed from the catalogue", "changed": "show another picture", "crowded_out": "were crowded out"}
CAME_WORDS = {"new": "are new", "changed": "show another picture", "moved_in": "moved in"}


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
    interval: tuple[float, float] | None = None


class MetricRow(NamedTuple):
    """A metric over all representations, in their order, and what search at random reaches."""

    name: str
    cells: tuple[Cell, ...]
    random: Cell


class Comparison(NamedTuple):
    """Changes against production: those the gate tested, the others, and what is no measure of quality.

    `categories` are the tested ones within each category, those that block first, then the largest loss.
    """

    tested: list[MetricChange]
    watched: list[MetricChange]
    baselines: list[MetricChange]
    categories: list[MetricChange]
    reach: float


class CategoryTable(NamedTuple):
    """A column a metric; each row a category with its facts in that order, None where undefined."""

    columns: list[str]
    rows: list[tuple[CategoryFacts, list[MetricFacts | None]]]


class Problem(NamedTuple):
    """One kind of fix: how many there are, the first of them, and why it was not looked for."""

    name: str
    words: str
    n_items: int
    examples: list[FixExample]
    not_looked_for: str


def comparison(facts: Facts) -> Comparison:
    """The changes in the order of their table."""
    changes = facts.changes
    tested = [change for change in changes if change.p_holm is not None or change.blocks]
    baselines = [change for change in changes if _is_derived(change.name)]
    watched = [change for change in changes if change not in tested and change not in baselines]
    categories = sorted(facts.category_changes, key=lambda row: (not row.blocks, row.difference))
    rows = tested + watched + categories
    ends = [abs(end) for row in rows for end in (row.low, row.difference, row.high) if end is not None]
    return Comparison(tested, watched, baselines, categories, max(ends, default=0.0))


def _beside(name: str, statistic: Statistic) -> str:
    """Return the name under which another statistic of the same metric is reported."""
    known = find_metric(name)
    return known.metric.full_name(statistic, known.scope) if known and known.statistic == "value" else ""


def _is_derived(name: str) -> bool:
    """Whether a name is of a baseline or of a deviation."""
    known = find_metric(name)
    return known is not None and known.statistic != "value"


def _is_plain(name: str) -> bool:
    """Whether a name is of the published search, not of a variant or a filter."""
    known = find_metric(name)
    return known is None or not known.scope


def trend(change: MetricChange) -> str:
    """Whether a metric moved beyond chance: `better`, `worse` or `same`; empty where no interval is known.

    `tiny` is a move beyond chance that three decimals do not show.
    """
    if change.low is None or change.high is None:
        return ""
    if (change.low > 0 or change.high < 0) and abs(change.difference) < SMALLEST_SHOWN:
        return "tiny"
    return "better" if change.low > 0 else "worse" if change.high < 0 else "same"


def representations(facts: Facts) -> list[Representation]:
    """The published chain first, then every variant in the order it was measured, and any that only `metrics` knows."""
    metrics: dict[str, dict[str, float]] = {variant.name: dict(variant.metrics) for variant in facts.variants}
    filters = {chosen.name for chosen in facts.index.filters}
    for full_name, value in facts.metrics.items():
        known = find_metric(full_name)
        if known and known.scope and known.scope not in filters:
            metrics.setdefault(known.scope, {})[known.metric.full_name(known.statistic)] = value
    of_variants = {name for of_variant in metrics.values() for name in of_variant}
    published = {
        name: value
        for name, value in facts.metrics.items()
        if name in of_variants or _beside(name, "random") in facts.metrics
    }
    notes = {variant.name: variant.note or f"{variant.dim:,} dim" for variant in facts.variants}
    chain = [Representation(PUBLISHED, f"{facts.index.variant}, by the index", published)] if published else []
    return chain + [Representation(name, notes.get(name, ""), values) for name, values in metrics.items()]


def metric_rows(columns: Sequence[Representation], facts: Facts) -> list[MetricRow]:
    """A row a metric; of the published chain with its interval."""
    intervals = {
        fact.name: (fact.low, fact.high)
        for fact in facts.quality.metrics
        if fact.low is not None and fact.high is not None
    }
    names = list(dict.fromkeys(name for column in columns for name in column.metrics))
    rows = []
    for name in (name for name in names if not _is_derived(name)):
        values = [column.metrics.get(name) for column in columns]
        shown = [number(value) for value in values if value is not None]
        best = number(max((value for value in values if value is not None), default=0.0))
        cells = (
            Cell(
                value,
                column.metrics.get(_beside(name, "std")),
                number(value) == best and len(set(shown)) > 1,
                intervals.get(name) if column.name == PUBLISHED else None,
            )
            for value, column in zip(values, columns, strict=True)
        )
        random = Cell(facts.metrics.get(_beside(name, "random")), facts.metrics.get(_beside(name, "random_std")))
        rows.append(MetricRow(name, tuple(cells), random))
    return rows


def metric_plots(columns: Sequence[Representation], metrics: dict[str, float]) -> list[tuple[str, Markup]]:
    """Each headline metric over the representations."""
    drawn = []
    for name in HEADLINES:
        values = {column.name: column.metrics[name] for column in columns if name in column.metrics}
        if values:
            drawn.append((name, charts.dots(name, values, metrics.get(_beside(name, "random")), PUBLISHED)))
    return drawn


def share_interval(share: float, n: int) -> str:
    """The 95% interval of a share of n queries, in words."""
    low, high = wilson(share, n)
    return f"{number(low)} to {number(high)}"


def category_table(facts: Facts) -> CategoryTable:
    """Every category that was asked, the most asked first."""
    categories = facts.quality.categories
    columns = list(dict.fromkeys(fact.name for one in categories for fact in one.metrics))
    rows = []
    for one in categories:
        known = {fact.name: fact for fact in one.metrics}
        rows.append((one, [known.get(name) for name in columns]))
    return CategoryTable(columns, rows)


def confused(confusion: Confusion | None, n: int = 3) -> list[tuple[str, str, int, int]]:
    """The commonest mistakes: asked, found, how often, of how many asked."""
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
    """The chain in each headline metric."""
    if losses is None:
        return []
    names = dict.fromkeys(name for link in losses.links for name in link.metrics)
    drawn = [(name, curves.chain(name, losses)) for name in names]
    return [(name, chart) for name, chart in drawn if chart]


def churn_plot(churn: ChurnFacts | None) -> Markup:
    """Items by how many of their ten nearest changed; empty where nothing was compared."""
    if churn is None or not churn.histogram:
        return Markup()
    labels = [f"{number}" for number in range(len(churn.histogram))]
    return charts.columns("Items by changed neighbours", churn.histogram, labels, "of the ten nearest that changed")


def problems(hygiene: HygieneFacts) -> list[Problem]:
    """The kinds of fix, each with its first examples."""
    return [
        Problem(
            name,
            words,
            hygiene.counts.get(name, 0),  # type: ignore[call-overload]
            [example for example in hygiene.examples if example.problem == name][:MAX_FIXES_SHOWN],
            hygiene.not_looked_for.get(name, ""),  # type: ignore[call-overload]
        )
        for name, words in PROBLEM_WORDS.items()
    ]


def drift_plots(drifts: Sequence[Drift]) -> list[tuple[Drift, Markup]]:
    """Each with its histogram, but those that are the same of every item."""
    return [(drift, charts.histogram(drift)) for drift in drifts if not drift.is_constant]


def map_words(facts: MapFacts | None) -> list[tuple[str, int, float, float]]:
    """(category, items on the map, middle across, middle up), both 0 to 1 of what the map spans."""
    if facts is None or not facts.points:
        return []
    xs, ys = [point.x for point in facts.points], [point.y for point in facts.points]
    width, height = max(max(xs) - min(xs), 1e-9), max(max(ys) - min(ys), 1e-9)
    rows = []
    for place, name in enumerate(facts.categories):
        points = [point for point in facts.points if point.category == place]
        across = sum((point.x - min(xs)) / width for point in points) / max(len(points), 1)
        up = sum((point.y - min(ys)) / height for point in points) / max(len(points), 1)
        rows.append((name, len(points), across, up))
    return rows


def frequent_reasons(quarantine: Sequence[Reject]) -> list[tuple[str, int]]:
    """The three commonest that several pictures share."""
    return [(reason, n) for reason, n in Counter(reject.reason for reject in quarantine).most_common(3) if n > 1]


def figures(facts: Facts) -> list[tuple[str, float | None, float | None, str]]:
    """Every plain metric of the night, measured or only defined: name, value, value at random, definition."""
    names = dict.fromkeys([*facts.metrics, *facts.definitions])
    # A baseline stands in its metric's row, and has one of its own only where its definition says more.
    baselines = {_beside(name, "random") for name in names} - facts.definitions.keys()
    shown = [name for name in names if (_is_plain(name) or name in facts.definitions) and name not in baselines]
    return [
        (name, facts.metrics.get(name), facts.metrics.get(_beside(name, "random")), facts.definitions.get(name, ""))
        for name in shown
    ]
