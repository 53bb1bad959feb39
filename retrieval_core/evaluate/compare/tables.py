"""The tables of a comparison: what each variant reached, and which differences are more than chance.

A table's differences are tested together: over all its tests, Holm's correction keeps the chance of any false one low.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.compare.config import ComparisonConfig, Contrast, TableConfig
from retrieval_core.evaluate.compare.measure import Compared
from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.evaluate.compare.remarks import (
    JUDGED_AGAINST_RANDOM,
    against_random,
    how_tested,
    why_missing,
    why_untested,
)
from retrieval_core.metrics.registry import is_measured_by, parse_metric
from retrieval_core.metrics.retrieval import Scores

RANDOM = "random"
# What the two of a pair are called: the plain one, and the one compared with it.
SIDES: dict[Contrast, tuple[str, str]] = {
    "background": ("raw", "masked or cropped"),
    "boosted": ("plain", "boosted"),
    "dim": ("all dimensions", "reduced"),
    "mode": ("nearest", "classified"),
}


class Cell(Value):
    """One metric of one variant, None where it is undefined; `reference` is that of the variant it stands against."""

    value: float | None = None
    deviation: float | None = None
    reference: float | None = None
    test: PairedTest | None = None

    @property
    def difference(self) -> float | None:
        return None if self.value is None or self.reference is None else self.value - self.reference


class Row(Value):
    """One variant, a cell a metric; `against` is the baseline or partner it is compared with, "" for none."""

    variant: str
    against: str = ""
    cells: tuple[Cell, ...]
    ms_per_picture: float
    n_bytes_per_item: int


class Table(Value):
    """As configured, filled in. `random` has one cell a metric; tables of pairs have none."""

    title: str
    kind: Literal["metrics", "pairs"]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    random: tuple[Cell, ...] = ()
    baseline: str = ""
    contrast: Literal["", Contrast] = ""
    note: str = ""
    remarks: tuple[str, ...] = ()


def best_rows(table: Table) -> list[set[int]]:
    """For each metric of a table of metrics, which rows show its highest value; none where all rows show the same."""
    best = []
    for column in range(len(table.metrics)):
        values = [row.cells[column].value for row in table.rows]
        shown = [None if value is None else round(value, 3) for value in values]
        reached = [value for value in shown if value is not None]
        top = max(reached) if len(set(reached)) > 1 else None
        best.append({place for place, value in enumerate(shown) if value is not None and value == top})
    return best


class _Question(NamedTuple):
    """Is `variant` better than `against` by this metric?"""

    variant: str
    against: str
    metric: str


def build_tables(config: ComparisonConfig, compared: Compared) -> tuple[Table, ...]:
    """Every table of the config, in its order. A metric that this catalogue cannot define stays, with the reason."""
    return tuple(_build(config, table, compared) for table in config.tables)


def _build(config: ComparisonConfig, table: TableConfig, compared: Compared) -> Table:
    lines = _lines(config, table)
    questions = [_Question(*line, metric) for line in lines for metric in table.metrics]
    tests = _tests(questions, compared)
    costs = {candidate.spec.name: candidate for candidate in compared.candidates}
    rows = tuple(
        Row(
            variant=variant,
            against=against,
            cells=tuple(_cell(_Question(variant, against, metric), compared, tests) for metric in table.metrics),
            ms_per_picture=costs[variant].ms_per_picture,
            n_bytes_per_item=costs[variant].n_bytes_per_item,
        )
        for variant, against in lines
    )
    random = tuple(_plain_cell(compared.random, metric) for metric in table.metrics)
    return Table(
        title=table.title,
        kind=table.kind,
        metrics=table.metrics,
        rows=rows,
        random=random if table.kind == "metrics" else (),
        baseline=table.baseline,
        contrast=table.contrast,
        note=table.note,
        remarks=tuple(_remarks(table, rows, tests, compared)),
    )


def _lines(config: ComparisonConfig, table: TableConfig) -> list[tuple[str, str]]:
    """(variant, what it is compared with or "") of each row."""
    if table.kind == "pairs":
        return [(other.name, plain.name) for plain, other in config.pairs(table)]
    names = [variant.name for variant in config.rows(table)]
    return [(name, "" if name == table.baseline else table.baseline) for name in names]


def _cell(question: _Question, compared: Compared, tests: Mapping[_Question, PairedTest]) -> Cell:
    reference = _value(compared, question.against, question.metric) if question.against else None
    scores = compared.scores[question.variant]
    return _plain_cell(scores, question.metric).model_copy(
        update={
            "value": _value(compared, question.variant, question.metric),
            "reference": reference,
            "test": tests.get(question),
        }
    )


def _plain_cell(scores: Scores, metric: str) -> Cell:
    deviation = parse_metric(metric).metric.full_name("std")
    return Cell(value=scores.summary.get(metric), deviation=scores.summary.get(deviation))


def _value(compared: Compared, variant: str, metric: str) -> float | None:
    return compared.scores[variant].summary.get(metric, compared.trained[variant].get(metric))


def _tests(questions: Sequence[_Question], compared: Compared) -> dict[_Question, PairedTest]:
    """The answers to those questions that two queries or more can answer, corrected together."""
    pairs = {}
    for question in questions:
        if question.against:
            ours = per_query(compared.scores[question.variant], question.metric)
            theirs = per_query(compared.scores[question.against], question.metric)
            if n_pairs(ours, theirs) > 1:
                pairs[question] = ours, theirs
    return dict(zip(pairs, paired_tests(list(pairs.values())), strict=True))


def _remarks(
    table: TableConfig, rows: Sequence[Row], tests: Mapping[_Question, PairedTest], compared: Compared
) -> Iterator[str]:
    if tests:
        yield how_tested(list(tests.values()))
    reached = {
        metric: any(row.cells[column].value is not None for row in rows) for column, metric in enumerate(table.metrics)
    }
    yield from why_missing([metric for metric in table.metrics if not reached[metric]], compared)
    of_training = [metric for metric in table.metrics if reached[metric] and is_measured_by(metric, "head")]
    if of_training:
        yield why_untested(of_training)
    if JUDGED_AGAINST_RANDOM in table.metrics:
        yield from against_random([row.variant for row in rows], compared)
