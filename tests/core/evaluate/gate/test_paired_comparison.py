"""The comparison of two tables of queries: means, intervals and tests against plain re-computations."""

from itertools import product
from statistics import mean, stdev

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.paired_comparison import MIN_DRAWS, Changes, MetricChange, compare
from retrieval_core.metrics.significance import ENOUGH_EXTREMES
from tests.core.evaluate.gate.query_tables import (
    GOOD,
    WORSE,
    flawless,
    in_categories,
    of_products,
    results,
    with_losses,
)

CONFIG = GateConfig()
HEADLINES, SIDE_METRICS = ("recall@1", "map@5"), ("recall@2", "precision@5")


def blocking(changes: Changes) -> list[tuple[str, str]]:
    return [(row.name, row.category) for row in (*changes.overall, *changes.by_category) if row.blocks]


@st.composite
def tables(draw, min_queries: int = 0) -> pl.DataFrame:
    """Up to 12 of 14 queries in any order, some metrics, with values that are often equal and sometimes null."""
    ids = draw(st.lists(st.integers(0, 13), min_size=min_queries, max_size=12, unique=True))
    names = draw(st.permutations(sorted(draw(st.sets(st.sampled_from([*HEADLINES, *SIDE_METRICS]), min_size=2)))))
    values = st.sampled_from([0.0, 0.5, 1.0, 1.0, None])
    columns = {name: draw(st.lists(values, min_size=len(ids), max_size=len(ids))) for name in names}
    categories = draw(st.lists(st.sampled_from(["a", "b", None]), min_size=len(ids), max_size=len(ids)))
    schema = {"item_id": pl.String, "category": pl.String} | dict.fromkeys(names, pl.Float64)
    return pl.DataFrame({"item_id": [f"q{i}" for i in ids], "category": categories} | columns, schema=schema)


def paired(challenger: pl.DataFrame, production: pl.DataFrame, name: str) -> list[tuple[float, float]]:
    """The two values of each query that has both."""
    old = dict(production.select("item_id", name).iter_rows())
    new = dict(challenger.select("item_id", name).iter_rows())
    return [(new[i], old[i]) for i in new if i in old and new[i] is not None and old[i] is not None]


def sign_flip_p(differences: list[float]) -> float:
    """The share of all assignments of signs whose sum is as low as the observed one."""
    moved = [difference for difference in differences if difference]
    sums = [
        sum(sign * abs(d) for sign, d in zip(signs, moved, strict=True))
        for signs in product((-1, 1), repeat=len(moved))
    ]
    return sum(total <= sum(moved) for total in sums) / len(sums)


def holm_by_rank(p_values: dict[str, float]) -> dict[str, float]:
    """Multiply the smallest by m, the next by m - 1, and so on; a larger p is never corrected below a smaller one."""
    ranked = sorted(p_values, key=p_values.__getitem__)
    corrected: dict[str, float] = {}
    for rank, name in enumerate(ranked):
        earlier = corrected[ranked[rank - 1]] if rank else 0.0
        corrected[name] = min(1.0, max(earlier, p_values[name] * (len(ranked) - rank)))
    return corrected


def decidable(n_differing: dict[str, int], alpha: float) -> list[str]:
    """The tests that can pass a corrected level: the most that can, where no more than that many are corrected for."""
    for n_tests in range(1, len(n_differing) + 1):
        passing = [name for name, n in n_differing.items() if 2.0**-n < alpha / n_tests]
        if len(passing) <= n_tests:
            return passing
    return []


