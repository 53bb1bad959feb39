"""The gate holds a true loss, lets chance pass, and always says why."""

import json

import numpy as np
import polars as pl
import pytest

from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.decide import ReleaseFigures, Verdict, decide
from retrieval_core.evaluate.measure.filtered import FilterFacts
from tests.core.evaluate.gate.query_tables import (
    GOOD,
    WORSE,
    flawless,
    in_categories,
    of_products,
    results,
    with_losses,
)

BLOCK = GateConfig()


def means(frame: pl.DataFrame | None) -> dict[str, float]:
    return {} if frame is None else {name: frame[name].mean() for name in frame.columns if frame[name].dtype.is_float()}


def figures(frame: pl.DataFrame | None, **more) -> ReleaseFigures:
    n_queries = {} if frame is None else {name: frame[name].drop_nans().count() for name in means(frame)}
    return ReleaseFigures(frame, means(frame), n_queries=n_queries, **more)


def ask(candidate, production, config=BLOCK, metrics=None, **night) -> Verdict:
    before = None if production is None else figures(production, n_indexed=100, index_bytes=200_000)
    return decide(ReleaseFigures(candidate, means(candidate) | (metrics or {}), **night), before, config)


def test_a_true_loss_is_held_and_named():
    verdict = ask(WORSE, GOOD)
    assert verdict.gate == "held"
    assert [row.name for row in verdict.losses] == ["recall@1"]
    assert verdict.reason.startswith(
        "Held: recall@1 fell from 0.700 to 0.650 on 500 queries shared with production, beyond chance (p = "
    )
    assert verdict.reason.endswith("): it may have lost up to 6.9 points (95% confidence), and 2 are tolerated.")
    assert verdict.reason.count(". ") == 0
    assert verdict.reason.endswith(".")


def test_a_gain_and_an_equal_candidate_are_published():
    for candidate in (GOOD, results(**{"recall@1": 0.8, "map@5": 0.6})):
        verdict = ask(candidate, GOOD)
        assert verdict.gate == "published"
        assert "500 queries shared with production." in verdict.reason
        assert verdict.reason.endswith("in recall@1, 0.6 in map@5; 2 are tolerated.")


def test_a_loss_within_the_tolerance_is_published_however_certain():
    verdict = ask(WORSE, GOOD, GateConfig(max_loss=0.2))
    assert verdict.gate == "published"
    assert verdict.rows[0].p_holm < 0.05


def test_a_loss_that_chance_explains_is_published():
    # Forty queries of which four are lost: ten points, and p is 1/16.
    before = results(n=40, **{"recall@1": 2.0})
    verdict = ask(with_losses(before, np.arange(40) < 4), before)
    assert verdict.gate == "published"
    assert verdict.rows[0].difference == pytest.approx(-0.1)
    assert verdict.reason == (
        "No loss beyond chance on 40 queries shared with production. With 95% confidence the loss is at most 20.9 "
        "points in recall@1; 2 are tolerated, and showing that takes about 625 products."
    )


@pytest.mark.parametrize("n_lost", [0, 2])
def test_too_few_products_are_held_and_the_sentence_says_what_to_do(n_lost):
    before = of_products(results(n=72, **{"recall@1": 2.0}), 9)
    verdict = ask(with_losses(before, np.arange(72) < n_lost), before)
    assert verdict.gate == "held"
    assert verdict.reason.startswith(
        "Held: too few products to judge the search: on 72 queries of 8 products shared with production, "
        f"{n_lost} with another result, recall@1 could lose "
    )
    assert "more than 20 (gate.max_unseen_loss); about 11 products are needed: hold out more" in verdict.reason
    assert ask(before, before, GateConfig(max_unseen_loss=1)).gate == "published"
    assert ask(before, None).gate == "published"


