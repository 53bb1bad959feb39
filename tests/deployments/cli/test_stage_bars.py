"""What a run logs becomes a bar a stage on a terminal, and no other output is disturbed."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from deployments.cli.stage_bars import StageBars, end_stage_bars, show_stage_bars

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(*messages: tuple[int, str]) -> list[str]:
    """Return every line that the terminal showed during these messages."""
    out = io.StringIO()
    bars = StageBars(Console(file=out, force_terminal=True, width=120))
    for level, text in messages:
        bars.emit(logging.LogRecord("prefect.flow_runs", level, __file__, 1, text, (), None))
    bars._progress.refresh()
    bars.close()
    assert "\x1b[?25h" in out.getvalue()  # the cursor is visible
    return ESCAPES.sub("", out.getvalue()).replace("\r", "\n").splitlines()


def info(*texts: str) -> list[tuple[int, str]]:
    return [(logging.INFO, text) for text in texts]


def test_a_stage_is_a_bar_with_its_share_and_rate() -> None:
    lines = shown(*info("stage ingest", "stage embed", "embed raw shard 2 of 4: 32 of 64, 12.5/s"))
    assert any("ingest" in line and "100%" in line for line in lines)
    assert any("embed" in line and " 38%" in line and "embed raw 2/4  12.5/s" in line for line in lines)


def test_a_count_without_shards_fills_a_bar_too() -> None:
    lines = shown(*info("stage mask", "pictures for the U-Net: 5 of 20, 3.0/s"))
    assert any("mask" in line and " 25%" in line and "pictures for the U-Net  3.0/s" in line for line in lines)


def test_a_warning_is_printed_in_full_and_obeys_no_control_character() -> None:
    lines = shown(*info("stage mask"), (logging.WARNING, "half of the masks \x1b[2J[bold]are distrusted"))
    assert "warning: half of the masks \\x1b[2J[bold]are distrusted" in lines


def test_bars_replace_the_log_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger("root of a test")
    console = logging.StreamHandler(io.StringIO())
    console.name = "console"
    root.addHandler(console)
    monkeypatch.setattr(logging, "root", root)
    show_stage_bars(console)
    assert root.handlers == [console]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    show_stage_bars(console)
    assert [type(handler) for handler in root.handlers] == [StageBars]
    end_stage_bars()
    assert root.handlers == []
