"""The map marks every item by its category, and is valid for any coordinates."""

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.evaluate.analysis.embedding_map import OTHER, MapFacts, MapPoint
from retrieval_core.evaluate.report.catalog_map import catalog_map, map_mark

finite = st.floats(-1e6, 1e6)


def facts_at(points) -> MapFacts:
    return MapFacts(
        n_rows=len(points),
        points=tuple(MapPoint(item_id=f"i{n}", x=x, y=y, category=c) for n, (x, y, c) in enumerate(points)),
        categories=tuple("abcdefgh"),
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(finite, finite, st.integers(-1, 7)), min_size=1, max_size=20))
def test_the_map_is_valid_for_any_coordinates(assert_finite, points):
    assert_finite(catalog_map(facts_at(points)))


def test_every_item_is_marked_by_its_category_and_named(read_page):
    page = read_page(catalog_map(facts_at([(0, 0, 0), (1, 1, 3), (2, 0, OTHER)])))
    assert [use["href"] for use in page.all("use")] == ["#m0", "#m3", "#mx"]
    assert [group["class"] for group in page.all("g")] == ["c0", "c3", "cx"]
    assert "i0 · a" in page.text
    assert "i1 · d" in page.text
    assert "i2" in page.text


def test_the_legend_shows_the_marks_of_the_map(read_page):
    marks = [read_page(map_mark(category)) for category in (0, 1, OTHER)]
    assert [mark.all("svg")[0]["class"] for mark in marks] == ["mark c0", "mark c1", "mark cx"]
    assert len({mark.all("path")[0]["d"] for mark in marks}) == 3