@settings(max_examples=60)
@given(tables(min_queries=8), tables(min_queries=8))
def test_overall_changes_are_those_of_a_plain_recomputation(challenger, production):
    changes = compare(challenger.drop("category"), production, CONFIG)
    shared = [name for name in challenger.columns if name in production.columns and name not in ("item_id", "category")]
    is_tested = {name: name in HEADLINES or not set(HEADLINES) & set(shared) for name in shared}
    values = {name: paired(challenger, production, name) for name in shared}
    values = {name: pairs for name, pairs in values.items() if len(pairs) >= 2}
    assert [row.name for row in changes.overall] == list(values), "in the order of the challenger's columns"
    assert changes.by_category == ()
    for row, pairs in zip(changes.overall, values.values(), strict=True):
        assert row.n_queries == len(pairs)
        assert row.candidate == pytest.approx(mean(new for new, _ in pairs))
        assert row.production == pytest.approx(mean(old for _, old in pairs))
        assert row.difference == pytest.approx(mean(new - old for new, old in pairs))
        assert row.low - 1e-12 <= row.difference <= row.high + 1e-12
    differences = {name: [new - old for new, old in values[name]] for name in values if is_tested[name]}
    tests = decidable({name: sum(d != 0 for d in of) for name, of in differences.items()}, CONFIG.alpha)
    exact = {name: sign_flip_p(differences[name]) for name in tests}
    # Five standard errors of a share of MIN_DRAWS draws, or of a draw that stops at enough extremes.
    error = {name: 5 * max((p / MIN_DRAWS) ** 0.5, p / ENOUGH_EXTREMES**0.5) for name, p in exact.items()}
    least = holm_by_rank({name: max(0.0, p - error[name]) for name, p in exact.items()})
    most = holm_by_rank({name: p + error[name] for name, p in exact.items()})
    for row in changes.overall:
        if not is_tested[row.name]:
            assert row.p_holm is None
        elif row.name not in tests:
            assert row.p_holm == 1, "too few queries differ"
        else:
            assert least[row.name] <= row.p_holm <= most[row.name]


@settings(max_examples=30)
@given(tables(min_queries=2))
def test_a_table_never_loses_against_itself(table):
    changes = compare(table, table.sample(fraction=1, shuffle=True, seed=0), GateConfig(min_category_queries=2))
    assert blocking(changes) == []
    for row in (*changes.overall, *changes.by_category):
        assert (row.difference, row.n_differing) == (0, 0)
        assert row.low == -row.high < 0, "what was not drawn may differ"
        assert row.p_holm in (None, 1)


@settings(max_examples=40)
@given(tables(), tables(), st.integers(2, 5))
def test_a_category_is_compared_as_if_its_queries_were_the_table(challenger, production, min_queries):
    changes = compare(challenger, production, GateConfig(min_category_queries=min_queries))
    both = challenger.join(production.select("item_id"), on="item_id", how="semi").drop_nulls("category")
    sizes = dict(both["category"].value_counts().iter_rows())
    expected = {}
    for category, size in sizes.items():
        if min_queries <= size < len(both):
            rows = compare(
                challenger.filter(pl.col("category") == category).drop("category"), production, CONFIG
            ).overall
            expected |= {
                (category, row.name): row for row in rows if row.p_holm is not None and row.n_queries >= min_queries
            }
    assert {(row.category, row.name) for row in changes.by_category} == set(expected)
    for row in changes.by_category:
        alone = expected[row.category, row.name]
        for field in ("production", "candidate", "difference", "n_queries", "low", "high"):
            assert getattr(row, field) == pytest.approx(getattr(alone, field), abs=1e-12), field


def test_the_interval_is_that_of_the_mean_of_paired_differences():
    rng = np.random.default_rng(0)
    old, new = rng.random(500), rng.random(500)
    table = pl.DataFrame({"item_id": [f"q{i}" for i in range(500)], "recall@1": old})
    (row,) = compare(table.with_columns(pl.Series("recall@1", new)), table, CONFIG).overall
    error = stdev(new - old) / 500**0.5
    assert row.low == pytest.approx(row.difference - 1.96 * error, abs=0.15 * error)
    assert row.high == pytest.approx(row.difference + 1.96 * error, abs=0.15 * error)


def test_a_true_loss_blocks_and_has_its_interval():
    row = compare(WORSE, GOOD, CONFIG).overall[0]
    assert isinstance(row, MetricChange)
    assert row.difference == pytest.approx(row.candidate - row.production)
    assert row.low <= row.difference <= row.high < 0
    assert row.p_holm < 0.05
    assert (row.n_queries, row.n_clusters, row.n_differing) == (500, 500, 25)
    assert -row.difference < row.largest_loss <= -row.low
    assert row.unseen_loss < row.max_loss < row.largest_loss
    assert row.blocks
    assert not row.is_within_tolerance


@pytest.mark.parametrize(("max_loss", "blocks"), [(0.049, True), (0.06, True), (0.07, False)])
def test_a_certain_loss_blocks_unless_it_is_shown_to_be_within_what_is_tolerated(max_loss, blocks):
    row = compare(WORSE, GOOD, GateConfig(max_loss=max_loss)).overall[0]
    assert row.p_holm < 0.05
    assert row.blocks is blocks
    assert row.is_within_tolerance is not blocks


