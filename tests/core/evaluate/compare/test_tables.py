"""Tables hold the metrics of each variant, and which differences are more than chance."""

import pytest

from retrieval_core.evaluate.compare.tables import best_rows


@pytest.fixture
def results(shop):
    """A good, a poor and a random variant, and a twin of the poor one."""
    noises = {"good": 0.2, "poor": 0.5, "twin": 0.5, "chance": 1e6}
    return shop.compare(*(shop.variant(name, shop.vectors(noise)) for name, noise in noises.items()))


def test_every_other_row_is_tested_against_the_baseline_on_the_same_queries(build, results) -> None:
    told = {"metrics": ("precision@5", "map@5"), "baseline": "poor"}
    (table,) = build(results, told)
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


def test_a_row_equal_to_its_baseline_has_the_verdict_same(build, results) -> None:
    (table,) = build(results, {"metrics": ("map@5",), "variants": ("poor", "twin"), "baseline": "poor"})
    test = table.rows[1].cells[0].test
    assert (test.difference, test.p_holm, test.verdict) == (0, 1, "same")
    assert test.low < 0 < test.high


def test_a_table_of_pairs_finds_the_variants_that_differ_in_its_contrast_alone(shop, build) -> None:
    variants = [
        shop.variant("a", shop.vectors(2.0)),
        shop.variant("a boosted", shop.vectors(0.3), boosted=True),
        shop.variant("b", shop.vectors(2.0, seed=1), backbone=shop.backbone("b"), weights="random:1"),
        shop.variant("b boosted", shop.vectors(0.3, seed=1), weights="random:1", boosted=True),
        shop.variant("b 8", shop.vectors(0.3, seed=1), weights="random:1", dim=8),
    ]
    results = shop.compare(*variants)
    (table,) = build(results, {"kind": "pairs", "contrast": "boosted", "metrics": ("map@5",)})
    assert [(row.variant, row.against) for row in table.rows] == [("a boosted", "a"), ("b boosted", "b")]
    assert all(row.cells[0].test.verdict == "better" for row in table.rows)
    assert table.random == ()


def test_label_iou_has_a_deviation_and_is_tested_against_random(build, results) -> None:
    (table,) = build(results, {"metrics": ("label_iou@5",)})
    values = results.scores["good"].per_query["label_iou@5"].to_numpy()
    assert table.rows[0].cells[0].deviation == pytest.approx(values.std())
    assert table.random[0].value == results.random.summary["label_iou@5"]
    assert table.random[0].deviation == results.random.summary["label_iou@5_std"]
    (remark,) = table.remarks
    assert remark.startswith(f"Tested against random retrieval (label_iou@5 {table.random[0].value:.3f})")
    assert "Holm-corrected over these 4 tests: better: good (p " in remark
    assert "; within chance: chance (p " in remark


def test_scores_of_a_training_are_shown_but_never_tested(shop, build) -> None:
    labeller = shop.backbone("labeller", metrics={"f1_example": 0.7})
    results = shop.compare(
        shop.variant("labels", shop.vectors(0.5), backbone=labeller), shop.variant("plain", shop.vectors(0.5))
    )
    (table,) = build(results, {"metrics": ("f1_example",), "baseline": "plain"})
    assert [row.cells[0].value for row in table.rows] == [0.7, None]
    assert table.rows[0].cells[0].test is None
    assert table.remarks[0].startswith("f1_example is measured when a backbone is trained to predict labels")


def test_the_highest_values_of_a_column_are_best_unless_all_are_equal(build, results) -> None:
    both = {"metrics": ("map@5",), "variants": ("poor", "twin", "chance")}
    equal = {"metrics": ("map@5",), "variants": ("poor", "twin")}
    first, second = build(results, both, equal)
    assert best_rows(first) == [{0, 1}]
    assert best_rows(second) == [set()]
