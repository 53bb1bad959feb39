"""A table as Markdown holds every figure, and no text of a config breaks it."""

import re

from retrieval_core.evaluate.compare.markdown import as_markdown
from retrieval_core.evaluate.report.formatting import number, signed


def test_markdown_holds_the_same_figures_in_rows_of_one_width(full) -> None:
    for table in full.tables:
        blocks = re.findall(r"(?:^\|.*\n?)+", as_markdown(table), flags=re.MULTILINE)
        for block in blocks:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
            assert len(widths) == 1
        text = as_markdown(table)
        assert text.startswith(f"### {table.title}\n")
        for row in table.rows:
            for cell in row.cells:
                assert number(cell.value) in text
                if cell.test:
                    assert f"{signed(cell.test.low)} to {signed(cell.test.high)}" in text
                    assert f"{cell.test.p_holm:.2g}" in text
        assert all(f"- {remark}\n" in text for remark in table.remarks)


def test_markdown_marks_the_best_and_gives_random_a_row(full) -> None:
    text = as_markdown(full.tables[0])
    best = max(row.cells[0].value for row in full.tables[0].rows)
    assert f"**{best:.3f}**" in text
    assert "| *random* |" in text
    assert "\n\nDifference from raw:\n\n| variant |" in text
    assert "| boosted | raw | `map@5` |" in as_markdown(full.tables[1])


def test_a_name_cannot_break_a_markdown_row(full) -> None:
    row = full.tables[2].rows[0].model_copy(update={"variant": "a|b\nc"})
    assert "| a\\|b c | " in as_markdown(full.tables[2].model_copy(update={"rows": (row,)}))
