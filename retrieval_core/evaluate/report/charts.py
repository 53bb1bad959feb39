"""Charts of the report: pure functions from numbers to inline SVG. The page's stylesheet gives the colours.

Every series has a shape or a dash of its own beside its colour, and every chart says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from markupsafe import Markup

from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.evaluate.report import charts
from retrieval_core.evaluate.report.schema import IndexFacts
from retrieval_core.evaluate.report.svg import MINUS, WIDTH, Scale, chart, grid_line, round_step, text, tick_label

RECALL = "recall@10"
NOT_CURVES = ("epoch", "seconds", "learning_rate", "size_px", "threshold")
# Of the metric objectives: how far apart unlike pictures are, beside the margin; and what gives a collapse away.
DISTANCES = ("margin", "unlike_distance")
COLLAPSE = ("active_share", "spread", "collapsed")
# Drawn last, where the best epoch is marked.
HEADLINES = ("val_loss", "f1_example")

Point = tuple[float, float]

ROW_HEIGHT = 26
LABEL_HEIGHT = 15
MAX_LABEL_CHARS = 17
MAX_MARKERS = 40


def bar(share: float) -> Markup:
    """A horizontal bar as wide as `share`, 0 to 1, of its table cell; the figure itself stands beside it."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return Markup('<svg class="bar" aria-hidden="true"><rect width="{:.2f}%" height="100%" rx="2"/></svg>').format(
        percent
    )


def interval(difference: float, low: float | None, high: float | None, reach: float) -> Markup:
    """A difference as a dot and its interval as a line around 0; the cell spans -reach to reach."""

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
    """One row a name: a dot at its value, from 0 on; a dashed line at the random `baseline`; `highlight` a diamond."""
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
    said = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    words = f"{title} by representation: {said}" + ("" if baseline is None else f"; at random {baseline:.3f}")
    return chart(words, bottom + 24, parts)


def _dot_row(name: str, value: float, x: Scale, y: float, highlighted: bool) -> Markup:
    label = name if len(name) <= MAX_LABEL_CHARS else f"{name[: MAX_LABEL_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
    at = x(value)
    if highlighted:
        mark = Markup('<path class="mark" d="M{} {}l6.5 6.5-6.5 6.5-6.5-6.5z"/>').format(at, y - 6.5)
    else:
        mark = Markup('<circle class="mark" cx="{}" cy="{}" r="5"/>').format(at, y)
    return Markup('<g class="{}"><line class="stem" x1="{}" x2="{}" y1="{y}" y2="{y}"/>{}{}{}</g>').format(
        "dot highlight" if highlighted else "dot",
        x(0.0),
        at,
        mark,
        text(x(0.0) - 10, y + 4, label, "label", "end"),
        text(WIDTH - 4, y + 4, f"{value:.3f}", "value", "end"),
        y=y,
    )


def curves(title: str, series: Mapping[str, Sequence[Point]], best: str = "") -> Markup:
    """Lines over epochs, each labelled at its end; `best` says whether the last series is best at its `min` or `max`.

    `series` maps a name to its (epoch, value) points; values that are not finite leave a gap.
    """
    lines = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup()
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    height, bottom = 196, 160
    margin = max(0.06 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)), 1e-6)
    x = Scale(min(xs), max(max(xs), min(xs) + 1), 44, WIDTH - 92)
    y = Scale(min(ys) - margin, max(ys) + margin, bottom, 12)
    parts = [grid_line(44, WIDTH - 92, y(tick), y(tick)) for tick in y.ticks()]
    parts += [text(38, y(tick) + 4, tick_label(tick), "tick", "end") for tick in y.ticks()]
    parts += [text(x(tick), bottom + 16, f"{tick:g}", "tick", "middle") for tick in _epoch_ticks(min(xs), max(xs))]
    parts.append(text((44 + WIDTH - 92) / 2, height - 4, "epoch", "tick", "middle"))
    label_ys = _spread([y(points[-1][1]) for points in lines.values()])
    for number, ((name, points), label_y) in enumerate(zip(lines.items(), label_ys, strict=True)):
        placed = [(x(at), y(value)) for at, value in points]
        parts.append(_line(number, name, points, placed))
        parts.append(text(x(max(xs)) + 10, label_y + 4, name, f"label s{number % 3}", "start"))
    words = [f"{title} by epoch"]
    if best:
        name, points = list(lines.items())[-1]
        epoch, value = (min if best == "min" else max)(points, key=lambda point: point[1])
        parts.append(Markup('<circle class="best" cx="{}" cy="{}" r="7"/>').format(x(epoch), y(value)))
        words.append(f"{name} is best at epoch {epoch:g} with {value:.3f}")
    words += [f"{name} ends at {points[-1][1]:.3f}" for name, points in lines.items()]
    return chart("; ".join(words), height, parts)


