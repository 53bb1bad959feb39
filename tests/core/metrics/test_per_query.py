"""The metrics against their definitions in plain loops, scikit-learn, pytorch-metric-learning, and cases by hand."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score

from retrieval_core.artifacts.parts import unit_length
from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.ranking import ann_recall, average_precision, graded_average_precision
from retrieval_core.metrics.registry import definitions
from retrieval_core.metrics.relevance import Judgements, find_truth
from retrieval_core.metrics.retrieval import Scores, score

N_CODES = 4


def retrieval_metrics(positions: np.ndarray, queries: Judgements, gallery: Judgements) -> Scores:
    return score(positions, find_truth(queries, gallery))


@st.composite
def searches(draw):
    """Positions with padding, ragged knowledge, and a gallery that can be smaller than the ten asked for."""
    n_queries, n_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = n_queries + n_gallery
    judged = Judgements(
        n,
        product=rng.integers(-1, 2 * N_CODES, n) if draw(st.booleans()) else None,
        category=rng.integers(-1, N_CODES, n) if draw(st.booleans()) else None,
        labels=csr_array(rng.random((n, 4)) < 0.3) if draw(st.booleans()) else None,
        attributes=rng.integers(-1, 2, (n, 2)) if draw(st.booleans()) else None,
    )
    positions = np.full((n_queries, 12), -1)
    for row in positions:
        found = rng.permutation(n_gallery)[: rng.integers(0, 13)]
        row[: len(found)] = found
    return positions, judged.take(np.arange(n_queries)), judged.take(np.arange(n_queries, n))


def column(scores, name: str) -> list[float | None]:
    return scores.per_query[name].to_list() if name in scores.per_query.columns else [None] * scores.per_query.height


def equal_or_null(actual: list, expected: list) -> bool:
    return actual == pytest.approx(expected, abs=1e-12)


def truncated_ap(hits: list[bool], n_relevant: int, k: int) -> float | None:
    if not n_relevant:
        return None
    precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(min(k, len(hits))) if hits[rank]]
    return sum(precisions) / min(n_relevant, k)


@settings(max_examples=150)
@given(searches())
def test_product_and_category_metrics_agree_with_plain_loops(search):
    positions, queries, gallery = search
    scores = retrieval_metrics(*search)
    for k in (1, 2, 3, 5, 10):
        expected = []
        for q, row in enumerate(positions):
            code = -1 if queries.product is None else queries.product[q]
            same = set() if code < 0 else set(np.flatnonzero(gallery.product == code))
            expected.append(float(bool(same & set(row[:k]))) if same else None)
        assert equal_or_null(column(scores, f"recall@{k}"), expected)
    if queries.category is None:
        return
    same = [set() if c < 0 else set(np.flatnonzero(gallery.category == c)) for c in queries.category]
    n_hits = [len(s & set(row[:5])) for s, row in zip(same, positions, strict=True)]
    for name, value in {
        "precision@5": lambda n, s: n / 5,
        "recall_of_category@5": lambda n, s: n / len(s),
        "accuracy@5": lambda n, s: float(n > 0),
    }.items():
        assert equal_or_null(
            column(scores, name), [value(n, s) if s else None for n, s in zip(n_hits, same, strict=True)]
        )
    for k in (1, 3, 5, 10):
        expected = [truncated_ap([p in s for p in row], len(s), k) for s, row in zip(same, positions, strict=True)]
        assert equal_or_null(column(scores, f"map@{k}"), expected)


def plain_gain(queries: Judgements, q: int, gallery: Judgements, g: int) -> float:
    properties = []
    if queries.category is not None:
        properties.append((queries.category[q], gallery.category[g]))
    if queries.attributes is not None:
        properties += list(zip(queries.attributes[q], gallery.attributes[g], strict=True))
    if properties and all(mine < 0 for mine, _ in properties):
        return 0.0
    equal = float(all(mine == other for mine, other in properties))
    return equal * plain_iou(queries, q, gallery, g) if queries.labels is not None else equal


def plain_iou(queries: Judgements, q: int, gallery: Judgements, g: int) -> float:
    mine, other = set(queries.labels[[q]].indices.tolist()), set(gallery.labels[[g]].indices.tolist())
    return len(mine & other) / len(mine | other) if mine | other else 0.0


def best_ap_over_tied_truths(gains: list[float], all_gains: list[float], k: int) -> float | None:
    """The largest AP of any valid choice of the k most relevant items; `gains` are the found items', in order."""
    n_truth = min(k, sum(g > 0 for g in all_gains))
    if not n_truth:
        return None
    edge = sorted(all_gains, reverse=True)[n_truth - 1]
    n_places = n_truth - sum(g > edge for g in all_gains)
    tied = [rank for rank, g in enumerate(gains[:k]) if g == edge]
    choices = itertools.chain.from_iterable(
        itertools.combinations(tied, n) for n in range(min(n_places, len(tied)) + 1)
    )
    return max(
        truncated_ap([g > edge or rank in chosen for rank, g in enumerate(gains)], n_truth, k) for chosen in choices
    )


