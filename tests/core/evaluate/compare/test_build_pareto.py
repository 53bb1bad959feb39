"""The Pareto front agrees with its definition, and its chart is valid for any numbers."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.evaluate.compare.build import pareto_front
from retrieval_core.evaluate.report import curves

few = st.integers(0, 5).map(float)


@given(st.dictionaries(st.text(max_size=3), st.tuples(few, few), max_size=12))
def test_the_front_holds_the_points_that_no_other_beats(points) -> None:
    def beaten(name: str) -> bool:
        cost, value = points[name]
        return any(
            other_cost <= cost and other_value >= value and (other_cost, other_value) != (cost, value)
            for other_cost, other_value in points.values()
        )

    front = pareto_front(points)
    assert set(front) == {name for name in points if not beaten(name)}
    assert [points[name][0] for name in front] == sorted(points[name][0] for name in front)


def test_the_front_is_drawn_in_steps_and_described_in_words(read_page) -> None:
    points = {"slow": (100.0, 0.9), "quick": (5.0, 0.5), "beaten": (50.0, 0.4)}
    page = read_page(curves.front("map@5", points, pareto_front(points), "ms per picture"))
    (chart,) = page.all("svg")
    assert chart["aria-label"] == (
        "map@5 against ms per picture; from the cheapest, unbeaten: quick 0.500 at 5, slow 0.900 at 100"
    )
    assert [group["class"] for group in page.all("g")] == ["dot", "dot highlight", "dot highlight"]
    ((x0, y0), (x1, y1), (x2, y2)) = (
        map(float, point.split(",")) for point in page.all("polyline")[0]["points"].split()
    )
    assert x0 < x1 == x2
    assert y0 == y1 > y2


number = st.floats(-1e30, 1e30) | st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, 1e-300])


@given(st.dictionaries(st.text(max_size=8), st.tuples(number, number), max_size=8))
def test_any_numbers_make_a_whole_chart(read_page, points) -> None:
    finite = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    page = read_page(curves.front("map@5", points, pareto_front(finite), "bytes per item"))
    values = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not [value for value in values if re.search(r"(^|[ ,M])[+-]?(nan|inf)([ ,%l]|$)", value)]
