"""The drawings of the nightly page are whole for any numbers, say what they show, and draw no gap as a line."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.evaluate.analysis.embedding_map import MAP_COLUMNS, MAP_ROWS, MapFacts, MapPoint, map_cells
from retrieval_core.evaluate.report import plots
from tests.core.evaluate.report.nightly_facts import LOSSES, drift

finite = st.floats(-1e6, 1e6)
share = st.floats(0, 1)
nights = st.lists(st.tuples(st.just("then"), st.none() | share | st.just(float("nan")), st.booleans()), max_size=30)
points = st.lists(st.tuples(finite, finite, st.integers(-1, 7)), min_size=1, max_size=20)


def drawn_map(places) -> MapFacts:
    return MapFacts(
        n_rows=len(places),
        points=tuple(MapPoint(item_id=f"i{n}", x=x, y=y, category=c) for n, (x, y, c) in enumerate(places)),
        categories=tuple("abcdefgh"),
    )


@settings(deadline=None, max_examples=60)
@given(nights, st.lists(share, min_size=1, max_size=20), points, st.lists(st.integers(0, 2000), max_size=11))
def test_drawings_are_whole_for_any_numbers(read_page, past, shares, places, counts):
    edges = tuple(range(len(shares) + 1))
    drawn = (
        plots.sparkline("recall@1", past),
        plots.histogram(drift(edges=edges, now=tuple(shares), then=tuple(reversed(shares)))),
        plots.histogram(drift(edges=edges, now=tuple(shares), then=())),
        plots.columns("Items", counts, [str(n) for n in range(len(counts))], "changed"),
        plots.stacked("Churn", {"a": shares[0], "b": shares[-1]}),
        plots.chain("recall@1", LOSSES),
        plots.catalog_map(drawn_map(places)),
    )
    for chart in drawn:
        page = read_page(chart)
        numbers = [value for _, attributes in page.tags for value in attributes.values() if value]
        assert not [value for value in numbers if re.fullmatch(r"[+-]?(nan|inf)%?", value)]


def test_a_night_without_the_metric_is_a_gap_and_a_held_one_a_cross(read_page):
    page = read_page(
        plots.sparkline(
            "m", [("1", 0.5, True), ("2", 0.6, False), ("3", None, True), ("4", 0.4, True), ("5", 0.4, True)]
        )
    )
    assert len(page.all("polyline")) == 2
    marks = [path["class"] for path in page.all("path")]
    assert marks == ["night", "night held", "night", "night last"]
    assert "from 0.500 to 0.400, lowest 0.400, highest 0.600" in page.all("svg")[0]["aria-label"]


def test_one_night_alone_is_no_curve():
    assert plots.sparkline("m", [("1", 0.5, True), ("2", None, True)]) == ""


def test_a_chain_of_one_link_is_not_drawn():
    assert plots.chain("recall@1", LOSSES.model_copy(update={"links": LOSSES.links[:1]})) == ""
    assert plots.chain("map@5", LOSSES) == ""


@settings(deadline=None)
@given(points)
def test_every_field_of_the_map_shows_one_of_its_own_items(places):
    cells = map_cells(drawn_map(places))
    fields = [(column, row) for _, column, row in cells]
    assert len(set(fields)) == len(fields)
    assert len({item_id for item_id, _, _ in cells}) == len(cells) > 0
    assert all(0 <= column < MAP_COLUMNS and 0 <= row < MAP_ROWS for column, row in fields)


def test_the_upper_left_of_the_map_is_its_first_field():
    cells = map_cells(drawn_map([(0, 10, 0), (10, 0, 0)]))
    assert cells == [("i0", 0, 0), ("i1", MAP_COLUMNS - 1, MAP_ROWS - 1)]


def test_a_map_without_points_has_no_fields():
    assert map_cells(MapFacts(n_rows=0)) == []