@pytest.mark.parametrize(("n_lost", "blocks"), [(4, False), (5, True)])
def test_a_large_loss_blocks_only_where_chance_does_not_explain_it(n_lost, blocks):
    """Of n queries lost and none won, p is 2^-n: 1/16 is above 0.05, 1/32 below."""
    before = flawless(20).select("item_id", "recall@1")
    (row,) = compare(with_losses(before, np.arange(20) < n_lost), before, CONFIG).overall
    assert row.difference == pytest.approx(-n_lost / 20)
    assert row.blocks is blocks


def test_a_gain_never_blocks():
    assert blocking(compare(GOOD, WORSE, CONFIG)) == []


def test_only_headlines_are_tested_where_there_are_any():
    before = results(**{"recall@1": 0.7, "recall@2": 0.7})
    after = results(**{"recall@1": 0.7, "recall@2": 0.5})
    changes = compare(after, before, CONFIG)
    assert blocking(changes) == []
    assert {row.name: row.p_holm is None for row in changes.overall} == {"recall@1": False, "recall@2": True}
    assert blocking(compare(after.drop("recall@1"), before, CONFIG)) == [("recall@2", "")]


def test_a_metric_of_a_variant_is_tested_where_there_is_no_headline():
    before, after = results(**{"boosted/map@5": 0.7, "boosted/map@1": 0.7}), results(**{"boosted/map@5": 0.6})
    changes = compare(after, before, CONFIG)
    assert blocking(changes) == [("boosted/map@5", "")]
    assert len(changes.overall) == 1, "a metric that one side lacks is not compared"


def test_only_shared_queries_with_a_value_on_both_sides_are_compared():
    before = GOOD.head(300).with_columns(pl.col("map@5").fill_null(0))
    after = GOOD.tail(300).sample(fraction=1, shuffle=True, seed=0)
    undefined = pl.when(pl.col("item_id") < "q0250").then(None).otherwise(pl.col("map@5")).alias("map@5")
    changes = compare(after.with_columns(undefined), before, CONFIG)
    assert {row.name: row.n_queries for row in changes.overall} == {"recall@1": 100, "map@5": 50}
    assert all(row.difference == 0 for row in changes.overall)


def test_text_columns_beside_the_metrics_are_ignored():
    table = GOOD.with_columns(category=pl.lit("dress"))
    changes = compare(table, table.with_columns(category=pl.lit("shoe")), CONFIG)
    assert {row.name for row in changes.overall} == {"recall@1", "map@5"}


def test_a_category_with_too_few_shared_queries_or_with_all_of_them_is_not_compared():
    before = flawless(300)
    changes = compare(in_categories(before, 29, 30, 200), before, CONFIG)
    assert {row.category for row in changes.by_category} == {"b", "c"}
    assert {row.name for row in changes.by_category} == {"recall@1", "map@5"}
    assert compare(in_categories(before, 300), before, CONFIG).by_category == ()
    half = compare(in_categories(before, 40, 200), before.tail(280), CONFIG)
    assert {row.category for row in half.by_category} == {"b"}, "20 of the first category's queries are shared"


def test_a_category_compares_the_metrics_that_enough_of_its_queries_define():
    before = flawless(300)
    undefined = before.with_columns(pl.when(pl.int_range(300) < 60).then(None).otherwise(1.0).alias("map@5"))
    changes = compare(in_categories(undefined, 80, 200), before, CONFIG)
    assert [(row.name, row.category) for row in changes.by_category] == [
        ("recall@1", "a"), ("recall@1", "b"), ("map@5", "b"),
    ]  # fmt: skip


def test_a_loss_within_one_category_blocks_by_the_categories_own_tolerance():
    before = flawless()
    after = in_categories(with_losses(before, np.arange(3000) < 25), 50, 1000, 1000)
    assert blocking(compare(after, before, CONFIG)) == [("recall@1", "a")]
    assert blocking(compare(after, before, GateConfig(max_category_loss=0.7))) == []
    assert blocking(compare(after.drop("category"), before, CONFIG)) == []