def plain_share(queries: Judgements, q: int, gallery: Judgements, g: int) -> float:
    equal = plain_gain(replace(queries, labels=None), q, replace(gallery, labels=None), g)
    if queries.labels is None:
        return equal
    mine, other = set(queries.labels[[q]].indices.tolist()), set(gallery.labels[[g]].indices.tolist())
    return equal * len(mine & other) / len(mine) if mine else 0.0


@settings(max_examples=150)
@given(searches())
def test_share_map_counts_the_query_s_words_is_always_over_ten_and_counts_every_query(search):
    positions, queries, gallery = search
    scores = retrieval_metrics(*search)
    if queries.labels is None and queries.attributes is None:
        assert "share_map@10" not in scores.summary
        return
    expected = []
    for q, row in enumerate(positions):
        everything = [plain_share(queries, q, gallery, g) for g in range(gallery.n_items)]
        ap = best_ap_over_tied_truths([everything[g] if g >= 0 else 0.0 for g in row], everything, 10)
        expected.append((ap or 0.0) * min(10, sum(share > 0 for share in everything)) / 10)
    assert equal_or_null(column(scores, "share_map@10"), expected)


@settings(max_examples=150)
@given(searches())
def test_graded_map_is_the_best_over_all_ways_of_breaking_ties(search):
    positions, queries, gallery = search
    scores = retrieval_metrics(*search)
    if queries.labels is None and queries.attributes is None:
        assert "attribute_map@10" not in scores.summary
        return
    names = {"attribute_map@10": 10} | ({} if queries.category is not None else {f"map@{k}": k for k in (1, 3, 5, 10)})
    for name, k in names.items():
        expected = []
        for q, row in enumerate(positions):
            everything = [plain_gain(queries, q, gallery, g) for g in range(gallery.n_items)]
            found = [everything[g] if g >= 0 else 0.0 for g in row]
            expected.append(best_ap_over_tied_truths(found, everything, k))
        assert equal_or_null(column(scores, name), expected)


@given(searches())
def test_label_iou_averages_the_five_nearest(search):
    positions, queries, gallery = search
    scores = retrieval_metrics(*search)
    if queries.labels is None:
        assert "label_iou@5" not in scores.summary
        return
    expected = [
        sum(plain_iou(queries, q, gallery, g) for g in row[:5] if g >= 0) / min(5, gallery.n_items)
        if queries.labels[[q]].nnz
        else None
        for q, row in enumerate(positions)
    ]
    assert equal_or_null(column(scores, "label_iou@5"), expected)
    known = [value for value in expected if value is not None]
    if known:
        assert scores.summary["label_iou@5_std"] == pytest.approx(np.std(known))


@given(searches())
def test_all_scores_are_shares_and_the_summary_is_their_mean(search):
    scores = retrieval_metrics(*search)
    for name, values in scores.per_query.to_dict().items():
        assert values.dtype == pl.Float64
        assert values.min() >= 0
        assert values.max() <= 1
        assert not values.is_nan().any()
        assert scores.summary[name] == pytest.approx(values.mean())
        assert name in definitions()


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_average_precision_over_a_whole_ranking_is_that_of_scikit_learn(hits):
    ranking = np.array([hits])
    ap = average_precision(ranking, ranking.sum(axis=1))[0]
    if not any(hits):
        assert np.isnan(ap)
    else:
        assert ap == pytest.approx(average_precision_score(hits, -np.arange(len(hits))))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=10, max_size=20), st.randoms())
def test_finding_the_largest_gains_first_is_perfect_whatever_the_order_of_ties(gains, random):
    order = sorted(range(len(gains)), key=lambda g: (-gains[g], random.random()))
    best = np.array([sorted(gains, reverse=True)[:10]], np.float32)
    ap = graded_average_precision(np.array([[gains[g] for g in order[:10]]], np.float32), best)[0]
    assert ap == pytest.approx(1) if any(gains) else np.isnan(ap)


