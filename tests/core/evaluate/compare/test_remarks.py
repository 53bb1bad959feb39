"""The remarks under a table explain how it was tested, and why some of its metrics are undefined."""

import numpy as np
import pytest

from retrieval_core.evaluate.compare.paired import paired_tests
from retrieval_core.evaluate.compare.remarks import against_random, how_tested


@pytest.mark.parametrize(
    ("metric", "blank", "why"),
    [
        ("recall@1", {"product_id": None}, "recall@1 is undefined here: the catalogue has no products."),
        ("precision@5", {"category": None}, "the catalogue has no categories."),
        ("label_iou@5", {"labels": []}, "the catalogue has no labels."),
        ("attribute_map@10", {"labels": []}, "the catalogue has no labels or attributes."),
        ("map@5", {"labels": [], "category": None}, "the catalogue has no categories or labels or attributes."),
        ("recall@5", {"split": "train"}, "no picture is held out as a query"),
        ("recall@5", {"split": "query", "product_id": None}, "every picture is a query, so the gallery is empty"),
        ("f1_example", {}, "no variant's backbone was trained to predict labels"),
    ],
)
def test_an_undefined_metric_stays_in_the_table_with_the_reason(open_shop, build, metric, blank, why) -> None:
    shop = open_shop(n=24, **blank)
    results = shop.compare(shop.variant("a", shop.vectors(1.0)), shop.variant("b", shop.vectors(0.5)))
    (table,) = build(results, {"metrics": (metric,), "baseline": "a"})
    assert [row.cells[0].value for row in table.rows] == [None, None]
    assert [row.cells[0].test for row in table.rows] == [None, None]
    assert table.random[0].value is None
    assert [remark for remark in table.remarks if why in remark]


def test_metrics_undefined_for_the_same_reason_share_one_remark(open_shop, build) -> None:
    shop = open_shop(n=24, product_id=None)
    results = shop.compare(shop.variant("a", shop.vectors(1.0)))
    (table,) = build(results, {"metrics": ("recall@1", "recall@2", "map@5", "recall@3")})
    assert table.remarks == ("recall@1, recall@2 and recall@3 are undefined here: the catalogue has no products.",)


def test_products_with_one_picture_each_are_a_reason_too(shop, build) -> None:
    one_of_each = shop.variant("a", shop.vectors(1.0)[::2], shop.content_ids[::2])
    (table,) = build(shop.compare(one_of_each), {"metrics": ("recall@1",)})
    assert "no query can be judged by its products: it has none, or no item of the gallery matches" in table.remarks[0]


@pytest.mark.parametrize(("n_tests", "family"), [(1, "the one test"), (3, "the 3 tests")])
def test_the_tests_of_a_table_are_described(n_tests, family) -> None:
    tests = paired_tests([(np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 0.0]))] * n_tests, np.arange(3))
    assert "the same 3 queries" in how_tested(tests)
    assert f"Holm-corrected over {family} of this table" in how_tested(tests)


def test_a_catalogue_without_labels_is_not_compared_with_random_retrieval(open_shop) -> None:
    shop = open_shop(n=24, labels=[])
    assert list(against_random("label_iou@5", ["a"], shop.compare(shop.variant("a", shop.vectors(1.0))))) == []
