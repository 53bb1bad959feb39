"""The facts of a report are arranged into the rows and columns of its page."""

import pytest

from retrieval_core.evaluate.analysis.quality import Confusion
from retrieval_core.evaluate.measure.measure import VariantFacts
from retrieval_core.evaluate.report import tables
from retrieval_core.evaluate.report.tables import trend
from tests.core.evaluate.report.sample_facts import CONSTANT, analysed, change, drift, full, minimal


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.01, "same"), (None, 1, "")]
)
def test_a_change_within_its_interval_is_no_change(low, high, expected):
    assert trend(change(low=low, high=high)) == expected


def test_a_change_beyond_chance_that_three_decimals_do_not_show_is_tiny():
    assert trend(change(low=0.0001, high=0.0004).model_copy(update={"difference": 0.0003})) == "tiny"


def test_changes_are_sorted_into_tested_watched_and_baselines():
    comparison = tables.compare_with_production(full())
    assert [row.name for row in comparison.tested] == ["recall@1", "map@5"]
    assert [row.name for row in comparison.watched] == ["recall@10", "ann_recall@10"]
    assert [row.name for row in comparison.baselines] == ["recall@1_random"]
    assert comparison.reach == pytest.approx(0.052)


def test_within_categories_the_rows_that_block_come_first_then_the_largest_loss():
    rows = (
        change("map@5", -0.2, category="hat"),
        change("map@5", -0.3, category="shoe"),
        change("map@5", -0.1, category="coat", blocks=True),
    )
    comparison = tables.compare_with_production(full(category_changes=rows))
    assert [row.category for row in comparison.categories] == ["coat", "shoe", "hat"]


def test_the_published_search_comes_before_the_variants_and_filters_are_no_variants():
    columns = tables.representations(full())
    assert [column.name for column in columns] == ["published", "raw", "masked_boosted", "pca64"]
    assert columns[0].metrics["recall@1"] == 0.694
    assert columns[2].metrics["f1_example"] == 0.6613, "a metric that only the table of all metrics has"
    assert "ann_recall@10" not in columns[0].metrics, "it has no counterpart in a variant"
    assert tables.representations(minimal()) == []


def test_a_row_marks_the_highest_value_unless_all_are_equal():
    facts = full()
    rows = {row.name: row for row in tables.metric_rows(tables.representations(facts), facts)}
    assert [cell.is_best for cell in rows["recall@1"].cells] == [False, False, True, False]
    assert not any(cell.is_best for cell in rows["map@5"].cells)
    assert rows["recall@1"].random.value == 0.1
    assert not {"recall@1_random", "label_iou@5_std"} & rows.keys()


def test_a_value_stands_with_its_deviation():
    crop = VariantFacts(name="crop", dim=2, metrics={"label_iou@5": 0.4, "label_iou@5_std": 0.2})
    facts = full(variants=(crop,))
    (row,) = [row for row in tables.metric_rows(tables.representations(facts), facts) if row.name == "label_iou@5"]
    assert [(cell.value, cell.deviation) for cell in row.cells[:2]] == [(0.461, 0.171), (0.4, 0.2)]


def test_only_the_published_search_has_intervals():
    facts = analysed()
    rows = {row.name: row for row in tables.metric_rows(tables.representations(facts), facts)}
    assert [cell.interval for cell in rows["recall@1"].cells] == [(0.652, 0.733), None, None, None]


def test_each_headline_metric_is_plotted_over_the_representations():
    facts = full()
    plots = tables.metric_plots(tables.representations(facts), facts.metrics)
    assert [name for name, _ in plots] == ["recall@1", "map@5", "attribute_map@10", "label_iou@5"]
    lone = full(metrics={}, variants=(VariantFacts(name="raw", dim=2, metrics={"map@5": 0.5}),))
    assert [name for name, _ in tables.metric_plots(tables.representations(lone), {})] == ["map@5"]


def test_categories_have_a_column_for_every_metric_and_gaps_where_one_is_undefined():
    facts = analysed()
    dress, hat = facts.quality.categories
    other = dress.metrics[0].model_copy(update={"name": "map@5"})
    categories = (dress, hat.model_copy(update={"metrics": (*hat.metrics, other)}))
    table = tables.category_table(
        facts.model_copy(update={"quality": facts.quality.model_copy(update={"categories": categories})})
    )
    assert table.columns == ["recall@1", "map@5"]
    assert [[cell.name if cell else None for cell in cells] for _, cells in table.rows] == [
        ["recall@1", None], ["recall@1", "map@5"],
    ]  # fmt: skip


def test_the_most_frequent_mistakes_are_named_with_the_size_of_their_row():
    confusion = Confusion(n_queries=14, asked=("a", "b"), found=("a", "b", "c"), counts=((5, 2, 1), (3, 3, 0)))
    assert tables.confused(confusion) == [("b", "a", 3, 6), ("a", "b", 2, 8), ("a", "c", 1, 8)]
    assert tables.confused(confusion, 1) == [("b", "a", 3, 6)]
    assert tables.confused(None) == []


def test_a_distribution_that_is_the_same_for_every_item_is_not_plotted():
    assert [row.name for row, _ in tables.drift_plots((drift("component 1"), CONSTANT))] == ["component 1"]


def test_the_map_as_a_table_has_the_centre_of_each_category():
    assert tables.map_table(analysed().map) == [("dress", 1, 0.0, 0.0)]
    assert tables.map_table(None) == []


def test_reasons_of_quarantine_are_counted_if_several_pictures_share_them():
    assert tables.frequent_reasons(full().quarantine) == [("truncated", 60)]
    assert tables.frequent_reasons(full().quarantine[:1]) == []


def test_figures_hold_every_published_metric_and_every_defined_one_once():
    facts = full()
    rows = {name: (value, random) for name, value, random, _ in tables.figures(facts)}
    assert rows["recall@1"] == (0.694, 0.1)
    assert rows["recall@5"] == (None, None), "defined, but not measured"
    assert "recall@1_random" not in rows, "it is in the row of its metric"
    assert "label_iou@5_random" in rows, "it has its own definition"
    assert not any(name.startswith(("raw/", "where")) for name in rows)
    assert facts.definitions.keys() <= rows.keys()