def test_one_metric_with_enough_queries_is_enough():
    golden = pl.DataFrame({"item_id": [f"golden/{i}" for i in range(8)], "golden/hit@1": [1.0] * 8})
    both = pl.concat([GOOD, golden], how="diagonal")
    verdict = ask(both, both)
    assert verdict.gate == "published"
    assert "in golden/hit@1" in verdict.reason
    assert ask(golden, golden).gate == "held"


def test_a_reason_names_the_products_of_the_queries():
    assert "on 500 queries of 125 products shared" in ask(of_products(GOOD, 4), GOOD).reason
    assert "on 500 queries of 125 products shared" in ask(of_products(WORSE, 4), GOOD).reason


def test_the_first_release_is_published():
    verdict = ask(GOOD, None)
    assert (verdict.gate, verdict.reason) == ("published", "First release: there is no production to compare with.")


@pytest.mark.parametrize(
    ("candidate", "production"),
    [
        (None, GOOD),
        (GOOD, None),
        (None, None),
        (GOOD, GOOD.with_columns(item_id=pl.lit("other ") + pl.col("item_id"))),
        (GOOD, GOOD.select("item_id")),
        (GOOD.clear(), GOOD),
        (GOOD.head(1), GOOD),
        (GOOD.with_columns(pl.lit(None, pl.Float64).alias("recall@1"), pl.lit(float("nan")).alias("map@5")), GOOD),
    ],
)
def test_what_cannot_be_compared_is_held_and_says_so(candidate, production):
    verdict = decide(ReleaseFigures(candidate, {}), ReleaseFigures(production, {}), BLOCK)
    assert verdict.gate == "held"
    assert verdict.reason.startswith("Held: only 0 queries can be compared with production")


def test_too_few_queries_for_a_loss_to_show_are_held():
    assert ask(GOOD.head(29), GOOD.head(29)).reason.startswith("Held: only 29 queries can be compared")
    assert ask(GOOD.head(30), GOOD.head(30)).gate == "published"
    assert ask(GOOD.head(29), GOOD.head(29), GateConfig(min_queries=29)).gate == "published"


def test_a_metric_that_lost_its_queries_is_held_though_others_can_be_compared():
    """The labels are lost, and what the synthetic queries find is as good as before."""
    with_synthetic = GOOD.with_columns(pl.lit(1.0).alias("synthetic/recall@1"))
    lost = with_synthetic.with_columns(pl.when(pl.int_range(500) < 20).then(pl.col("recall@1", "map@5")).name.keep())
    verdict = ask(lost, with_synthetic)
    (cause,) = verdict.causes
    assert cause.startswith(
        "too few of production's queries can be compared, 20 of 500 in recall@1 and 20 of 500 in map@5 (30 are needed"
    )
    small, number = with_synthetic.drop("map@5").head(100), pl.int_range(100)
    before, after = (
        small.with_columns(pl.when(number < n).then(pl.col("recall@1")).alias("recall@1")) for n in (30, 29)
    )
    assert ask(after, before).gate == "published", "one query less is no loss of the labels"
    fewer = with_synthetic.with_columns(pl.when(pl.int_range(500) < 30).then(pl.col("recall@1", "map@5")).name.keep())
    assert ask(fewer, with_synthetic).gate == "published"


def test_a_lost_catalogue_is_the_first_of_all_causes():
    columns = {name: pl.lit(None, pl.String) for name in ("product_id", "category")}
    items = GOOD.select("item_id", content_id="item_id", labels=pl.lit([]), attributes=pl.lit([]), **columns)
    before = figures(GOOD, items=items)
    cut = decide(figures(GOOD.head(50), items=items.head(50), reconciled=False), before, BLOCK)
    assert cut.reason.startswith("Held: 450 of 500 items are gone")
    assert len(cut.causes) == 2
    declared = decide(figures(GOOD.head(50), items=items.head(50), declared_removals=items["item_id"]), before, BLOCK)
    assert declared.gate == "published"


