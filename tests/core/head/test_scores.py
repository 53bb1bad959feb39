"""Example-wise scores against scikit-learn and against their definition on sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics

from retrieval_core.arrays import Bool, Float64
from retrieval_core.errors import DimensionMismatch
from retrieval_core.head.scores import THRESHOLDS, best_threshold, example_metrics

shapes = st.tuples(st.integers(1, 8), st.integers(1, 5))


@st.composite
def truth_and_scores(draw: st.DrawFn) -> tuple[Bool, Float64]:
    shape = draw(shapes)
    truth = draw(arrays.arrays(np.bool_, shape))
    return truth, draw(arrays.arrays(np.float64, shape, elements=st.floats(0, 1)))


@settings(max_examples=60)
@given(drawn=truth_and_scores(), threshold=st.floats(0, 1))
def test_scores_follow_their_definition_on_sets(drawn: tuple[Bool, Float64], threshold: float) -> None:
    truth, scores = drawn
    expected = []
    for row in range(len(truth)):
        t = set(np.flatnonzero(truth[row]))
        p = set(np.flatnonzero(scores[row] >= threshold))
        if not t and not p:
            expected.append((1.0, 1.0, 1.0, 1.0))
            continue
        precision = len(t & p) / len(p) if p else 0.0
        recall = len(t & p) / len(t) if t else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        expected.append((f1, len(t & p) / len(t | p), precision, recall))
    found = example_metrics(truth, scores, threshold)
    assert list(found) == ["f1_example", "accuracy_example", "precision_example", "recall_example", "threshold"]
    np.testing.assert_allclose(list(found.values())[:4], np.mean(expected, axis=0), atol=1e-12)
    assert found["threshold"] == threshold


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.random((50, 6)) < 0.3, rng.random((50, 6))
    truth[:, 0], scores[:, 0] = True, 0.5  # one label on every picture, predicted: no division by zero
    found, predicted = example_metrics(truth, scores, 0.5), scores >= 0.5
    assert found["f1_example"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="samples"))
    assert found["accuracy_example"] == pytest.approx(
        sklearn_metrics.jaccard_score(truth, predicted, average="samples")
    )
    assert found["precision_example"] == pytest.approx(
        sklearn_metrics.precision_score(truth, predicted, average="samples")
    )
    assert found["recall_example"] == pytest.approx(sklearn_metrics.recall_score(truth, predicted, average="samples"))


def test_the_best_threshold_beats_every_other() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((40, 5)) < 0.3
    scores = np.clip(0.3 * truth + 0.5 * rng.random((40, 5)), 0, 1)
    best = example_metrics(truth, scores, best_threshold(truth, scores))["f1_example"]
    assert best == max(example_metrics(truth, scores, t)["f1_example"] for t in THRESHOLDS)


def test_the_lowest_of_equal_thresholds_is_taken() -> None:
    truth = np.array([[True, False]])
    assert best_threshold(truth, np.array([[0.805, 0.195]])) == 0.2


@pytest.mark.parametrize(("truth_shape", "scores_shape"), [((3, 2), (3, 4)), ((0, 2), (0, 2)), ((3,), (3,))])
def test_shapes_that_cannot_be_scored_are_refused(truth_shape: tuple[int, ...], scores_shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch):
        example_metrics(np.zeros(truth_shape, bool), np.zeros(scores_shape), 0.5)
