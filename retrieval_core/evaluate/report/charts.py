"""Charts of a page, drawn as inline SVG: bars, dots, intervals, columns, histograms and sparklines.

They are pure functions from numbers to markup; the page's stylesheet gives the colours. Every series differs by a shape
or a dash as well as by colour, and every chart states in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from retrieval_core.evaluate.analysis.drift import Drift
from retrieval_core.evaluate.report.formatting import signed
from retrieval_core.evaluate.report.svg import WIDTH, Scale, chart, grid_line, round_step, text, tick_label

ROW_HEIGHT = 26
MAX_LABEL_CHARS = 17
SPARK_WIDTH, SPARK_HEIGHT = 180, 40


def bar(share: float) -> Markup:
    """Draw a horizontal bar over `share`, 0 to 1, of its table cell; the number itself stands beside it."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return Markup('<svg class="bar" aria-hidden="true"><rect width="{:.2f}%" height="100%" rx="2"/></svg>').format(
        percent
    )


def interval(difference: float, low: float | None, high: float | None, reach: float) -> Markup:
    """Draw a difference as a dot and its interval as a line; the cell spans -reach to reach, with 0 in the middle."""

    def x(value: float) -> str:
        return f"{50 + 47 * min(max(value / reach, -1.0), 1.0):.2f}%" if reach > 0 else "50%"

    parts = [Markup('<line class="zero" x1="50%" x2="50%" y1="0" y2="20"/>')]
    words = f"difference {signed(difference)}"
    if low is not None and high is not None:
        words += f", 95% interval {signed(low)} to {signed(high)}"
        for start, end, top, bottom in ((low, high, 10, 10), (low, low, 6, 14), (high, high, 6, 14)):
            line = Markup('<line class="span" x1="{}" x2="{}" y1="{}" y2="{}"/>')
            parts.append(line.format(x(start), x(end), top, bottom))
    parts.append(Markup('<circle cx="{}" cy="10" r="4"/>').format(x(difference)))
    return Markup('<svg class="interval" role="img" aria-label="{0}"><title>{0}</title>{1}</svg>').format(
        words, Markup().join(parts)
    )


