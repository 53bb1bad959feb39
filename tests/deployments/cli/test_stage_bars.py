"""What a run logs becomes a bar a stage on a terminal, other output is not disturbed; elsewhere no stage is silent."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from deployments.cli import stage_bars
from deployments.cli.stage_bars import Heartbeat, StageBars, end_stage_bars, show_stage_bars
from tests.faults.servers import until

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
    monkeypatch.setenv("TERM", "dumb")  # shows only whole lines
    show_stage_bars(console)
    assert root.handlers == [console]
    monkeypatch.setenv("TERM", "xterm")
    show_stage_bars(console)
    assert [type(handler) for handler in root.handlers] == [StageBars]
    end_stage_bars()
    assert root.handlers == []


def test_a_silent_stage_is_named_until_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage_bars, "SILENCE_S", 0.05)
    beat, printed = Heartbeat(), ""

    def is_printed(stage: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().err
        return f"| {stage} for 0 s" in printed

    beat.start()
    until(lambda: is_printed("start"), "a line of the start")
    for message in ("stage backbone", "exporting resnet18"):
        beat.emit(logging.LogRecord("retrieval_core", logging.INFO, __file__, 1, message, (), None))
    until(lambda: is_printed("backbone"), "a line of the stage")
    beat.end()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d \| INFO    \| \w+ for \d+ s", line) for line in printed.splitlines())


def test_a_log_that_is_not_silent_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage_bars, "SILENCE_S", 600.0)
    beat = Heartbeat()
    beat.start()
    beat.end()
    assert capsys.readouterr().err == ""