def test_what_the_categories_cost_the_whole_does_not_depend_on_their_number():
    # Seven queries lost and none won: 1/128, which passes 0.04 / 2 and would not pass as one of sixty tests.
    before = with_losses(flawless(500), np.zeros(500, bool))
    seven = with_losses(before, np.arange(500) % 72 == 0)
    assert blocking(compare(in_categories(seven, *[50] * 8), before, CONFIG)) == [("recall@1", "")]


def test_a_metric_that_differs_nowhere_costs_the_others_nothing():
    # Six queries lost and none won: 1/64, which passes 0.05 and would not pass as one of four tests.
    before = results(**{"recall@1": 2.0, "map@5": 2.0, "label_iou@5": 2.0, "attribute_map@10": 2.0})
    changes = compare(with_losses(before, np.arange(500) % 84 == 0), before, CONFIG)
    assert blocking(changes) == [("recall@1", "")]
    assert {row.name: row.p_holm for row in changes.overall if row.name != "recall@1"} == dict.fromkeys(
        ("map@5", "label_iou@5", "attribute_map@10"), 1.0
    )


@pytest.mark.parametrize("names", [["recall@1"], ["recall@1", "map@5", "label_iou@5"]])
def test_a_p_is_corrected_for_as_many_tests_as_can_block(names):
    """Eight queries lost and none won: 1/256 in one test, 3/256 in each of three."""
    before = results(n=100, **dict.fromkeys(names, 2.0))
    after = before.with_columns(pl.when(pl.int_range(100) < 8).then(0.0).otherwise(pl.col(names)).name.keep())
    changes = compare(after, before, CONFIG)
    assert [row.p_holm for row in changes.overall] == pytest.approx([len(names) / 256] * len(names), rel=0.5)
    assert blocking(changes) == [(name, "") for name in names]


def test_queries_of_one_product_count_as_one():
    """Two products of six pictures are lost, which is no more than chance: p is 1/4."""
    before = flawless(120)
    after = with_losses(before, np.arange(120) < 12)
    row = compare(of_products(after, 6), before, CONFIG).overall[0]
    assert (row.n_queries, row.n_clusters, row.n_differing) == (120, 20, 12)
    assert row.p_holm == 1, "too few products differ for a test"
    assert not row.blocks
    single = compare(after, before, CONFIG).overall[0]
    assert single.blocks
    assert row.low < single.low
    assert row.largest_loss > single.largest_loss


@settings(max_examples=20)
@given(tables(min_queries=4), tables(min_queries=4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_names_of_products_and_the_order_of_queries_decide_nothing(challenger, production, n_views, random):
    table = of_products(challenger, n_views)
    names = random.sample("abcdefghijklmnop", 12)
    renamed = table.with_columns(pl.col("cluster").replace({f"p{i}": name for i, name in enumerate(names)}))
    changes = compare(renamed.sample(fraction=1, shuffle=True, seed=1), production, CONFIG)
    for row, same in zip(changes.overall, compare(table, production, CONFIG).overall, strict=True):
        for field in ("name", "n_clusters", "n_differing", "n_clusters_needed", "blocks"):
            assert getattr(row, field) == getattr(same, field)
        for field in ("difference", "low", "high", "largest_loss", "unseen_loss", "p_holm"):
            assert getattr(row, field) == pytest.approx(getattr(same, field), abs=1e-12), field


def test_a_query_without_a_product_is_its_own():
    before = flawless(40)
    unknown = before.with_columns(cluster=pl.lit(None, pl.String))
    assert compare(unknown, before, CONFIG) == compare(before, before, CONFIG)
    half = before.with_columns(cluster=pl.when(pl.int_range(40) < 20).then(pl.lit("p")))
    assert {row.n_clusters for row in compare(half, before, CONFIG).overall} == {21}


@pytest.mark.parametrize(("n", "is_too_few"), [(500, False), (20, False), (10, True)])
def test_as_many_products_are_needed_as_show_the_tolerated_loss(n, is_too_few):
    before = flawless(n)
    row = compare(before, before, CONFIG).overall[0]
    assert (row.unseen_loss > CONFIG.max_unseen_loss) is is_too_few
    limit = CONFIG.max_unseen_loss if is_too_few else CONFIG.max_loss
    more = flawless(row.n_clusters_needed)
    assert compare(more, more, CONFIG).overall[0].unseen_loss == pytest.approx(limit, rel=0.15)
