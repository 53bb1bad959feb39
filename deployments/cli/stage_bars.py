"""Progress on a terminal: a bar a stage, filled and timed by what the run logs."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

from deployments.cli.terminal import one_line, visible

if TYPE_CHECKING:
    from rich.console import Console

_STAGE = re.compile(r"stage (.+)")
_SHARD = re.compile(r"(.+) shard (\d+) of (\d+): (\d+) of (\d+), (.+/s)")
_COUNT = re.compile(r"(.+): (\d+) of (\d+), (.+/s)")


class StageBars(logging.Handler):
    """Shows a bar for each stage that the log names; prints warnings above the bars, and drops other messages."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        super().__init__(logging.INFO)
        columns = (BarColumn(24), TaskProgressColumn(), TimeElapsedColumn())
        detail = TextColumn("{task.fields[detail]}", style="dim", markup=False)
        name = TextColumn("{task.description:<10}", markup=False)
        self._progress = Progress(SpinnerColumn(finished_text="✓"), name, *columns, detail, console=console)
        self._progress.start()
        console.show_cursor(True)  # a killed process could not show it again
        self._bar = self._progress.add_task("start", total=None, detail="")

    def emit(self, record: logging.LogRecord) -> None:
        message = visible(one_line(record.getMessage()))
        if record.levelno >= logging.WARNING:
            self._progress.console.print(f"{record.levelname.lower()}: {message}", markup=False, highlight=False)
        elif stage := _STAGE.fullmatch(message):
            self._finish_stage()
            self._bar = self._progress.add_task(stage[1], total=None, detail="")
        elif shard := _SHARD.fullmatch(message):
            number, n_shards, n_done, n_total = (int(text) for text in shard.groups()[1:5])
            share = (number - 1 + n_done / n_total) / n_shards
            detail = f"{shard[1]} {number}/{n_shards}  {shard[6]}"
            self._progress.update(self._bar, completed=share, total=1, detail=detail)
        elif count := _COUNT.fullmatch(message):
            self._progress.update(
                self._bar, completed=int(count[2]), total=int(count[3]), detail=f"{count[1]}  {count[4]}"
            )
        else:
            self._progress.update(self._bar, detail=message[:60])

    def close(self) -> None:
        """Finish the last bar and leave the terminal to the next output."""
        self._finish_stage()
        self._progress.stop()
        super().close()

    def _finish_stage(self) -> None:
        self._progress.update(self._bar, completed=1, total=1, detail="")
        self._progress.stop_task(self._bar)


def show_stage_bars(lines: logging.Handler) -> None:
    """Show a run's log as bars in place of the lines of the root's handler, if stderr is a terminal."""
    if sys.stderr.isatty():
        from rich.console import Console

        bars = StageBars(Console(stderr=True))
        bars.filters = lines.filters
        logging.root.removeHandler(lines)
        logging.root.addHandler(bars)


def end_stage_bars() -> None:
    """Stop the bars, if there are any, before something else is printed."""
    for handler in [handler for handler in logging.root.handlers if isinstance(handler, StageBars)]:
        logging.root.removeHandler(handler)
        handler.close()
