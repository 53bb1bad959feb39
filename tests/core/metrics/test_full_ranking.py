"""R-precision and MAP@R against pytorch-metric-learning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from retrieval_core.artifacts.parts import unit_length
from retrieval_core.metrics.full_ranking import full_ranking
from retrieval_core.metrics.relevance import Judgements, find_truth


def oracle(queries, codes, gallery, gallery_codes, own) -> dict[str, float]:
    calculator = AccuracyCalculator(
        include=("r_precision", "mean_average_precision_at_r"), k="max_bin_count", device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )  # fmt: skip
    tensors = [torch.from_numpy(array) for array in (queries, codes, gallery, gallery_codes)]
    found = calculator.get_accuracy(*tensors, ref_includes_query=own)
    return {"r_precision": found["r_precision"], "map_at_r": found["mean_average_precision_at_r"]}


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_the_metrics_of_a_whole_ranking_are_those_of_pytorch_metric_learning(own, has_products, n, seed) -> None:
    rng = np.random.default_rng(seed)
    vectors, codes = unit_length(rng.normal(size=(n + 5, 4)).astype(np.float32)), rng.integers(0, 4, n + 5)
    judged = Judgements(n + 5, **{"product" if has_products else "category": codes})
    rows = (np.arange(n), np.arange(n)) if own else (np.arange(5), np.arange(5, n + 5))
    truth = find_truth(*map(judged.take, rows), np.arange(n) if own else None)
    found = full_ranking(vectors[rows[0]], vectors[rows[1]], truth)
    if not (truth.n_relevant > 0).any():
        assert np.isnan(found["map_at_r"]).all()
        return
    expected = oracle(vectors[rows[0]], codes[rows[0]], vectors[rows[1]], codes[rows[1]], own)
    for name, value in expected.items():
        assert np.nanmean(found[name]) == pytest.approx(value, abs=1e-6)


def test_without_products_and_categories_there_is_no_ranking_to_judge() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert full_ranking(vectors, vectors, find_truth(Judgements(3), Judgements(3))) == {}
