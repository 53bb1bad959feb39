"""How likely a search finds something relevant: a logistic regression on how its first hits lie.

A cosine alone does not tell, because what is near for one kind of product is far for another. So the first hit is also
compared with the hits after it, and with how closely its own neighbours lie.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value

CONFIDENCE_FILE = "confidence.json"  # the part of a report that holds the model
N_HITS = 5  # the first of them may be relevant
DEPTH = 10  # neighbours that are looked at
RIDGE = 1e-2  # keeps the weights finite where the examples can be told apart
STEPS = 25
MAX_LOGIT = 30.0

RelevanceKind = Literal["product", "category"]


class Confidence(Value):
    """Logistic regression on standardised features (`hit_features`); relevant is an item of the same `kind`."""

    kind: RelevanceKind
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, features: Float64) -> Float64:
        """Return how likely one of the first `N_HITS` hits is relevant, (n,) in 0 to 1, by (n, 4) features."""
        standardised = (features - np.array(self.mean)) / np.array(self.scale)
        return _sigmoid(standardised @ np.array(self.weights) + self.bias)


def hit_features(scores: Float64, density: Float64, categories: Int64) -> Float64:
    """Return the (n, 4) features of n searches with at least one hit each.

    These are the cosine of the first hit; how far it is above the mean of the first `DEPTH`; the mean cosine of the
    first hit with its own nearest `DEPTH`, which is its `density` (n,); and the share of the first `N_HITS` that have
    its category. `scores` (n, DEPTH) fall and are padded with -inf; `categories` (n, N_HITS) are codes, -1 unknown.
    """
    same = (categories == categories[:, :1]) & (categories >= 0)
    return np.column_stack([scores[:, 0], scores[:, 0] - mean_cosine(scores), density, same.mean(axis=1)])


def mean_cosine(scores: Float64) -> Float64:
    """Return the mean of each row of (n, k) scores padded with -inf, 0 where a row has none."""
    is_hit = np.isfinite(scores)
    return np.asarray(np.where(is_hit, scores, 0.0).sum(axis=1) / np.maximum(is_hit.sum(axis=1), 1))


def fit_confidence(features: Float64, is_relevant: Float64, kind: RelevanceKind) -> Confidence:
    """Fit the regression to (n, 4) features and (n,) outcomes, 0 or 1, by Newton's method with a small ridge."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    inputs = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    ridge = RIDGE * np.diag([*np.ones(features.shape[1]), 0.0])
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        predicted = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (predicted - is_relevant) + ridge @ weights
        curvature = (inputs * (predicted * (1 - predicted))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), gradient)
    return Confidence(
        kind=kind, mean=tuple(mean), scale=tuple(scale), weights=tuple(weights[:-1]), bias=float(weights[-1])
    )


def _sigmoid(logits: Float64) -> Float64:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))))
