"""The nightly page's own drawings: sparklines, histograms, the chain of losses, the map.

As in `charts.py`, every series has a shape, a dash or a word of its own beside its colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from retrieval_core.evaluate.analysis.drift import Drift
from retrieval_core.evaluate.analysis.embedding_map import OTHER, MapFacts
from retrieval_core.evaluate.analysis.stage_losses import LossFacts
from retrieval_core.evaluate.report.svg import WIDTH, Scale, chart, grid_line, text, tick_label

SPARK_WIDTH, SPARK_HEIGHT = 180, 40
MAP_WIDTH, MAP_HEIGHT = 900, 560
MARGIN = 14
# One shape a category, beside its colour, around (0, 0).
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8l4.6 8h-9.2z",
    "M0-5l5 5-5 5-5-5z",
    "M0 4.8l-4.6-8h9.2z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.5-2.6l1.9-1.9 2.6 2.6 2.6-2.6 1.9 1.9-2.6 2.6 2.6 2.6-1.9 1.9-2.6-2.6-2.6 2.6-1.9-1.9 2.6-2.6z",
    "M-5-2h10v4h-10z",
)
OTHER_SHAPE = "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z"


def sparkline(name: str, nights: Sequence[tuple[str, float | None, bool]]) -> Markup:
    """(when, value, whether it was published) a night, the latest last, which is marked; held nights are crosses.

    Nights without the value leave a gap. Empty where fewer than two have it.
    """
    known = [(place, *night) for place, night in enumerate(nights) if night[1] is not None and math.isfinite(night[1])]
    values = [value for _, _, value, _ in known if value is not None]
    if len(known) < 2:
        return Markup()
    reach = max(max(values) - min(values), 0.02)  # a wobble in the third decimal is drawn as the flat line it is
    middle = (max(values) + min(values)) / 2
    x = Scale(0, len(nights) - 1, 6, SPARK_WIDTH - 8)
    y = Scale(middle - reach / 2, middle + reach / 2, SPARK_HEIGHT - 7, 7)
    points = [(x(place), y(value or 0.0), when, value, published) for place, when, value, published in known]
    runs = _runs([(px, py) for px, py, *_ in points], [place for place, *_ in known])
    parts = [Markup('<polyline points="{}"/>').format(" ".join(f"{px},{py}" for px, py in run)) for run in runs]
    for number, (px, py, when, value, published) in enumerate(points, start=1):
        shape = (
            f"M{px - 2.5} {py}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z"
            if published
            else f"M{px - 3} {py - 3}l6 6M{px + 3} {py - 3}l-6 6"
        )
        style = ("night" if published else "night held") + (" last" if number == len(points) else "")
        words = f"{when}: {value:.3f}, {'published' if published else 'held'}"
        parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(style, shape, words))
    said = (
        f"{name} over the last {len(nights)} nights: from {values[0]:.3f} to {values[-1]:.3f}, "
        f"lowest {min(values):.3f}, highest {max(values):.3f}"
    )
    drawn = Markup('<svg class="spark" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>{3}</svg>')
    return drawn.format(SPARK_WIDTH, SPARK_HEIGHT, said, Markup().join(parts))


def _runs(points: Sequence[tuple[float, float]], places: Sequence[int]) -> list[list[tuple[float, float]]]:
    """The points of neighbouring nights together."""
    runs = [[points[0]]]
    for (before, place), point in zip(pairwise(places), points[1:], strict=True):
        if place == before + 1:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def is_constant(drift: Drift) -> bool:
    """Whether every item has the same value, then and now."""
    return max(drift.now) == 1 and (not drift.then or drift.then == drift.now)


def histogram(drift: Drift) -> Markup:
    """Tonight's distribution as bars, the last release's, where there is one, as a dashed outline over them."""
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
    words = f"Distribution of {drift.name}, {drift.n_now:,} items tonight"
    if drift.then:
        words += f" against {drift.n_then:,} in the last release"
    return chart(words, bottom + 24, parts)


def columns(title: str, counts: Sequence[int], labels: Sequence[str], axis: str) -> Markup:
    """One column a count, each with its figure."""
    top, bottom, left, right = 20, 150, 8, WIDTH - 8
    y = Scale(0.0, max([*counts, 1]), bottom, top)
    width = (right - left) / max(len(counts), 1)
    parts = [grid_line(left, right, bottom, bottom)]
    for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
        at = left + place * width
        bar = Markup('<rect class="now" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"/>')
        parts.append(bar.format(at + 1.5, y(count), width - 3, bottom - y(count)))
        if count:
            parts.append(text(at + width / 2, y(count) - 4, f"{count:,}", "tick", "middle"))
        parts.append(text(at + width / 2, bottom + 15, label, "tick", "middle"))
    parts.append(text((left + right) / 2, bottom + 31, axis, "tick", "middle"))
    said = ", ".join(f"{label}: {count:,}" for label, count in zip(labels, counts, strict=True) if count)
    return chart(f"{title}; {said}", bottom + 38, parts)


def stacked(title: str, parts: Mapping[str, float]) -> Markup:
    """Shares of a whole, 0 to 1, as one bar: the first part full, the second hatched, the rest empty."""
    drawn = [
        Markup('<i class="{}" style="width:{:.2f}%" title="{}: {:.1%}"></i>').format(
            ("first", "second")[number % 2], 100 * min(max(share, 0.0), 1.0), name, share
        )
        for number, (name, share) in enumerate(parts.items())
    ]
    words = f"{title}: " + ", ".join(f"{name} {share:.1%}" for name, share in parts.items())
    return Markup('<div class="stacked" role="img" aria-label="{}">{}</div>').format(words, Markup().join(drawn))


def chain(metric: str, losses: LossFacts) -> Markup:
    """What each link of the chain reaches in one metric; a step that lost beyond chance falls on a thick dashed line.

    The step that lost most bears a triangle. Empty where fewer than two links know the metric.
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
    for place, ((_, before), (link, after)) in enumerate(pairwise(links)):
        change = next((change for change in link.changes if change.metric == metric), None)
        lost = change is not None and change.is_loss
        line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(line.format("step lost" if lost else "step", x(place), y(before), x(place + 1), y(after)))
        if link.step == losses.lost_most and metric == losses.lost_metric:
            middle, high = (x(place) + x(place + 1)) / 2, min(y(before), y(after)) - 12
            parts.append(Markup('<path class="worst" d="M{} {}h12l-6 9z"/>').format(middle - 6, high - 4))
    for place, (link, value) in enumerate(links):
        mark = Markup('<circle class="link" cx="{}" cy="{}" r="4.5"><title>{}: {:.3f}</title></circle>')
        parts.append(mark.format(x(place), y(value), link.name, value))
        parts.append(text(x(place), y(value) - 9, f"{value:.3f}", "value over", "middle"))
        name = (
            link.name
            if len(links) < 5
            else link.name.replace("masked_boosted", "boosted").replace("reranked", "rerank")
        )
        parts.append(text(x(place), bottom + 18 + (15 if place % 2 and len(links) > 4 else 0), name, "label", "middle"))
    said = ", ".join(f"{link.name} {value:.3f}" for link, value in links)
    words = f"{metric} along the chain: {said}"
    if metric == losses.lost_metric:
        words += f"; {losses.lost_most} loses most"
    return chart(words, bottom + 40, parts)


