"""The parts that all drawings share: scales with ticks, text, grid lines, and a frame with a description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from retrieval_core.evaluate.report.formatting import MINUS

WIDTH = 380  # of the charts with a fixed aspect ratio, in CSS pixels at their natural size


class Scale(NamedTuple):
    """A linear map from values to pixels, with round ticks inside its range."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start_px + share * (self.end_px - self.start_px), 1)

    def ticks(self) -> list[float]:
        step = round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


def chart(words: str, height: float, parts: Sequence[Markup], width: int = WIDTH) -> Markup:
    """Draw a chart that scales with its container; `words` describe it to those who cannot see it."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>{3}</svg>'
    ).format(width, f"{height:g}", words, Markup().join(parts))


def grid_line(x1: float, x2: float, y1: float, y2: float) -> Markup:
    """Draw a thin line behind the marks."""
    return Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x1, x2, y1, y2)


def text(x: float, y: float, words: str, style: str, anchor: str) -> Markup:
    """Draw text, escaped, at a position; `anchor` is start, middle or end."""
    return Markup('<text class="{}" x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(style, x, y, anchor, words)


def round_step(raw: float) -> float:
    """Return the smallest of 1, 2, 2.5 or 5 times a power of ten that is at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))


def tick_label(value: float) -> str:
    """Write the value of a tick with at most four digits."""
    return f"{value:.4g}".replace("-", MINUS)
