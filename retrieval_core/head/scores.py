"""Example-wise scores of multi-label predictions: computed over the labels of each picture, averaged over pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval_core.arrays import Bool
from retrieval_core.errors import DimensionMismatch

THRESHOLDS = np.arange(1, 100) / 100


def example_metrics(truth: Bool, scores: npt.NDArray[np.floating], threshold: float) -> dict[str, float]:
    """Return f1_example, accuracy_example, precision_example and recall_example, each 0 to 1, and the threshold.

    `truth` is (n, L) bool, `scores` (n, L) in 0..1; a label is predicted at `threshold` or above. For a picture with t
    true labels, p predicted labels and h labels in both: F1 2h / (t + p), accuracy h / (t + p - h), precision h / p,
    recall h / t (Godbole & Sarawagi 2004). A picture without true and predicted labels scores 1 in all four; any other
    0 / 0 is 0.

    Raises `DimensionMismatch` when the shapes differ or there is no picture.
    """
    _check_shapes(truth, scores)
    predicted = scores >= threshold
    n_both = (truth & predicted).sum(axis=1)
    n_truth, n_predicted = truth.sum(axis=1), predicted.sum(axis=1)
    n_either = n_truth + n_predicted - n_both
    denominators = {
        "f1_example": (n_truth + n_predicted) / 2,
        "accuracy_example": n_either,
        "precision_example": n_predicted,
        "recall_example": n_truth,
    }
    means = {
        name: float(np.where(n_either == 0, 1.0, n_both / np.maximum(n, 0.5)).mean())
        for name, n in denominators.items()
    }
    return {**means, "threshold": threshold}


def best_threshold(truth: Bool, scores: npt.NDArray[np.floating]) -> float:
    """Return the threshold of 0.01, 0.02 … 0.99 with the best example-wise F1, the lowest of equals.

    Raises as `example_metrics` does.
    """
    return max(map(float, THRESHOLDS), key=lambda t: example_metrics(truth, scores, t)["f1_example"])


def _check_shapes(truth: Bool, scores: npt.NDArray[np.floating]) -> None:
    if truth.ndim != 2 or truth.shape != scores.shape or len(truth) == 0:
        raise DimensionMismatch(
            f"truth {truth.shape} and scores {scores.shape} must both be (pictures, labels), at least one picture"
        )