@pytest.mark.parametrize("production", [None, GOOD])
def test_an_index_that_misses_neighbours_is_held_even_on_the_first_night(production):
    verdict = ask(GOOD, production, metrics={"ann_recall@10": 0.9})
    assert verdict.gate == "held"
    assert "0.900" in verdict.reason
    assert "ann_recall@10" in verdict.reason
    assert ask(GOOD, production, metrics={"ann_recall@10": float("nan")}).gate == "held"
    assert ask(GOOD, production, metrics={"ann_recall@10": 0.95}).gate == "published"


def test_an_index_that_misses_neighbours_under_a_filter_is_held_and_the_worst_category_named():
    def under(name: str, meaning: str, recall: float) -> FilterFacts:
        return FilterFacts(name=name, meaning=meaning, n_rows=50, recall=recall, latency_ms_p50=1.0, how="selector")

    mean = under("where_category", "each of the 20 most frequent categories", 0.97)
    worst = under("where_category_worst", "category hats, the worst", 0.94)
    verdict = ask(GOOD, GOOD, filters=(mean, worst))
    assert verdict.gate == "held"
    assert "with a filter (category hats, the worst) the index finds 0.940" in verdict.reason
    assert "where_category_worst/ann_recall@10" in verdict.reason
    assert ask(GOOD, GOOD, GateConfig(min_ann_recall=0.9), filters=(mean, worst)).gate == "published"
    assert ask(GOOD, GOOD, filters=(mean,)).gate == "published"


def test_rows_that_do_not_reconcile_are_held():
    verdict = ask(GOOD, GOOD, reconciled=False)
    assert verdict.gate == "held"
    assert "quarantined" in verdict.reason


# What is beyond a bound, what is not, and the figure, the bound and the way out that the sentence names.
BOUNDS = {
    "quarantine": (
        {"n_rows": 1550, "n_quarantined": 186},
        {"n_rows": 1550, "n_quarantined": 155},
        ("186 of 1,550", "12.0%", "0.1 ", "gate.max_quarantine_rate", "quarantine ledger"),
    ),
    "masks": (
        {"mask_fallback_rate": 0.625},
        {"mask_fallback_rate": 0.5},
        ("62.5%", "0.5 ", "gate.max_mask_fallback_rate", "train the segmenter"),
    ),
    "size": (
        {"index_bytes": 5_240_000_000, "config": GateConfig(max_index_gb=5)},
        {"index_bytes": 5_000_000_000, "config": GateConfig(max_index_gb=5)},
        ("5.24 GB", "more than 5 GB", "gate.max_index_gb", "index.memory_gb"),
    ),
    "growth": (
        {"n_indexed": 50, "index_bytes": 205_000},
        {"n_indexed": 10_000, "index_bytes": 40_000_000},
        ("4,100 bytes an item", "production's 2,000", "105%", "100%", "gate.max_index_growth", "backbone"),
    ),
    "latency": (
        {"latency_ms": 12.34, "config": GateConfig(max_latency_ms=10)},
        {"latency_ms": 10.0, "config": GateConfig(max_latency_ms=10)},
        ("12.3 ms", "10 ms", "gate.max_latency_ms", "index.recall_target"),
    ),
}


@pytest.mark.parametrize(("beyond", "at", "words"), BOUNDS.values(), ids=BOUNDS)
def test_what_is_beyond_a_bound_is_held_and_the_sentence_says_what_to_do(beyond, at, words):
    verdict = ask(GOOD, GOOD, **beyond)
    assert verdict.gate == "held"
    assert len(verdict.causes) == 1
    assert all(word in verdict.reason for word in words), verdict.reason
    assert verdict.reason.count(". ") == 0
    assert ask(GOOD, GOOD, **at).causes == ()


def test_bounds_that_compare_with_nothing_hold_on_the_first_night_too():
    for kind, (beyond, _, _) in BOUNDS.items():
        assert ask(GOOD, None, **beyond).gate == ("published" if kind == "growth" else "held")


def test_a_bound_of_zero_is_none():
    free = GateConfig(max_index_gb=0, max_index_growth=0, max_latency_ms=0)
    assert ask(GOOD, GOOD, free, n_indexed=1, index_bytes=10**12, latency_ms=1e6).causes == ()