class _LogPlane(NamedTuple):
    """Values over costs on a logarithmic scale, with the grid and the words on its axes."""

    x: Scale
    y: Scale
    height: int
    parts: list[Markup]

    def place(self, cost: float, value: float) -> Point:
        return self.x(math.log10(cost)), self.y(value)


def _log_plane(points: Iterable[Point], cost: str, also: Sequence[float] = ()) -> _LogPlane:
    """Room for all `points` and for the values `also`."""
    costs, values = zip(*points, strict=True)
    low, high = min(*values, *also, math.inf), max(*values, *also, -math.inf)
    height, left, right, bottom = 236, 52, WIDTH - 16, 194
    margin = max(0.08 * (high - low) or 0.05 * abs(high), 1e-6)
    y = Scale(low - margin, high + margin, bottom, 18)
    x = Scale(math.log10(min(costs)) - 0.12, math.log10(max(costs)) + 0.08, left, right)
    parts = [grid_line(left, right, y(tick), y(tick)) for tick in y.ticks()]
    parts += [text(left - 6, y(tick) + 4, tick_label(tick), "tick", "end") for tick in y.ticks()]
    parts += [text(x(math.log10(tick)), bottom + 17, f"{tick:,.6g}", "tick", "middle") for tick in _log_ticks(costs)]
    parts.append(text((left + right) / 2, height - 5, cost, "tick", "middle"))
    return _LogPlane(x, y, height, parts)


def _steps(placed: Sequence[Point]) -> Markup:
    """A staircase through placed points, the cheapest first: each stays the best until the next."""
    corners = [(after[0], before[1]) for before, after in pairwise(placed)]
    path = [*(point for pair in zip(placed, corners, strict=False) for point in pair), *placed[-1:]]
    return Markup('<polyline class="frontier" points="{}"/>').format(" ".join(f"{x},{y}" for x, y in path))


def _placeable(points: Mapping[str, Point]) -> dict[str, Point]:
    return {name: (x, y) for name, (x, y) in points.items() if 0 < x < math.inf and math.isfinite(y)}


def front(title: str, points: Mapping[str, Point], leaders: Sequence[str], cost: str) -> Markup:
    """(cost, value) points, costs above 0 on a logarithmic scale; `leaders`, the cheapest first, are joined by steps.

    They are diamonds that bear their rank. Points that cannot be placed are left out.
    """
    shown = _placeable(points)
    if not shown:
        return Markup()
    ranks = {name: str(rank) for rank, name in enumerate((name for name in leaders if name in shown), start=1)}
    plane = _log_plane(shown.values(), cost)
    parts = [*plane.parts, _steps([plane.place(*shown[name]) for name in ranks])]
    # The front is drawn last, over the others; above and to the left of it nothing can lie.
    for name in sorted(shown, key=lambda name: name in ranks):
        at, value = shown[name]
        parts.append(_front_mark(f"{name}: {value:.3f} at {at:,.6g}", *plane.place(at, value), ranks.get(name)))
    said = ", ".join(f"{name} {shown[name][1]:.3f} at {shown[name][0]:,.6g}" for name in ranks)
    return chart(f"{title} against {cost}; from the cheapest, unbeaten: {said}", plane.height, parts)