def test_a_tied_item_cannot_stand_in_for_a_better_one():
    gains = np.array([[0.5] * 10], np.float32)
    best = np.array([[1.0] * 3 + [0.5] * 7], np.float32)
    assert graded_average_precision(gains, best)[0] == pytest.approx(7 / 10)


def in_shop(positions: list[int], query_product: int = 0) -> dict[str, float]:
    queries = Judgements(1, product=np.array([query_product]))
    gallery = Judgements(12, product=np.array([0, 0, *range(1, 11)]))
    return retrieval_metrics(np.array([positions]), queries, gallery).summary


def test_recall_counts_a_product_once_and_only_within_the_cutoff():
    recall = in_shop([5, 6, 0, 1, 7, 8, 9, 10, 11, 2])
    assert recall == {"recall@1": 0, "recall@2": 0, "recall@3": 1, "recall@5": 1, "recall@10": 1}


def test_a_query_whose_product_has_no_gallery_item_is_left_out():
    queries = Judgements(2, product=np.array([0, 99]))
    gallery = Judgements(1, product=np.array([0]))
    scores = retrieval_metrics(np.full((2, 10), -1), queries, gallery)
    assert scores.per_query["recall@1"].to_list() == [0, None]
    assert in_shop([0] * 10, query_product=99) == {}


def test_map_falls_back_to_labels_where_there_are_no_categories():
    labels = csr_array(np.array([[1, 1], [1, 1], [1, 0], [0, 0]], bool))
    judged = Judgements(4, labels=labels, label_names=("a", "b"))
    queries, gallery = judged.take(np.array([0])), judged.take(np.array([1, 2, 3]))
    scores = retrieval_metrics(np.array([[1, 0, 2] + [-1] * 7]), queries, gallery)
    assert scores.summary["map@1"] == 0
    assert scores.summary["map@5"] == scores.summary["attribute_map@10"] == 1
    assert scores.summary["label_iou@5"] == pytest.approx((1 + 0.5 + 0) / 3)


@given(st.integers(0, 30), st.integers(1, 8), st.integers(0, 99))
def test_ann_recall_is_the_share_of_exact_neighbours_found(n_items, k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_items).astype(np.float32)
    exact = np.sort(scores)[::-1][:k]
    found = np.sort(rng.permutation(scores)[: min(k, n_items) // 2 + 1])[::-1][:k]
    share = len(set(exact) & set(found)) / len(exact) if len(exact) else 1.0
    padded = [np.append(row, np.full(k - len(row), -np.inf, np.float32))[None] for row in (exact, found)]
    assert ann_recall(*padded).tolist() == [share]


def test_ann_recall_takes_any_of_several_equal_pictures():
    exact = np.array([[0.9, 0.5, 0.5]], np.float32)
    found = np.array([[0.9, 0.5 - 1e-7, 0.5 - 1e-7]], np.float32)
    assert ann_recall(exact, found).tolist() == [1.0]
    assert ann_recall(exact, np.array([[0.9, 0.4, 0.4]], np.float32))[0] == pytest.approx(1 / 3)


def test_ann_recall_refuses_different_queries():
    with pytest.raises(DimensionMismatch):
        ann_recall(np.zeros((2, 5), int), np.zeros((3, 5), int))


@pytest.mark.parametrize("seed", range(5))
def test_pytorch_metric_learning_agrees_on_the_nearest_and_on_map_at_r(seed: int) -> None:
    per_category = 5  # so that its R, the relevant items of a query, is the 5 of map@5
    rng = np.random.default_rng(seed)
    gallery_codes = np.repeat(np.arange(4), per_category)
    query_codes = rng.integers(0, 4, 30)
    centres = rng.normal(size=(4, 8))
    gallery = (centres[gallery_codes] + rng.normal(size=(20, 8))).astype(np.float32)
    queries = (centres[query_codes] + rng.normal(size=(30, 8))).astype(np.float32)
    theirs = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        k=10,
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=True)),
    ).get_accuracy(queries, query_codes, gallery, gallery_codes, ref_includes_query=False)

    judged = Judgements(50, product=np.r_[query_codes, gallery_codes], category=np.r_[query_codes, gallery_codes])
    _, positions = exact_topk(unit_length(queries), unit_length(gallery), 10)
    ours = retrieval_metrics(positions, judged.take(np.arange(30)), judged.take(np.arange(30, 50))).summary

    assert ours["recall@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    assert ours["map@5"] == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)
