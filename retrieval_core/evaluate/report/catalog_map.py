"""The map of the catalogue as inline SVG: one mark for each item, in the colour and shape of its category."""

from __future__ import annotations

from markupsafe import Markup

from retrieval_core.evaluate.analysis.embedding_map import OTHER, MapFacts
from retrieval_core.evaluate.report.svg import Scale

MAP_WIDTH, MAP_HEIGHT = 900, 560
MARGIN = 14
# One shape for each category, beside its colour, centred on (0, 0).
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


def catalog_map(facts: MapFacts) -> Markup:
    """Draw each item as a mark; its id and category appear when a reader points at it."""
    xs, ys = [point.x for point in facts.points], [point.y for point in facts.points]
    x = Scale(min(xs), max(max(xs), min(xs) + 1e-6), MARGIN, MAP_WIDTH - MARGIN)
    y = Scale(min(ys), max(max(ys), min(ys) + 1e-6), MAP_HEIGHT - MARGIN, MARGIN)
    shapes = [Markup('<path id="m{}" d="{}"/>').format(number, shape) for number, shape in enumerate(SHAPES)]
    shapes.append(Markup('<path id="mx" d="{}"/>').format(OTHER_SHAPE))
    marks = []
    for point in facts.points:
        at, height = x(point.x), y(point.y)
        has_category = point.category != OTHER
        words = point.item_id + (f" · {facts.categories[point.category]}" if has_category else "")
        name = f"{point.category % len(SHAPES)}" if has_category else "x"
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
    words = f"A map of {len(facts.points):,} items: items that lie together look alike to the search"
    return Markup(
        '<svg class="map" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><defs>{3}</defs>{4}</svg>'
    ).format(MAP_WIDTH, MAP_HEIGHT, words, Markup().join(shapes), Markup().join(marks))


def _anchor(at: float) -> Markup:
    """Return the anchor of a text, so that it runs inwards at the edges of the map."""
    if at < MAP_WIDTH / 5:
        return Markup("")
    return Markup(' text-anchor="end"') if at > 4 * MAP_WIDTH / 5 else Markup(' text-anchor="middle"')


def map_mark(category: int) -> Markup:
    """Draw the mark of a category, for the legend."""
    name = "x" if category == OTHER else f"{category % len(SHAPES)}"
    shape = OTHER_SHAPE if category == OTHER else SHAPES[category % len(SHAPES)]
    return Markup('<svg class="mark c{}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{}"/></svg>').format(
        name, shape
    )
