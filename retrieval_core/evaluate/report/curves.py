"""Charts with lines: training curves, recall or quality against cost, and the chain of losses.

The rules of `charts.py` hold: every series differs by more than colour, and every chart states what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from markupsafe import Markup

from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.report.schema import IndexFacts
from retrieval_core.evaluate.report.svg import WIDTH, Scale, chart, grid_line, text, tick_label

RECALL = "recall@10"
NOT_CURVES = ("epoch", "seconds", "learning_rate", "size_px", "threshold")
# Of the metric objectives: how far apart unlike pictures are, beside the margin; and the signs of a collapse.
DISTANCES = ("margin", "unlike_distance")
COLLAPSE = ("active_share", "spread", "collapsed")
# Drawn last, so that the best epoch is marked on them.
SELECTED_BY = ("val_loss", "f1_example")
LABEL_HEIGHT = 15
SHORT_LABELS = {"masked_boosted": "boosted", "reranked": "rerank"}  # of links, if there are many
MAX_MARKERS = 40

Point = tuple[float, float]
Best = Literal["", "min", "max"]


def training_charts(name: str, history: Sequence[Mapping[str, float]]) -> list[tuple[str, Markup]]:
    """Return (title, chart) of the losses, scores, distances and signs of collapse that `history` holds.

    `history` has one mapping of figures for each epoch.
    """
    figures = list(dict.fromkeys(figure for row in history for figure in row if figure not in NOT_CURVES))
    losses = [figure for figure in figures if figure.endswith("loss")]
    scores = [figure for figure in figures if figure not in (*losses, *DISTANCES, *COLLAPSE)]
    groups: tuple[tuple[str, list[str], Best], ...] = (
        ("Loss", losses, "min" if "val_loss" in losses else ""),
        ("Validation", scores, "max"),
        ("Distances", [figure for figure in DISTANCES if figure in figures], ""),
        ("Collapse", [figure for figure in COLLAPSE if figure in figures], ""),
    )
    charts = []
    for title, group, best in groups:
        series = {
            figure: [(row.get("epoch", i + 1), row[figure]) for i, row in enumerate(history) if figure in row]
            for figure in sorted(group, key=lambda figure: figure in SELECTED_BY)
        }
        if drawing := over_epochs(f"{title} of {name}", series, best):
            charts.append((title, drawing))
    return charts


def over_epochs(title: str, series: Mapping[str, Sequence[Point]], best: Best = "") -> Markup:
    """Draw lines over epochs, each labelled at its end, and mark the best epoch of the last series.

    `series` maps a name to its (epoch, value) points; points that are not finite are left out. `best` says whether the
    best value is the `min` or the `max`; "" marks none.
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