def tuning(title: str, points: Mapping[str, Point], cost: str, target: float, chosen: str) -> Markup:
    """(cost, value) points, costs above 0 on a logarithmic scale, over a dashed line at `target`; `chosen` a diamond.

    Those that nothing cheaper reaches are joined by steps. Points that cannot be placed are left out.
    """
    shown = _placeable(points)
    if not shown:
        return Markup()
    plane = _log_plane(shown.values(), cost, also=[target])
    unbeaten: list[Point] = []
    for point in sorted(shown.values(), key=lambda point: (point[0], -point[1])):
        if not unbeaten or point[1] > unbeaten[-1][1]:
            unbeaten.append(point)
    y, (left, right) = plane.y(target), (plane.x.start_px, plane.x.end_px)
    line = Markup('<line class="baseline" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(left, right, y=y)
    parts = [*plane.parts, line, text(left + 4, y - 5, f"target {target:g}", "tick over", "start")]
    parts.append(_steps([plane.place(*point) for point in unbeaten]))
    for name in sorted(shown, key=lambda name: name == chosen):
        at, value = shown[name]
        place = plane.place(at, value)
        parts.append(_front_mark(f"{name}: {value:.4f} at {at:,.4g}", *place, "" if name == chosen else None))
    words = f"{title} against {cost}, {len(shown)} ways to search; the target is {target:g}"
    if chosen in shown:
        words += f"; published is {chosen} with {shown[chosen][1]:.4f} at {shown[chosen][0]:,.4g}"
    return chart(words, plane.height, parts)


def _front_mark(words: str, x: float, y: float, rank: str | None) -> Markup:
    """A dot, or a diamond that bears its rank."""
    if rank is None:
        mark = Markup('<circle class="mark" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(x, y, words)
        return Markup('<g class="dot">{}</g>').format(mark)
    mark = Markup('<path class="mark" d="M{} {}l6.5 6.5-6.5 6.5-6.5-6.5z"><title>{}</title></path>').format(
        x, y - 6.5, words
    )
    return Markup('<g class="dot highlight">{}{}</g>').format(mark, text(x - 6, y - 7, rank, "label", "end"))


def _line(number: int, name: str, points: Sequence[Point], placed: Sequence[Point]) -> Markup:
    path = Markup('<polyline points="{}"/>').format(" ".join(f"{x},{y}" for x, y in placed))
    marks = []
    if len(points) <= MAX_MARKERS:
        for (epoch, value), (x, y) in zip(points, placed, strict=True):
            shape = f"M{x - 3} {y - 3}h6v6h-6z" if number % 2 else f"M{x - 3} {y}a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"
            marks.append(
                Markup('<path d="{}"><title>{} at epoch {:g}: {:.4f}</title></path>').format(shape, name, epoch, value)
            )
    return Markup('<g class="curve s{}">{}{}</g>').format(number % 3, path, Markup().join(marks))


def signed(value: float) -> str:
    """A difference of metrics: +0.012, and a true minus sign; no sign where it rounds to nothing."""
    if abs(value) < 0.0005:
        return "0.000"
    return f"{'+' if value > 0 else MINUS}{abs(value):.3f}"


def _epoch_ticks(first: float, last: float) -> list[float]:
    step = max(1, math.ceil((last - first) / 6))
    return [first + step * i for i in range(int((last - first) // step) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten within the values' range, only the powers over many; or else both ends."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return inside if len(inside) > 1 else sorted({low, high})


def _spread(ys: list[float]) -> list[float]:
    """Label heights moved down just enough not to overlap."""
    out = list(ys)
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    for above, below in pairwise(order):
        out[below] = max(out[below], out[above] + LABEL_HEIGHT)
    return out


def history_charts(name: str, history: Sequence[Mapping[str, float]]) -> list[tuple[str, Markup]]:
    """(title, chart) of the losses, the scores, the distances and the signs of collapse in `history`, of any it has."""
    figures = list(dict.fromkeys(figure for row in history for figure in row if figure not in NOT_CURVES))
    losses = [figure for figure in figures if figure.endswith("loss")]
    scores = [figure for figure in figures if figure not in (*losses, *DISTANCES, *COLLAPSE)]
    groups: tuple[tuple[str, list[str], Literal["", "min", "max"]], ...] = (
        ("Loss", losses, "min" if "val_loss" in losses else ""),
        ("Validation", scores, "max"),
        ("Distances", [figure for figure in DISTANCES if figure in figures], ""),
        ("Collapse", [figure for figure in COLLAPSE if figure in figures], ""),
    )
    drawn = []
    for title, group, best in groups:
        series = {
            figure: [(row.get("epoch", i + 1), row[figure]) for i, row in enumerate(history) if figure in row]
            for figure in sorted(group, key=lambda figure: figure in HEADLINES)
        }
        if chart := charts.curves(f"{title} of {name}", series, best):
            drawn.append((title, chart))
    return drawn


def tuning_charts(index: IndexFacts) -> list[tuple[str, Markup]]:
    """Each with its title; none where there was no choice."""
    if len(index.curve) < 2:
        return []
    chosen = way_to_search(index.chosen) if index.chosen else ""
    read = {way_to_search(point): (_rounded(point.query_bytes / 1e3), point.recall) for point in index.curve}
    taken = {way_to_search(point): (_rounded(point.latency_ms or 0.0), point.recall) for point in index.curve}
    drawn = [
        ("Recall against what a query reads", charts.tuning(RECALL, read, "kB a query", index.recall_target, chosen)),
        ("Recall against time", charts.tuning(RECALL, taken, "ms a query", index.recall_target, chosen)),
    ]
    return [(title, chart) for title, chart in drawn if chart]


def way_to_search(point: TunePoint) -> str:
    """`nprobe 16, rerank 4`; without the lists where there are none."""
    lists = f"nprobe {point.nprobe:,}, " if point.nprobe else ""
    return f"{lists}rerank {point.rerank_depth:,}"


def _rounded(cost: float) -> float:
    """To the three digits that an axis can show."""
    return float(f"{cost:.3g}")
