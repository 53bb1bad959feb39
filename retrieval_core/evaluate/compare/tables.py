"""The tables of a comparison: the metrics of each variant, and which differences are more than chance.

All differences of a table are tested together: Holm's correction bounds the probability of even one false positive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.compare.config import ComparisonConfig, Contrast, TableConfig
from retrieval_core.evaluate.compare.measure import ComparisonResults
from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.evaluate.compare.remarks import against_random, how_tested, why_missing, why_untested
from retrieval_core.metrics.registry import is_measured_by, parse_metric
from retrieval_core.metrics.retrieval import Scores

RANDOM = "random"
# The column heads of the two variants of a pair: the plain one, and the one compared with it.
SIDES: dict[Contrast, tuple[str, str]] = {
    "background": ("raw", "masked or cropped"),
    "boosted": ("plain", "boosted"),
    "dim": ("all dimensions", "reduced"),
    "mode": ("nearest", "classified"),
    "precision": ("float32", "bfloat16 or int8"),
}


class Cell(Value):
    """A metric of a variant, None if undefined; `reference` is its value for the variant it is compared with.

    `deviation` is the standard deviation over queries, `seed_deviation` that over the seeds of a training.
    """

    value: float | None = None
    deviation: float | None = None
    seed_deviation: float | None = None
    reference: float | None = None
    test: PairedTest | None = None

    @property
    def difference(self) -> float | None:
        return None if self.value is None or self.reference is None else self.value - self.reference


class Row(Value):
    """A variant with one cell for each metric; `against` names the variant it is compared with, "" for none."""

    variant: str
    against: str = ""
    cells: tuple[Cell, ...]
    ms_per_picture: float
    n_bytes_per_item: int


class Table(Value):
    """A filled-in `TableConfig`; `random` has one cell for each metric, and is empty in tables of pairs."""

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
    """Return the rows with the highest value of each metric, as printed; none if all printed values are equal."""
    best = []
    for column in range(len(table.metrics)):
        values = [row.cells[column].value for row in table.rows]
        printed = {row: round(value, 3) for row, value in enumerate(values) if value is not None}
        highest = max(printed.values()) if len(set(printed.values())) > 1 else None
        best.append({row for row, value in printed.items() if value == highest})
    return best


class _Question(NamedTuple):
    """Whether `variant` is better than `against` by `metric`; `against` is "" if the variant is not compared."""

    variant: str
    against: str
    metric: str


def build_tables(config: ComparisonConfig, results: ComparisonResults) -> tuple[Table, ...]:
    """Return the filled-in tables of the config, in order; undefined metrics are explained in the remarks."""
    return tuple(_build(config, table, results) for table in config.tables)


def _build(config: ComparisonConfig, table: TableConfig, results: ComparisonResults) -> Table:
    lines = _lines(config, table)
    questions = [_Question(*line, metric) for line in lines for metric in table.metrics]
    tests = _tests(questions, results)
    costs = {variant.spec.name: variant for variant in results.variants}
    rows = tuple(
        Row(
            variant=variant,
            against=against,
            cells=tuple(_cell(_Question(variant, against, metric), results, tests) for metric in table.metrics),
            ms_per_picture=costs[variant].ms_per_picture,
            n_bytes_per_item=costs[variant].n_bytes_per_item,
        )
        for variant, against in lines
    )
    random = tuple(_plain_cell(results.random, metric) for metric in table.metrics)
    return Table(
        title=table.title,
        kind=table.kind,
        metrics=table.metrics,
        rows=rows,
        random=random if table.kind == "metrics" else (),
        baseline=table.baseline,
        contrast=table.contrast,
        note=table.note,
        remarks=tuple(_remarks(table, rows, tests, results)),
    )


def _lines(config: ComparisonConfig, table: TableConfig) -> list[tuple[str, str]]:
    """Return (variant, the variant it is compared with or "") of each row."""
    if table.kind == "pairs":
        return [(other.name, plain.name) for plain, other in config.pairs(table)]
    names = [variant.name for variant in config.rows(table)]
    return [(name, "" if name == table.baseline else table.baseline) for name in names]


def _cell(question: _Question, results: ComparisonResults, tests: Mapping[_Question, PairedTest]) -> Cell:
    reference = _value(results, question.against, question.metric) if question.against else None
    scores = results.scores[question.variant]
    return _plain_cell(scores, question.metric).model_copy(
        update={
            "value": _value(results, question.variant, question.metric),
            "seed_deviation": results.seed_deviations[question.variant].get(question.metric),
            "reference": reference,
            "test": tests.get(question),
        }
    )


def _plain_cell(scores: Scores, metric: str) -> Cell:
    deviation = parse_metric(metric).metric.full_name("std")
    return Cell(value=scores.summary.get(metric), deviation=scores.summary.get(deviation))


def _value(results: ComparisonResults, variant: str, metric: str) -> float | None:
    return results.scores[variant].summary.get(metric, results.trained[variant].get(metric))


def _tests(questions: Sequence[_Question], results: ComparisonResults) -> dict[_Question, PairedTest]:
    """Return the tests of the questions that at least two queries can answer, corrected together."""
    pairs = {}
    for question in questions:
        if question.against:
            values = per_query(results.scores[question.variant], question.metric)
            baseline = per_query(results.scores[question.against], question.metric)
            if n_pairs(values, baseline) > 1:
                pairs[question] = values, baseline
    return dict(zip(pairs, paired_tests(list(pairs.values()), results.protocol.clusters), strict=True))


def _remarks(
    table: TableConfig, rows: Sequence[Row], tests: Mapping[_Question, PairedTest], results: ComparisonResults
) -> Iterator[str]:
    if tests:
        yield how_tested(list(tests.values()))
    is_defined = {
        metric: any(row.cells[column].value is not None for row in rows) for column, metric in enumerate(table.metrics)
    }
    yield from why_missing([metric for metric in table.metrics if not is_defined[metric]], results)
    if any(cell.seed_deviation is not None for row in rows for cell in row.cells):
        yield (
            "What is trained here was trained several times: a value is the mean over the seeds, with their standard "
            "deviation in brackets, and tests compare the means of each query."
        )
    of_training = [metric for metric in table.metrics if is_defined[metric] and is_measured_by(metric, "head")]
    if of_training:
        yield why_untested(of_training)
    for metric in table.metrics:
        if parse_metric(metric).metric.deviation:
            yield from against_random(metric, [row.variant for row in rows], results)
