"""Tables say what was reached, which differences are more than chance, and why something cannot be said."""

import numpy as np
import pytest
from scipy import stats

from retrieval_core.evaluate.compare.paired import paired_tests
from retrieval_core.evaluate.compare.tables import best_rows, build_tables


def build(configured, results, *tables):
    return build_tables(configured(results.variants, *tables), results)


@pytest.fixture
def results(shop):
    """A good, a poor and a random variant, and a twin of the poor one."""
    noises = {"good": 0.2, "poor": 0.5, "twin": 0.5, "chance": 1e6}
    return shop.compare(*(shop.variant(name, shop.vectors(noise)) for name, noise in noises.items()))


def test_every_other_row_is_tested_against_the_baseline_on_the_same_queries(configured, results) -> None:
    told = {"metrics": ("precision@5", "map@5"), "baseline": "poor"}
    (table,) = build(configured, results, told)
    assert [row.variant for row in table.rows] == ["good", "poor", "twin", "chance"]
    assert [row.against for row in table.rows] == ["poor", "", "poor", "poor"]
    per_query = {name: scores.per_query["map@5"].to_numpy() for name, scores in results.scores.items()}
    cell = table.rows[0].cells[1]
    assert cell.value == pytest.approx(per_query["good"].mean())
    assert cell.reference == pytest.approx(per_query["poor"].mean())
    assert cell.difference == pytest.approx(cell.test.difference)
    assert cell.test.low < cell.test.difference < cell.test.high
    assert cell.test.n_better == (per_query["good"] > per_query["poor"]).sum()
    assert cell.test.n_worse == (per_query["good"] < per_query["poor"]).sum()
    assert [row.cells[1].test.verdict if row.against else None for row in table.rows] == [
        "better",
        None,
        "same",
        "worse",
    ]


def test_a_row_that_equals_its_baseline_is_no_news(configured, results) -> None:
    (table,) = build(configured, results, {"metrics": ("map@5",), "variants": ("poor", "twin"), "baseline": "poor"})
    test = table.rows[1].cells[0].test
    assert (test.difference, test.low, test.high, test.p_holm, test.verdict) == (0, 0, 0, 1, "same")


def test_p_values_are_those_of_an_independent_permutation_test_corrected_over_all() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random(60)
    pairs = [(theirs + rng.normal(shift, 0.3, 60), theirs) for shift in (0.0, 0.06, 0.12, 0.5)]
    tests = paired_tests(pairs)
    for (a, b), test in zip(pairs, tests, strict=True):
        oracle = stats.permutation_test(
            (a, b),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(0),
        )
        assert test.p == pytest.approx(oracle.pvalue, abs=0.015)
    worst = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test.p)):
        worst = max(worst, min(1.0, (len(tests) - rank) * test.p))
        assert test.p_holm == pytest.approx(worst)


def test_a_clear_difference_stays_clear_among_many_tests() -> None:
    rng = np.random.default_rng(0)
    noise = [(rng.random(80), rng.random(80)) for _ in range(59)]
    clear = rng.random(80) + 1, rng.random(80)
    assert paired_tests([*noise, clear])[-1].p_holm < 0.01


def test_a_table_of_pairs_finds_the_variants_that_differ_in_its_contrast_alone(shop, configured) -> None:
    variants = [
        shop.variant("a", shop.vectors(2.0)),
        shop.variant("a boosted", shop.vectors(0.3), boosted=True),
        shop.variant("b", shop.vectors(2.0, seed=1), backbone=shop.backbone("b"), weights="random:1"),
        shop.variant("b boosted", shop.vectors(0.3, seed=1), weights="random:1", boosted=True),
        shop.variant("b 8", shop.vectors(0.3, seed=1), weights="random:1", dim=8),
    ]
    results = shop.compare(*variants)
    (table,) = build(configured, results, {"kind": "pairs", "contrast": "boosted", "metrics": ("map@5",)})
    assert [(row.variant, row.against) for row in table.rows] == [("a boosted", "a"), ("b boosted", "b")]
    assert all(row.cells[0].test.verdict == "better" for row in table.rows)
    assert table.random == ()


def test_shared_labels_come_with_their_deviation_and_stand_against_random(configured, results) -> None:
    (table,) = build(configured, results, {"metrics": ("label_iou@5",)})
    values = results.scores["good"].per_query["label_iou@5"].to_numpy()
    assert table.rows[0].cells[0].deviation == pytest.approx(values.std())
    assert table.random[0].value == results.random.summary["label_iou@5"]
    assert table.random[0].deviation == results.random.summary["label_iou@5_std"]
    (remark,) = table.remarks
    assert remark.startswith(f"Tested against random retrieval (label_iou@5 {table.random[0].value:.3f})")
    assert "Holm-corrected over these 4 tests: better: good (p " in remark
    assert "; within chance: chance (p " in remark


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
def test_an_undefined_metric_stays_in_the_table_with_the_reason(open_shop, configured, metric, blank, why) -> None:
    shop = open_shop(n=24, **blank)
    results = shop.compare(shop.variant("a", shop.vectors(1.0)), shop.variant("b", shop.vectors(0.5)))
    (table,) = build(configured, results, {"metrics": (metric,), "baseline": "a"})
    assert [row.cells[0].value for row in table.rows] == [None, None]
    assert [row.cells[0].test for row in table.rows] == [None, None]
    assert table.random[0].value is None
    assert [remark for remark in table.remarks if why in remark]


def test_metrics_that_miss_the_same_share_one_remark(open_shop, configured) -> None:
    shop = open_shop(n=24, product_id=None)
    results = shop.compare(shop.variant("a", shop.vectors(1.0)))
    (table,) = build(configured, results, {"metrics": ("recall@1", "recall@2", "map@5", "recall@3")})
    assert table.remarks == ("recall@1, recall@2 and recall@3 are undefined here: the catalogue has no products.",)


def test_products_that_nobody_else_shows_are_a_reason_too(shop, configured) -> None:
    one_of_each = shop.variant("a", shop.vectors(1.0)[::2], shop.content_ids[::2])
    (table,) = build(configured, shop.compare(one_of_each), {"metrics": ("recall@1",)})
    assert "no query can be judged by its products: it has none, or no item of the gallery matches" in table.remarks[0]


def test_scores_of_training_are_shown_where_they_are_and_never_tested(shop, configured) -> None:
    labeller = shop.backbone("labeller", metrics={"f1_example": 0.7})
    results = shop.compare(
        shop.variant("labels", shop.vectors(0.5), backbone=labeller), shop.variant("plain", shop.vectors(0.5))
    )
    (table,) = build(configured, results, {"metrics": ("f1_example",), "baseline": "plain"})
    assert [row.cells[0].value for row in table.rows] == [0.7, None]
    assert table.rows[0].cells[0].test is None
    assert table.remarks[0].startswith("f1_example is measured when a backbone is trained to predict labels")


def test_the_highest_values_of_a_column_are_best_unless_all_are_equal(configured, results) -> None:
    both = {"metrics": ("map@5",), "variants": ("poor", "twin", "chance")}
    equal = {"metrics": ("map@5",), "variants": ("poor", "twin")}
    first, second = build(configured, results, both, equal)
    assert best_rows(first) == [{0, 1}]
    assert best_rows(second) == [set()]
