"""Intervals cover at the stated rate and never claim certainty; categories, confusion and ranking are plain counts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.analysis.quality import OTHERS, interval, measure_quality, rank_queries
from retrieval_core.evaluate.measure.setup import choose_protocol

UNLABELLED = pl.DataFrame({"cluster": list("aaabbbccc"), "golden/hit@1": [1.0] * 6 + [0.0] * 3})


@pytest.fixture
def judge(catalog_items):
    """`judge(categories, first, **columns)`: quality of the last fifth of the items, and their first hits."""

    def measure(categories, first, **columns):
        items = catalog_items(len(categories), category=categories)
        protocol = choose_protocol(items, EvaluateConfig(queries=1000))
        table = pl.DataFrame({name: np.array(values, float) for name, values in columns.items()})
        table = table.fill_nan(None).with_columns(cluster=protocol.clusters)
        return measure_quality(table, UNLABELLED, protocol, items, np.array(first, np.int64))

    return measure


@pytest.mark.parametrize(("n", "p"), [(5, 0.2), (20, 0.05), (50, 0.9), (200, 0.5)])
def test_the_interval_of_yes_or_no_values_covers_at_its_stated_rate(n, p):
    rng = np.random.default_rng(0)
    ends = [interval((rng.random(n) < p).astype(float), np.arange(n)) for _ in range(1500)]
    covered = np.mean([low <= p <= high for low, high in ends])
    assert covered > 0.92


def test_the_interval_of_graded_values_covers_at_its_stated_rate():
    rng = np.random.default_rng(1)
    for n in (10, 60):
        ends = [interval(rng.beta(0.5, 1.5, n), np.arange(n)) for _ in range(400)]
        assert np.mean([low <= 0.25 <= high for low, high in ends]) > 0.91


@pytest.mark.parametrize("sizes", [[4], [1, 1, 2, 8]])
@pytest.mark.parametrize("n_products", [12, 80])
def test_the_interval_covers_at_its_stated_rate_where_the_pictures_of_a_product_are_found_together(n_products, sizes):
    rng, clusters = np.random.default_rng(2), np.repeat(np.arange(n_products), np.resize(sizes, n_products))
    for draw, mean in ((lambda: rng.random(n_products) < 0.8, 0.8), (lambda: rng.beta(0.5, 1.5, n_products), 0.25)):
        ends = [interval(draw().astype(float)[clusters], clusters) for _ in range(400)]
        assert np.mean([low <= mean <= high for low, high in ends]) > 0.91


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=80))
def test_an_interval_lies_around_the_mean_and_is_never_a_point(values):
    low, high = interval(np.array(values), np.arange(len(values)))
    assert 0 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1
    assert low < high


def test_one_product_has_no_interval():
    assert interval(np.array([1.0]), np.array([0])) is None
    assert interval(np.array([1.0, 0.0]), np.array([3, 3])) is None


def test_categories_hold_the_means_of_their_queries(judge):
    kinds = ["hat", "shoe"] * 10
    found = judge(kinds, [0, 1, 2, 3], **{"recall@1": [1, 0, 1, np.nan], "recall@5": [1, 1, 1, 1]})
    assert [(one.category, one.n_queries) for one in found.categories] == [("hat", 2), ("shoe", 2)]
    ((hat,), (shoe,)) = (one.metrics for one in found.categories)
    assert (hat.value, hat.n_queries) == (1.0, 2)
    assert hat.low < 1.0
    assert (shoe.value, shoe.n_queries, shoe.low) == (0.0, 1, None)
    assert [metric.name for metric in found.metrics] == ["recall@1", "recall@5"]


def test_first_hits_are_counted_by_both_categories(judge):
    kinds = ["hat", "shoe", "hat", None] * 5
    # Queries are items 16 to 19: hat, shoe, hat, none.
    found = judge(kinds, [1, 1, -1, 0], **{"recall@1": [0, 1, 0, 0]}).confusion
    assert (found.asked, found.found) == (("hat", "shoe"), ("hat", "shoe"))
    assert found.counts == ((0, 1), (0, 1))
    assert found.n_queries == 2


def test_rare_categories_are_counted_together(judge):
    kinds = [f"kind-{i % 20:02}" for i in range(100)]
    found = judge(kinds, list(range(20)), **{"recall@1": [1] * 20}).confusion
    assert len(found.asked) == 13
    assert found.asked[-1] == OTHERS
    assert sum(map(sum, found.counts)) == found.n_queries == 20
    assert found.counts[-1][-1] == 8


@pytest.mark.parametrize(
    ("kinds", "first"), [([None] * 10, [0, 1]), (["hat"] * 10, [0, 1]), (["hat", "shoe"] * 5, [-1, -1])]
)
def test_where_nothing_can_be_confused_there_is_no_table(judge, kinds, first):
    assert judge(kinds, first, **{"recall@1": [1, 1]}).confusion is None


def test_no_queries_and_no_labels_do_not_crash(judge):
    assert judge(["hat"] * 4, []).metrics == ()
    assert judge([None] * 10, [0, 1], **{"recall@1": [np.nan, np.nan]}).categories == ()


def test_queries_are_ranked_by_their_headlines_and_unjudged_ones_left_out():
    table = pl.DataFrame({"recall@1": [0.0, 1.0, None, None], "map@5": [0.1, 0.9, 0.5, None], "recall@5": [1.0] * 4})
    assert rank_queries(table, np.arange(4), 0).tolist() == [1, 2, 0]
    assert rank_queries(table.select("recall@5"), np.arange(4), 0).tolist() == []


def test_equal_queries_keep_no_order_of_the_catalogue():
    table = pl.DataFrame({"recall@1": [0.0] * 50})
    ranked = rank_queries(table, np.arange(50), 0)
    assert sorted(ranked.tolist()) == list(range(50))
    assert ranked.tolist() != list(range(50))
    assert (ranked == rank_queries(table, np.arange(50), 0)).all()


def test_golden_and_synthetic_queries_have_intervals_over_their_clusters(judge):
    (fact,) = judge(["hat"] * 20, [0, 1, 2, 3], **{"recall@1": [1, 0, 1, 1]}).unlabelled
    assert (fact.name, fact.n_queries, fact.value) == ("golden/hit@1", 9, pytest.approx(2 / 3))
    expected = interval(np.array([1.0, 1.0, 0.0]), np.arange(3))
    assert (fact.low, fact.high) == pytest.approx(expected)