def catalog_map(facts: MapFacts) -> Markup:
    """Each item a mark in the colour and shape of its category; its name and category appear under the pointer."""
    xs, ys = [point.x for point in facts.points], [point.y for point in facts.points]
    x = Scale(min(xs), max(max(xs), min(xs) + 1e-6), MARGIN, MAP_WIDTH - MARGIN)
    y = Scale(min(ys), max(max(ys), min(ys) + 1e-6), MAP_HEIGHT - MARGIN, MARGIN)
    shapes = [Markup('<path id="m{}" d="{}"/>').format(number, shape) for number, shape in enumerate(SHAPES)]
    shapes.append(Markup('<path id="mx" d="{}"/>').format(OTHER_SHAPE))
    marks = []
    for point in facts.points:
        at, height = x(point.x), y(point.y)
        known = point.category != OTHER
        words = point.item_id + (f" · {facts.categories[point.category]}" if known else "")
        name = f"{point.category % len(SHAPES)}" if known else "x"
        marks.append(
            Markup('<g class="c{0}"><use href="#m{0}" x="{1}" y="{2}"/><text x="{3}" y="{4}"{5}>{6}</text></g>').format(
                name,
                at,
                height,
                min(max(at, 8), MAP_WIDTH - 8),
                height - 9 if height > 30 else height + 20,
                _anchor(at),
                words,
            )
        )
    words = f"A map of {len(facts.points):,} items: what lies together looks alike to the search"
    return Markup(
        '<svg class="map" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><defs>{3}</defs>{4}</svg>'
    ).format(MAP_WIDTH, MAP_HEIGHT, words, Markup().join(shapes), Markup().join(marks))


def _anchor(at: float) -> Markup:
    """Words at the edges of the map run inwards."""
    if at < MAP_WIDTH / 5:
        return Markup("")
    return Markup(' text-anchor="end"') if at > 4 * MAP_WIDTH / 5 else Markup(' text-anchor="middle"')


def map_mark(category: int) -> Markup:
    """The mark of a category, for the legend."""
    name = "x" if category == OTHER else f"{category % len(SHAPES)}"
    shape = OTHER_SHAPE if category == OTHER else SHAPES[category % len(SHAPES)]
    return Markup('<svg class="mark c{}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{}"/></svg>').format(
        name, shape
    )