def test_a_loss_that_one_category_bears_alone_is_held_and_named():
    before = flawless()
    after = in_categories(with_losses(before, np.arange(3000) < 25), 50, 1000, 1000)
    verdict = ask(after, before)
    assert [(row.name, row.category, row.n_queries) for row in verdict.losses] == [("recall@1", "a", 50)]
    assert verdict.rows[0].difference > -BLOCK.max_loss
    assert verdict.reason.startswith("Held: recall@1 fell in category a from 1.000 to 0.500 on 50 queries")
    assert verdict.reason.endswith("and 5 are tolerated.")
    assert ask(after, before, GateConfig(max_category_loss=0.7)).gate == "published"
    assert ask(after, before, GateConfig(min_category_queries=51)).gate == "published"
    assert ask(after.drop("category"), before).gate == "published"


def test_a_reason_counts_the_categories_that_were_compared():
    before = flawless(300)
    compared = ask(in_categories(before, 29, 30, 200), before)
    assert {row.category for row in compared.categories} == {"b", "c"}
    assert "shared with production, nor within the categories compared (2). " in compared.reason


def test_many_categories_that_fall_still_make_one_sentence():
    before = flawless(800)
    after = in_categories(with_losses(before, np.arange(800) % 2 == 0), *[100] * 8)
    verdict = ask(after, before)
    assert len(verdict.losses) == 1 + 8
    assert len(verdict.causes) == 1 + 3 + 1
    assert verdict.causes[-1] == "5 more metrics fell so within categories"


def test_a_category_of_a_strange_name_is_named_in_one_short_line():
    before = flawless()
    after = in_categories(with_losses(before, np.arange(3000) < 25), 50, 1000)
    strange = after.with_columns(pl.col("category").replace("a", "shoes.\nAll is well; " * 20))
    reason = ask(strange, before).reason
    assert "\n" not in reason
    assert len(reason) < 300


def test_several_causes_make_one_sentence():
    verdict = ask(WORSE, GOOD, metrics={"ann_recall@10": 0.1}, reconciled=False)
    assert len(verdict.causes) == 3
    assert verdict.reason == f"Held: {'; '.join(verdict.causes)}."


def test_warn_publishes_with_the_reason():
    verdict = ask(WORSE, GOOD, GateConfig(mode="warn"))
    assert verdict.gate == "published"
    assert verdict.reason.startswith("Published with a warning: recall@1 fell")
    assert verdict.losses


def test_off_looks_at_nothing():
    verdict = ask(WORSE, GOOD, GateConfig(mode="off"), reconciled=False)
    assert (verdict.gate, verdict.rows) == ("published", ())
    assert "off" in verdict.reason


def test_metrics_known_only_as_numbers_are_shown_and_never_tested():
    verdict = decide(
        ReleaseFigures(GOOD, {"mask_iou": 0.5, "new": 1.0}), ReleaseFigures(GOOD, {"mask_iou": 0.8}), BLOCK
    )
    row = verdict.rows[-1]
    assert (row.name, row.production, row.candidate) == ("mask_iou", 0.8, 0.5)
    assert row.low is row.high is row.p_holm is None
    assert verdict.gate == "published"


def test_a_verdict_survives_json():
    verdict = ask(WORSE, GOOD)
    assert Verdict.model_validate(json.loads(verdict.model_dump_json())) == verdict


def test_a_release_that_waits_for_a_person_is_held_however_good():
    waiting = GateConfig(mode="hold")
    for production, word in ((GOOD, "no loss beyond"), (None, "first release")):
        verdict = ask(GOOD, production, waiting)
        assert verdict.gate == "held"
        assert verdict.reason.startswith(f"Waits to be promoted: {word}")
        assert verdict.causes == (), "it only waits"
    assert ask(WORSE, GOOD, waiting) == ask(WORSE, GOOD)
    assert ask(WORSE, GOOD, waiting).causes