def dots(title: str, values: Mapping[str, float], baseline: float | None, highlight: str = "") -> Markup:
    """Draw one row for each name, with a dot at its value on a scale from 0.

    A dashed line marks the random `baseline`; the name `highlight` gets a diamond. Values that are not finite are left
    out.
    """
    shown = {name: value for name, value in values.items() if math.isfinite(value)}
    top, left = 24, 128
    bottom = top + ROW_HEIGHT * len(shown)
    largest = max([*shown.values(), baseline or 0.0, 0.0])
    step = round_step(largest / 4) if largest > 1e-6 else 0.25
    x = Scale(0.0, step * max(math.ceil(largest / step - 1e-9), 1), left, WIDTH - 62)
    parts = [grid_line(x(tick), x(tick), top, bottom) for tick in x.ticks()]
    parts += [text(x(tick), bottom + 16, tick_label(tick), "tick", "middle") for tick in x.ticks()]
    if baseline is not None:
        parts.append(
            Markup('<line class="baseline" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(baseline), top - 4, bottom)
        )
        parts.append(text(x(baseline), top - 9, f"random {baseline:.3f}", "tick", "middle" if baseline else "start"))
    for row, (name, value) in enumerate(shown.items()):
        parts.append(_dot_row(name, value, x, top + ROW_HEIGHT * row + ROW_HEIGHT / 2, name == highlight))
    listed = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    words = f"{title} by representation: {listed}" + ("" if baseline is None else f"; at random {baseline:.3f}")
    return chart(words, bottom + 24, parts)


def _dot_row(name: str, value: float, x: Scale, y: float, is_highlighted: bool) -> Markup:
    label = name if len(name) <= MAX_LABEL_CHARS else f"{name[: MAX_LABEL_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
    if is_highlighted:
        mark = Markup('<path class="mark" d="M{} {}l6.5 6.5-6.5 6.5-6.5-6.5z"/>').format(x(value), y - 6.5)
    else:
        mark = Markup('<circle class="mark" cx="{}" cy="{}" r="5"/>').format(x(value), y)
    return Markup('<g class="{}"><line class="stem" x1="{}" x2="{}" y1="{y}" y2="{y}"/>{}{}{}</g>').format(
        "dot highlight" if is_highlighted else "dot",
        x(0.0),
        x(value),
        mark,
        text(x(0.0) - 10, y + 4, label, "label", "end"),
        text(WIDTH - 4, y + 4, f"{value:.3f}", "value", "end"),
        y=y,
    )


def stacked(title: str, parts: Mapping[str, float]) -> Markup:
    """Draw shares of a whole, 0 to 1, as one bar: the first part filled, the second hatched, the rest empty."""
    drawn = [
        Markup('<i class="{}" style="width:{:.2f}%" title="{}: {:.1%}"></i>').format(
            ("first", "second")[number % 2], 100 * min(max(share, 0.0), 1.0), name, share
        )
        for number, (name, share) in enumerate(parts.items())
    ]
    words = f"{title}: " + ", ".join(f"{name} {share:.1%}" for name, share in parts.items())
    return Markup('<div class="stacked" role="img" aria-label="{}">{}</div>').format(words, Markup().join(drawn))


def columns(title: str, counts: Sequence[int], labels: Sequence[str], axis: str) -> Markup:
    """Draw one column for each count, with the number above it."""
    top, bottom, left, right = 20, 150, 8, WIDTH - 8
    y = Scale(0.0, max([*counts, 1]), bottom, top)
    width = (right - left) / max(len(counts), 1)
    parts = [grid_line(left, right, bottom, bottom)]
    for number, (count, label) in enumerate(zip(counts, labels, strict=True)):
        start = left + number * width
        bar = Markup('<rect class="now" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"/>')
        parts.append(bar.format(start + 1.5, y(count), width - 3, bottom - y(count)))
        if count:
            parts.append(text(start + width / 2, y(count) - 4, f"{count:,}", "tick", "middle"))
        parts.append(text(start + width / 2, bottom + 15, label, "tick", "middle"))
    parts.append(text((left + right) / 2, bottom + 31, axis, "tick", "middle"))
    listed = ", ".join(f"{label}: {count:,}" for label, count in zip(labels, counts, strict=True) if count)
    return chart(f"{title}; {listed}", bottom + 38, parts)


def histogram(drift: Drift) -> Markup:
    """Draw the current distribution as bars, and that of the previous release, if any, as a dashed outline."""
    top, bottom, left, right = 8, 150, 34, WIDTH - 8
    shares = [*drift.now, *drift.then]
    low, high = drift.edges[0], drift.edges[-1]
    x = Scale(low, high if high > low else low + 1, left, right)
    y = Scale(0.0, max([*shares, 1e-9]) * 1.05, bottom, top)
    parts = [grid_line(left, right, y(tick), y(tick)) for tick in y.ticks()]
    parts += [text(left - 6, y(tick) + 4, f"{tick:.0%}", "tick", "end") for tick in y.ticks()]
    parts += [text(x(tick), bottom + 16, tick_label(tick), "tick", "middle") for tick in x.ticks()]
    for (start, end), now, then in zip(pairwise(drift.edges), drift.now, drift.then or drift.now, strict=True):
        words = f"{start:.4g} to {end:.4g}: {now:.1%}" + (f", before {then:.1%}" if drift.then else "")
        bar = Markup('<rect class="now" x="{}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
        parts.append(bar.format(x(start) + 0.5, y(now), max(x(end) - x(start) - 1, 0.5), bottom - y(now), words))
    if drift.then:
        outline = [f"M{x(low)} {bottom}"]
        outline += [f"V{y(share)}H{x(end)}" for share, end in zip(drift.then, drift.edges[1:], strict=True)]
        parts.append(Markup('<path class="then" d="{}V{}"/>').format("".join(outline), bottom))
    words = f"Distribution of {drift.name}, {drift.n_now:,} items now"
    if drift.then:
        words += f" against {drift.n_then:,} in the last release"
    return chart(words, bottom + 24, parts)


def sparkline(name: str, runs: Sequence[tuple[str, float | None, bool]]) -> Markup:
    """Draw (when, value, is_published) of each run, the latest last and marked; held runs are crosses.

    Runs without a value leave a gap. Returns "" if fewer than two runs have one.
    """
    points = [
        (position, when, value, is_published)
        for position, (when, value, is_published) in enumerate(runs)
        if value is not None and math.isfinite(value)
    ]
    if len(points) < 2:
        return Markup()
    values = [value for _, _, value, _ in points]
    reach = max(max(values) - min(values), 0.02)  # changes in the third decimal are drawn as a flat line
    middle = (max(values) + min(values)) / 2
    x = Scale(0, len(runs) - 1, 6, SPARK_WIDTH - 8)
    y = Scale(middle - reach / 2, middle + reach / 2, SPARK_HEIGHT - 7, 7)
    parts = [
        Markup('<polyline points="{}"/>').format(" ".join(f"{x(position)},{y(value)}" for position, value in line))
        for line in _unbroken([(position, value) for position, _, value, _ in points])
    ]
    for number, (position, when, value, is_published) in enumerate(points, start=1):
        px, py = x(position), y(value)
        if is_published:
            shape, style, verdict = f"M{px - 2.5} {py}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z", "night", "published"
        else:
            shape, style, verdict = f"M{px - 3} {py - 3}l6 6M{px + 3} {py - 3}l-6 6", "night held", "held"
        style += " last" if number == len(points) else ""
        words = f"{when}: {value:.3f}, {verdict}"
        parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(style, shape, words))
    words = (
        f"{name} over the last {len(runs)} runs: from {values[0]:.3f} to {values[-1]:.3f}, "
        f"lowest {min(values):.3f}, highest {max(values):.3f}"
    )
    frame = Markup('<svg class="spark" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>{3}</svg>')
    return frame.format(SPARK_WIDTH, SPARK_HEIGHT, words, Markup().join(parts))


def _unbroken(points: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Split points into lines of neighbouring positions."""
    lines = [[points[0]]]
    for before, point in pairwise(points):
        if point[0] == before[0] + 1:
            lines[-1].append(point)
        else:
            lines.append([point])
    return lines
