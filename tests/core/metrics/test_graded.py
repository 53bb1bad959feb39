"""nDCG by hand, against scikit-learn, and within its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from retrieval_core.metrics.graded import ndcg

grades = st.lists(st.integers(0, 3), min_size=2, max_size=30)


def test_a_case_by_hand() -> None:
    assert ndcg([1, 3, 0], [3, 1, 0]) == pytest.approx((1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3)))
    assert ndcg([], [3, 0]) == 0.0
    assert ndcg([0, 0], [0, 0]) == 0.0


@given(found=grades)
def test_it_is_that_of_another_library(found: list[int]) -> None:
    gains = 2.0 ** np.array([found]) - 1
    expected = ndcg_score(gains, -np.arange(len(found))[None], k=10) if any(found) else 0.0
    assert ndcg(found, found) == pytest.approx(expected)


@given(judged=grades, seed=st.integers(0, 99))
def test_the_best_order_is_one_and_what_is_not_found_costs(judged: list[int], seed: int) -> None:
    best = sorted(judged, reverse=True)
    assert ndcg(best, judged) == pytest.approx(1.0 if any(judged) else 0.0)
    order = np.random.default_rng(seed).permutation(judged).tolist()
    assert 0 <= ndcg(order[:5], judged) <= ndcg(order, judged) + 1e-12 <= 1 + 1e-9
