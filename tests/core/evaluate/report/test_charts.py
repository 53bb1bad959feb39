"""Charts are valid for any numbers, say what they show, and draw no gap as a line."""

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.evaluate.report import charts
from tests.core.evaluate.report.sample_facts import drift

finite = st.floats(-1e30, 1e30)
any_number = finite | st.sampled_from([float("nan"), float("inf"), -float("inf")])
share = st.floats(0, 1)
runs = st.lists(st.tuples(st.just("then"), st.none() | share | st.just(float("nan")), st.booleans()), max_size=30)


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=30), any_number, max_size=6), st.none() | share, finite, finite)
def test_bars_dots_and_intervals_are_valid_for_any_numbers(assert_finite, values, baseline, difference, reach):
    assert_finite(
        charts.dots("recall@1", values, baseline),
        charts.interval(difference, difference - 1, difference + 1, reach),
        charts.bar(difference),
    )


@settings(max_examples=60)
@given(runs, st.lists(share, min_size=1, max_size=20), st.lists(st.integers(0, 2000), max_size=11))
def test_sparklines_and_distributions_are_valid_for_any_numbers(assert_finite, past, shares, counts):
    edges = tuple(range(len(shares) + 1))
    assert_finite(
        charts.sparkline("recall@1", past),
        charts.histogram(drift(edges=edges, now=tuple(shares), then=tuple(reversed(shares)))),
        charts.histogram(drift(edges=edges, now=tuple(shares), then=())),
        charts.columns("Items", counts, [str(n) for n in range(len(counts))], "changed"),
        charts.stacked("Churn", {"a": shares[0], "b": shares[-1]}),
    )


def test_a_run_without_the_metric_is_a_gap_and_a_held_one_a_cross(read_page):
    page = read_page(
        charts.sparkline(
            "m", [("1", 0.5, True), ("2", 0.6, False), ("3", None, True), ("4", 0.4, True), ("5", 0.4, True)]
        )
    )
    assert len(page.all("polyline")) == 2
    marks = [path["class"] for path in page.all("path")]
    assert marks == ["night", "night held", "night", "night last"]
    assert "from 0.500 to 0.400, lowest 0.400, highest 0.600" in page.all("svg")[0]["aria-label"]


def test_one_run_alone_is_no_curve():
    assert charts.sparkline("m", [("1", 0.5, True), ("2", None, True)]) == ""