def _epoch_ticks(first: float, last: float) -> list[float]:
    step = max(1, math.ceil((last - first) / 6))
    return [first + step * i for i in range(int((last - first) // step) + 1)]


def _spread(ys: list[float]) -> list[float]:
    """Return label heights, moved down just enough not to overlap."""
    spread = list(ys)
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    for above, below in pairwise(order):
        spread[below] = max(spread[below], spread[above] + LABEL_HEIGHT)
    return spread


def tuning_charts(index: IndexFacts) -> list[tuple[str, Markup]]:
    """Return (title, chart) of the recall of each way to search against its cost; none if there was no choice."""
    if len(index.curve) < 2:
        return []
    chosen = search_setting(index.chosen) if index.chosen else ""
    kilobytes = {search_setting(point): (_rounded(point.query_bytes / 1e3), point.recall) for point in index.curve}
    milliseconds = {search_setting(point): (_rounded(point.latency_ms or 0.0), point.recall) for point in index.curve}
    charts = [
        ("Recall against what a query reads", tuning(RECALL, kilobytes, "kB a query", index.recall_target, chosen)),
        ("Recall against time", tuning(RECALL, milliseconds, "ms a query", index.recall_target, chosen)),
    ]
    return [(title, drawing) for title, drawing in charts if drawing]


def search_setting(point: TunePoint) -> str:
    """Describe a setting as `nprobe 16, rerank 4`, without nprobe if the index has no lists."""
    lists = f"nprobe {point.nprobe:,}, " if point.nprobe else ""
    return f"{lists}rerank {point.rerank_depth:,}"


def _rounded(cost: float) -> float:
    """Round to the three digits that an axis can show."""
    return float(f"{cost:.3g}")


def tuning(title: str, points: Mapping[str, Point], cost: str, target: float, chosen: str) -> Markup:
    """Draw (cost, value) points over a logarithmic axis of costs, a dashed line at `target`, a diamond at `chosen`.

    Points that are better than every cheaper one are joined by steps. Points with a cost of 0 or that are not finite
    are left out.
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
    words = f"{title} against {cost}, {len(shown)} search settings; the target is {target:g}"
    if chosen in shown:
        words += f"; published is {chosen} with {shown[chosen][1]:.4f} at {shown[chosen][0]:,.4g}"
    return chart(words, plane.height, parts)


def front(title: str, points: Mapping[str, Point], leaders: Sequence[str], cost: str) -> Markup:
    """Draw (cost, value) points over a logarithmic axis of costs, with steps through the `leaders`, the cheapest first.

    Leaders are diamonds labelled with their rank. Points with a cost of 0 or that are not finite are left out.
    """
    shown = _placeable(points)
    if not shown:
        return Markup()
    ranks = {name: str(rank) for rank, name in enumerate((name for name in leaders if name in shown), start=1)}
    plane = _log_plane(shown.values(), cost)
    parts = [*plane.parts, _steps([plane.place(*shown[name]) for name in ranks])]
    # The leaders are drawn last, on top of the others; no point can lie above and to the left of them.
    for name in sorted(shown, key=lambda name: name in ranks):
        at, value = shown[name]
        parts.append(_front_mark(f"{name}: {value:.3f} at {at:,.6g}", *plane.place(at, value), ranks.get(name)))
    listed = ", ".join(f"{name} {shown[name][1]:.3f} at {shown[name][0]:,.6g}" for name in ranks)
    return chart(f"{title} against {cost}; from the cheapest, unbeaten: {listed}", plane.height, parts)


class _LogPlane(NamedTuple):
    """A plane of values over costs on a logarithmic scale, with its grid and the labels of its axes."""

    x: Scale
    y: Scale
    height: int
    parts: list[Markup]

    def place(self, cost: float, value: float) -> Point:
        return self.x(math.log10(cost)), self.y(value)


def _log_plane(points: Iterable[Point], cost: str, also: Sequence[float] = ()) -> _LogPlane:
    """Make a plane with room for all `points` and for the values `also`."""
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
    """Draw a staircase through points in pixels, the cheapest first: each is the best until the next."""
    corners = [(after[0], before[1]) for before, after in pairwise(placed)]
    path = [*(point for pair in zip(placed, corners, strict=False) for point in pair), *placed[-1:]]
    return Markup('<polyline class="frontier" points="{}"/>').format(" ".join(f"{x},{y}" for x, y in path))


def _placeable(points: Mapping[str, Point]) -> dict[str, Point]:
    return {name: (x, y) for name, (x, y) in points.items() if 0 < x < math.inf and math.isfinite(y)}


def _front_mark(words: str, x: float, y: float, rank: str | None) -> Markup:
    """Draw a dot, or a diamond labelled with its rank."""
    if rank is None:
        mark = Markup('<circle class="mark" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(x, y, words)
        return Markup('<g class="dot">{}</g>').format(mark)
    mark = Markup('<path class="mark" d="M{} {}l6.5 6.5-6.5 6.5-6.5-6.5z"><title>{}</title></path>').format(
        x, y - 6.5, words
    )
    return Markup('<g class="dot highlight">{}{}</g>').format(mark, text(x - 6, y - 7, rank, "label", "end"))


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in the range of the values, only the powers if there are many.

    If fewer than two lie in the range, return both ends of it.
    """
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return inside if len(inside) > 1 else sorted({low, high})


def chain(metric: str, losses: LossFacts) -> Markup:
    """Draw what each link of the chain reaches in one metric; a loss beyond chance is a thick dashed line.

    The step that lost most is marked by a triangle. Returns "" if fewer than two links have the metric.
    """
    links = [(link, link.metrics[metric]) for link in losses.links if metric in link.metrics]
    if len(links) < 2:
        return Markup()
    values = [value for _, value in links]
    left, right, top, bottom = 46, WIDTH - 30, 30, 160
    margin = max(0.12 * (max(values) - min(values)), 0.005)
    y = Scale(min(values) - margin, max(values) + margin, bottom, top)
    x = Scale(0, len(links) - 1, left + 14, right - 14)
    parts = [grid_line(left, right, y(tick), y(tick)) for tick in y.ticks()]
    parts += [text(left - 6, y(tick) + 4, tick_label(tick), "tick", "end") for tick in y.ticks()]
    for position, ((_, before), (link, after)) in enumerate(pairwise(links)):
        change = next((change for change in link.changes if change.metric == metric), None)
        is_loss = change is not None and change.is_loss
        line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(line.format("step lost" if is_loss else "step", x(position), y(before), x(position + 1), y(after)))
        if link.step == losses.lost_most and metric == losses.lost_metric:
            middle, high = (x(position) + x(position + 1)) / 2, min(y(before), y(after)) - 12
            parts.append(Markup('<path class="worst" d="M{} {}h12l-6 9z"/>').format(middle - 6, high - 4))
    is_crowded = len(links) > 4
    for position, (link, value) in enumerate(links):
        mark = Markup('<circle class="link" cx="{}" cy="{}" r="4.5"><title>{}: {:.3f}</title></circle>')
        parts.append(mark.format(x(position), y(value), link.name, value))
        parts.append(text(x(position), y(value) - 9, f"{value:.3f}", "value over", "middle"))
        label = SHORT_LABELS.get(link.name, link.name) if is_crowded else link.name
        label_y = bottom + (33 if is_crowded and position % 2 else 18)
        parts.append(text(x(position), label_y, label, "label", "middle"))
    listed = ", ".join(f"{link.name} {value:.3f}" for link, value in links)
    words = f"{metric} along the chain: {listed}"
    if metric == losses.lost_metric:
        words += f"; {losses.lost_most} loses most"
    return chart(words, bottom + 40, parts)
