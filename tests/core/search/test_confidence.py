"""The confidence of a search is a logistic regression on how its first hits lie."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from retrieval_core.search.confidence import DEPTH, N_HITS, Confidence, fit_confidence, hit_features


def drawn_examples(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal([0.7, 0.1, 0.8, 0.5], [0.1, 0.05, 0.1, 0.3], (n, 4))
    logits = 20 * (features[:, 0] - features[:, 2]) + 2 + rng.logistic(size=n)
    return features, (logits > 0).astype(float)


def test_the_fit_is_the_one_of_scikit_learn() -> None:
    features, is_relevant = drawn_examples()
    model = fit_confidence(features, is_relevant, "product")
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LogisticRegression(C=100, tol=1e-9, max_iter=10_000).fit(standardised, is_relevant)
    expected = oracle.predict_proba(standardised)[:, 1]
    np.testing.assert_allclose(model.probability(features), expected, atol=1e-4)
    assert Confidence.model_validate_json(model.model_dump_json()) == model


def test_examples_that_can_be_told_apart_or_of_one_outcome_give_a_finite_model() -> None:
    features, _ = drawn_examples(40)
    features[:, 3] = 1.0  # a catalogue of one category
    for outcome in (features[:, 0] > 0.7, np.zeros(40), np.ones(40)):
        probability = fit_confidence(features, outcome.astype(float), "category").probability(features)
        assert np.isfinite(probability).all()
        assert abs(probability.mean() - outcome.mean()) < 0.05


def test_the_features_say_how_the_first_hit_lies() -> None:
    scores = np.full((2, DEPTH), -np.inf)
    scores[0] = np.linspace(0.9, 0.0, DEPTH)
    scores[1, :2] = 0.8, 0.6  # a filter leaves two rows
    categories = np.full((2, N_HITS), -1)
    categories[0], categories[1, :2] = [3, 3, 1, 3, -1], [2, 2]
    features = hit_features(scores, np.array([0.5, 0.7]), categories)
    np.testing.assert_allclose(features, [[0.9, 0.45, 0.5, 0.6], [0.8, 0.1, 0.7, 0.4]])
    unknown = hit_features(scores, np.array([0.5, 0.7]), np.full((2, N_HITS), -1))
    np.testing.assert_array_equal(unknown[:, 3], 0)
