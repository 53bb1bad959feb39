"""The expectations at random, against the mean over every order of a small gallery."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval_core.metrics import chance
from retrieval_core.metrics.ranking import average_precision
from retrieval_core.metrics.relevance import Judgements, Truth, find_truth
from retrieval_core.metrics.retrieval import random_scores, score


@st.composite
def every_order(draw) -> tuple[Truth, np.ndarray, Truth]:
    """A truth; and all orders of its gallery as rankings, each query with all of them, with the truth of these."""
    leave_one_out = draw(st.booleans())
    n_queries, n_gallery = draw(st.integers(1, 3)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = n_queries + n_gallery
    judged = Judgements(
        n,
        product=rng.integers(-1, 3, n),
        category=rng.integers(-1, 2, n) if draw(st.booleans()) else None,
        labels=csr_array(rng.random((n, 3)) < 0.4) if draw(st.booleans()) else None,
        attributes=rng.integers(0, 2, (n, 1)) if draw(st.booleans()) else None,
    )
    gallery = judged.take(np.arange(n_queries, n))
    own = rng.integers(0, n_gallery, n_queries) if leave_one_out else np.full(n_queries, -1)
    queries = gallery.take(own) if leave_one_out else judged.take(np.arange(n_queries))
    orders = [list(itertools.permutations(sorted(set(range(n_gallery)) - {position}))) for position in own.tolist()]
    rankings = [[*order, *[-1] * (10 - len(order))] for order in itertools.chain(*orders)]
    rows = np.repeat(np.arange(n_queries), [len(of_query) for of_query in orders])
    return find_truth(queries, gallery, own), np.array(rankings), find_truth(queries.take(rows), gallery, own[rows])


@settings(max_examples=60, deadline=None)
@given(every_order())
def test_the_expected_scores_are_the_mean_over_all_orders(orders) -> None:
    truth, rankings, repeated = orders
    expected, scores = random_scores(truth), score(rankings, repeated)
    n_orders = len(rankings) // truth.queries.n_items
    for name, values in scores.per_query.to_dict().items():
        means = values.fill_null(np.nan).to_numpy().reshape(-1, n_orders).mean(axis=1)
        np.testing.assert_allclose(expected.per_query[name].fill_null(np.nan).to_numpy(), means, atol=1e-6)
    for name, value in scores.summary.items():
        assert expected.summary[name] == pytest.approx(value, abs=1e-6)
    assert {"r_precision", "map_at_r"}.isdisjoint(scores.summary)


@given(st.integers(1, 6), st.data())
def test_the_expected_map_at_r_is_the_mean_over_all_orders(n_items, data) -> None:
    n_relevant = data.draw(st.integers(1, n_items))
    orders = np.array([[item < n_relevant for item in order] for order in itertools.permutations(range(n_items))])
    mean = average_precision(orders[:, :n_relevant], np.full(len(orders), n_relevant)).mean()
    assert chance.expected_map_at_r(np.array([n_items]), np.array([n_relevant])) == pytest.approx(mean)


def test_moments_of_label_iou_do_not_depend_on_blocks(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    labels, gallery = csr_array(rng.random((7, 5)) < 0.4), csr_array(rng.random((40, 5)) < 0.4)
    own = rng.integers(-1, 40, 7)
    whole = chance.iou_moments(labels, gallery, own)
    monkeypatch.setattr("retrieval_core.metrics.relevance.BLOCK_PAIRS", 60)
    np.testing.assert_allclose(chance.iou_moments(labels, gallery, own), whole)
