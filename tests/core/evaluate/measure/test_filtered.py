"""Filters are stable samples and real categories; recall inside them is that of an independent count."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from retrieval_core.evaluate.measure import filtered
from retrieval_core.evaluate.measure.filtered import choose_filters, measure_filters


def test_each_share_of_the_rows_is_about_what_it_says(catalog_items):
    chosen = {found.name: len(found.rows) for found in choose_filters(catalog_items(20_000), seed=0)}
    assert list(chosen) == ["where50", "where10", "where1", "where0.1"]
    expected = {"where50": 10_000, "where10": 2_000, "where1": 200, "where0.1": 20}
    assert all(abs(chosen[name] - n) < 5 * n**0.5 for name, n in expected.items())


def test_a_row_stays_in_its_sample_when_others_come_and_go(catalog_items):
    items = catalog_items(3_000)
    some = items.filter(pl.col("row_id") % 3 != 0)
    for before, after in zip(choose_filters(items, 7), choose_filters(some, 7), strict=False):
        kept = items[before.rows].join(some, on="row_id", how="semi")["row_id"]
        assert kept.to_list() == some[after.rows]["row_id"].to_list()


def test_another_seed_draws_other_rows(catalog_items):
    items = catalog_items(1_000)
    assert choose_filters(items, 0)[0].rows.tolist() != choose_filters(items, 1)[0].rows.tolist()


def test_a_filter_that_passes_fewer_than_ten_rows_is_left_out(catalog_items):
    chosen = choose_filters(catalog_items(200, category=["dress"] * 9 + ["shoe"] * 5 + [None] * 186), seed=0)
    assert [found.name for found in chosen] == ["where50", "where10"]
    assert choose_filters(catalog_items(0), seed=0) == []


def test_each_of_the_commonest_categories_is_a_filter_and_of_equals_the_first_comes_first(catalog_items):
    chosen = choose_filters(catalog_items(60, category=["shoe", "dress", None] * 20), seed=0)[-2:]
    assert [(found.name, found.meaning) for found in chosen] == [
        ("where_category", "category dress"),
        ("where_category", "category shoe"),
    ]
    assert [found.rows.tolist() for found in chosen] == [list(range(1, 60, 3)), list(range(0, 60, 3))]


def test_at_most_twenty_categories_are_filters_and_those_that_hold_half_of_the_rows_are_one_together(catalog_items):
    category = [f"c{i % 25:02}" for i in range(1_000)]
    chosen = choose_filters(catalog_items(1_000, category=category), seed=0)
    assert [found.meaning for found in chosen if found.name == "where_category"] == [
        f"category c{i:02}" for i in range(20)
    ]
    (half,) = (found for found in chosen if found.name == "where_categories")
    assert half.meaning == "any of the 13 most frequent categories"
    assert half.rows.tolist() == [i for i in range(1_000) if i % 25 < 13]


def test_a_category_that_all_items_have_is_no_filter(catalog_items):
    assert "where_category" not in {found.name for found in choose_filters(catalog_items(60, category=["hat"] * 60), 0)}


def test_an_exact_index_finds_everything_under_every_filter(catalog_items, open_bench, draw_vectors):
    items = catalog_items(1_500, category=["dress", "shoe", None] * 500)
    facts = measure_filters(open_bench(items, draw_vectors(1_500)), seed=0)
    assert [found.name for found in facts] == [
        "where50",
        "where10",
        "where1",
        "where_category",
        "where_category_worst",
    ]
    assert {found.recall for found in facts} == {1.0}
    assert [found.n_rows for found in facts[-2:]] == [1_000, 500]
    assert all(found.latency_ms_p50 > 0 for found in facts)


def test_recall_is_the_share_of_the_true_nearest_inside_the_filter(
    monkeypatch, catalog_items, open_bench, draw_vectors
):
    """The search misses some shoes; the worst category is named."""
    items = catalog_items(3_000, category=["dress" if i % 5 < 3 else "shoe" for i in range(3_000)])
    bench, missed = (
        open_bench(items, draw_vectors(3_000), key="IVF32,Flat", candidate_dim=8, nprobe=1),
        items[3:1_500:5],
    )
    search = bench.index.search

    def search_badly(*args, **kwargs):
        scores, found = search(*args, **kwargs)
        return np.where(np.isin(found, missed["row_id"]), -np.inf, scores).astype(np.float32), found

    monkeypatch.setattr(bench.index, "search", search_badly)
    facts = {found.name: found for found in measure_filters(bench, 0)}
    row_ids, recall = items["row_id"].to_numpy(), {}
    for chosen in choose_filters(items, 0):
        scores, _ = bench.find(bench.protocol.queries, only=bench.index.select(row_ids[chosen.rows]))
        queries, gallery = (bench.vectors[rows].astype(np.float64) for rows in (bench.protocol.queries, chosen.rows))
        tenth = np.sort(queries @ gallery.T, axis=1)[:, -10, None]
        recall[chosen.meaning] = (scores > tenth - 1e-6).mean()
    assert facts["where50"].recall == pytest.approx(recall["50% of the rows"])
    assert facts["where_category_worst"].meaning == "category shoe, the worst"
    assert facts["where_category_worst"].recall == pytest.approx(recall["category shoe"])
    assert recall["category shoe"] < min(1, recall["category dress"])
    both = (recall["category dress"] + recall["category shoe"]) / 2
    assert facts["where_category"].recall == pytest.approx(both)


def test_a_catalogue_of_one_category_beside_unnamed_items_has_no_worst(catalog_items, open_bench, draw_vectors):
    items = catalog_items(600, category=["dress", None] * 300)
    facts = measure_filters(open_bench(items, draw_vectors(600)), seed=0)
    assert [(found.name, found.meaning) for found in facts[2:]] == [("where_category", "category dress")]


def test_nothing_is_measured_without_queries(catalog_items, open_bench, draw_vectors):
    assert measure_filters(open_bench(catalog_items(300, split=[None] * 300), draw_vectors(300)), seed=0) == ()


@pytest.mark.parametrize(("is_sure", "batches"), [(True, [10]), (False, [10, 30])])
def test_a_recall_that_is_unsure_after_the_first_queries_is_measured_on_more(
    monkeypatch, catalog_items, open_bench, draw_vectors, is_sure, batches
):
    monkeypatch.setattr(filtered, "N_FIRST", 10)
    monkeypatch.setattr(filtered, "choose_filters", lambda items, seed: choose_filters(items, seed)[:1])
    bench = open_bench(catalog_items(3_000), draw_vectors(3_000), key="IVF32,Flat", candidate_dim=8, nprobe=1)
    bench = replace(bench, protocol=bench.protocol._replace(queries=bench.protocol.queries[:40]))
    asked, search = [], bench.index.search

    def counted(queries, *args, **kwargs):
        asked.append(len(queries))
        scores, found = search(queries, *args, **kwargs)
        scores[1::2] = scores[1::2] if is_sure else -np.inf
        return scores, found

    monkeypatch.setattr(bench.index, "search", counted)
    (half,) = measure_filters(bench, 0)
    assert [n for n in asked if n > 1] == batches
    assert half.recall == pytest.approx(1.0 if is_sure else 0.5, abs=0.02)
