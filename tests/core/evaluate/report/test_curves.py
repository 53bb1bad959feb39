"""Curves share a chart only with those of their scale, and are valid for any numbers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.evaluate.report import curves
from retrieval_core.evaluate.report.curves import training_charts
from tests.core.evaluate.report.sample_facts import LOSSES

any_number = st.floats(-1e30, 1e30) | st.sampled_from([float("nan"), float("inf"), -float("inf")])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 100), any_number), max_size=50), st.floats(0, 1))
def test_curves_are_valid_for_any_numbers(assert_finite, points, target):
    named = {f"point {i}": point for i, point in enumerate(points)}
    assert_finite(
        curves.over_epochs("loss", {"loss": points, "val_loss": points}, "min"),
        curves.tuning("recall", named, "kB", target, "point 0"),
        curves.front("recall", named, list(named)[:1], "kB"),
        curves.chain("recall@1", LOSSES),
    )


def drawn(read_page, *history: dict[str, float]) -> dict[str, str]:
    charts = training_charts("net", history)
    return {title: read_page(chart).all("svg")[0]["aria-label"] or "" for title, chart in charts}


def test_distances_and_signs_of_collapse_are_no_scores(read_page) -> None:
    row = {"epoch": 1, "seconds": 3.0, "margin": 0.2, "unlike_distance": 9.0, "spread": 0.4, "collapsed": 0.0}
    said = drawn(read_page, row | {"train_loss": 0.5, "val_relevance@5": 0.3})
    assert list(said) == ["Loss", "Validation", "Distances", "Collapse"]
    assert said["Validation"].startswith("Validation of net by epoch; val_relevance@5 is best at epoch 1")
    assert said["Distances"] == "Distances of net by epoch; margin ends at 0.200; unlike_distance ends at 9.000"
    assert said["Collapse"] == "Collapse of net by epoch; spread ends at 0.400; collapsed ends at 0.000"


def test_the_best_epoch_is_that_of_f1_and_a_threshold_is_no_score(read_page) -> None:
    first = {"epoch": 1, "f1_example": 0.7, "recall_example": 0.5, "threshold": 0.3}
    said = drawn(read_page, first, first | {"epoch": 2, "f1_example": 0.6, "recall_example": 0.9})
    assert "f1_example is best at epoch 1 with 0.700" in said["Validation"]
    assert "threshold" not in said["Validation"]


def test_nothing_to_draw_draws_nothing() -> None:
    assert training_charts("net", ()) == []
    assert training_charts("net", ({"epoch": 1, "seconds": 2.0},)) == []


def test_a_chain_of_one_link_is_not_drawn():
    assert curves.chain("recall@1", LOSSES.model_copy(update={"links": LOSSES.links[:1]})) == ""
    assert curves.chain("map@5", LOSSES) == ""
