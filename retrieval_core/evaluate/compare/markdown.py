"""Write a comparison's tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval_core.evaluate.compare.paired import PairedTest
from retrieval_core.evaluate.compare.tables import RANDOM, SIDES, Cell, Table, best_rows
from retrieval_core.evaluate.report.formatting import NOTHING, number, signed


def as_markdown(table: Table) -> str:
    """Return title, note, table and remarks as Markdown that ends with a newline.

    The best value of a column is bold. Differences from a baseline are in a second table, to keep the first readable.
    """
    grids = _pairs(table) if table.kind == "pairs" else _metrics(table)
    remarks = "\n".join(f"- {_line(remark)}" for remark in table.remarks)
    blocks = [f"### {_line(table.title)}", _line(table.note), *grids, remarks]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _metrics(table: Table) -> list[str]:
    best = best_rows(table)
    lines = [
        [
            _name(row.variant),
            *(_value(cell, is_bold=position in best[column]) for column, cell in enumerate(row.cells)),
            f"{row.ms_per_picture:.3g}",
            f"{row.n_bytes_per_item:,}",
        ]
        for position, row in enumerate(table.rows)
    ]
    if table.random:
        lines.append([f"*{RANDOM}*", *(_value(cell) for cell in table.random), NOTHING, NOTHING])
    blocks = [_grid(["variant", *_codes(table.metrics), "ms per picture", "bytes per item"], lines)]
    compared = [row for row in table.rows if row.against]
    if compared:
        differences = [[_name(row.variant), *map(_difference, row.cells)] for row in compared]
        blocks.append(f"Difference from {_name(table.baseline)}:")
        blocks.append(_grid(["variant", *_codes(table.metrics)], differences))
    return blocks


def _pairs(table: Table) -> list[str]:
    lines = [
        [
            _name(row.variant),
            _name(row.against),
            f"`{metric}`",
            number(cell.reference),
            _value(cell.model_copy(update={"deviation": None})),
            *_tested(cell),
        ]
        for row in table.rows
        for metric, cell in zip(table.metrics, row.cells, strict=True)
    ]
    sides = SIDES[table.contrast] if table.contrast else ("", "")
    return [_grid(["variant", "against", "metric", *sides, "difference", "95% interval", "p (Holm)"], lines)]


def _tested(cell: Cell) -> list[str]:
    difference = NOTHING if cell.difference is None else signed(cell.difference)
    return (
        [difference, _interval(cell.test), f"{cell.test.p_holm:.2g}"] if cell.test else [difference, NOTHING, NOTHING]
    )


def _difference(cell: Cell) -> str:
    if cell.difference is None:
        return NOTHING
    words = signed(cell.difference)
    return f"{words} ({_interval(cell.test)}; p {cell.test.p_holm:.2g})" if cell.test else words


def _interval(test: PairedTest) -> str:
    return f"{signed(test.low)} to {signed(test.high)}"


def _value(cell: Cell, is_bold: bool = False) -> str:
    words = f"**{number(cell.value)}**" if is_bold else number(cell.value)
    words += "" if cell.seed_deviation is None else f" ({number(cell.seed_deviation)})"
    return words if cell.deviation is None else f"{words} ± {number(cell.deviation)}"


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with names aligned left and figures aligned right."""
    rules = ["---" if name in ("variant", "against", "metric") else "---:" for name in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *lines))


def _codes(metrics: Sequence[str]) -> list[str]:
    return [f"`{metric}`" for metric in metrics]


def _name(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
