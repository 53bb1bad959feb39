"""Scores of a search, and the names of the random baseline."""

import re

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.relevance import Judgements, find_truth
from retrieval_core.metrics.retrieval import random_baseline, score


@pytest.mark.parametrize(("n_queries", "n_gallery"), [(0, 5), (3, 0), (0, 0)])
def test_without_queries_or_gallery_there_are_no_scores_but_a_table_to_add_ids_to(n_queries, n_gallery):
    def some(n: int) -> Judgements:
        zeros = np.zeros(n, np.int64)
        return Judgements(n, zeros, zeros, csr_array(np.ones((n, 1), bool)), ("x",), zeros[:, None], ("y",))

    scores = score(np.full((n_queries, 10), -1), find_truth(some(n_queries), some(n_gallery)))
    assert scores.summary == {}
    assert scores.per_query.with_columns(item_id=pl.Series([""] * n_queries)).height == n_queries
    assert random_baseline(find_truth(some(n_queries), some(n_gallery))) == {}


def test_a_catalogue_that_knows_nothing_has_no_scores():
    assert score(np.zeros((2, 10), int), find_truth(Judgements(2), Judgements(3))).summary == {}


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((2, 10), int), "expected (1, 10 or more)"),
        (np.zeros((1, 9), int), "expected (1, 10 or more)"),
        (np.zeros(10, int), "expected (1, 10 or more)"),
        (np.full((1, 10), 4), "gallery of 4 items"),
        (np.full((1, 10), -2), "expected -1 to 3"),
    ],
)
def test_positions_that_do_not_fit_are_refused(positions, message):
    with pytest.raises(DimensionMismatch, match=re.escape(message)):
        score(positions, find_truth(Judgements(1), Judgements(4)))


def test_a_random_baseline_bears_the_names_of_baselines() -> None:
    judged = Judgements(
        6, np.array([0, 1, 1, 1, 0, 2]), labels=csr_array(np.ones((6, 1), np.bool_)), label_names=("hat",)
    )
    baseline = random_baseline(find_truth(judged.take(np.arange(2)), judged.take(np.arange(2, 6))))
    assert baseline["label_iou@5_random"] == 1
    assert baseline["label_iou@5_random_std"] == 0
    assert {"recall@1_random", "map_at_r_random", "r_precision_random"} <= set(baseline)
