"""Progress of a run: a bar a stage on a terminal, filled and timed by what the run logs; elsewhere no long silence."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

from deployments.cli.terminal import one_line, visible

if TYPE_CHECKING:
    from rich.console import Console

SILENCE_S = 4.5
_STAGE = re.compile(r"stage (.+)")
_SHARD = re.compile(r"(.+) shard (\d+) of (\d+): (\d+) of (\d+), (.+/s)")
_COUNT = re.compile(r"(.+): (\d+) of (\d+), (.+/s)")


class Heartbeat(logging.Handler):
    """Prints the current stage and its duration on stderr whenever nothing was logged for `SILENCE_S`."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin with the stage `start`; later ones are those that the handler is given."""
        self._stage, self._stage_began_s, self._spoke_s = "start", time.monotonic(), time.monotonic()
        self._ended.clear()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        logging.root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._spoke_s = time.monotonic()
        if stage := _STAGE.fullmatch(record.getMessage()):
            self._stage, self._stage_began_s = stage[1], self._spoke_s

    def _beat(self) -> None:
        while not self._ended.wait(max(0.1, self._spoke_s + SILENCE_S - time.monotonic())):
            now_s = time.monotonic()
            if now_s >= self._spoke_s + SILENCE_S:
                self._spoke_s = now_s
                duration = f"{self._stage} for {now_s - self._stage_began_s:.0f} s"
                print(f"{time.strftime('%H:%M:%S')} | INFO    | {duration}", file=sys.stderr)


HEARTBEAT = Heartbeat()


class StageBars(logging.Handler):
    """Shows a bar for each stage that the log names; prints warnings above the bars, and drops other messages."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        super().__init__(logging.INFO)
        columns = (BarColumn(24), TaskProgressColumn(), TimeElapsedColumn())
        detail = TextColumn("{task.fields[detail]}", style="dim", markup=False)
        name = TextColumn("{task.description:<10}", markup=False)
        spinner = SpinnerColumn(finished_text="✓" if console.encoding.startswith("utf") else "*")
        self._progress = Progress(spinner, name, *columns, detail, console=console)
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
    """Show a run's log as bars in place of the lines of the root's handler, if stderr is a terminal that has them."""
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from rich.console import Console

        bars = StageBars(Console(stderr=True))
        bars.filters = lines.filters
        HEARTBEAT.end()
        logging.root.removeHandler(lines)
        logging.root.addHandler(bars)


def end_stage_bars() -> None:
    """Stop the bars or the heartbeat, if there are any, before something else is printed."""
    HEARTBEAT.end()
    for handler in [handler for handler in logging.root.handlers if isinstance(handler, StageBars)]:
        logging.root.removeHandler(handler)
        handler.close()
