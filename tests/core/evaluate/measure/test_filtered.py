"""Filters are stable samples and real categories; recall inside them is that of an independent count."""

import numpy as np
import polars as pl
import pytest

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


def test_the_category_filter_is_the_commonest_and_of_equals_the_first(catalog_items):
    chosen = choose_filters(catalog_items(60, category=["shoe", "dress", None] * 20), seed=0)[-1]
    assert (chosen.name, chosen.meaning) == ("where_category", "category dress")
    assert chosen.rows.tolist() == list(range(1, 60, 3))


def test_a_category_that_all_items_have_is_no_filter(catalog_items):
    assert "where_category" not in {found.name for found in choose_filters(catalog_items(60, category=["hat"] * 60), 0)}


def test_an_exact_index_finds_everything_under_every_filter(catalog_items, open_bench, draw_vectors):
    items = catalog_items(1_500, category=["dress", "shoe", None] * 500)
    facts = measure_filters(open_bench(items, draw_vectors(1_500)), seed=0)
    assert [found.name for found in facts] == ["where50", "where10", "where1", "where_category"]
    assert {found.recall for found in facts} == {1.0}
    assert facts[-1].n_rows == 500
    assert all(found.latency_ms_p50 > 0 for found in facts)


@pytest.mark.parametrize("name", ["where50", "where_category"])
def test_recall_is_the_share_of_the_true_nearest_inside_the_filter(catalog_items, open_bench, draw_vectors, name):
    items = catalog_items(3_000, category=["dress" if i % 5 < 3 else "shoe" for i in range(3_000)])
    bench = open_bench(items, draw_vectors(3_000), key="IVF32,Flat", candidate_dim=8, nprobe=1)
    chosen = next(found for found in choose_filters(items, 0) if found.name == name)
    measured = next(found for found in measure_filters(bench, 0) if found.name == name)
    row_ids = items["row_id"].to_numpy()
    _, found = bench.find(bench.protocol.queries, only=bench.index.select(row_ids[chosen.rows]))
    scores = bench.vectors[bench.protocol.queries].astype(np.float64) @ bench.vectors[chosen.rows].T.astype(np.float64)
    nearest = row_ids[chosen.rows][np.argsort(-scores, axis=1)[:, :10]]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(nearest, found, strict=True)])
    assert measured.recall == pytest.approx(expected)
    assert measured.recall < 1 or measured.how == "exact"


def test_nothing_is_measured_without_queries(catalog_items, open_bench, draw_vectors):
    assert measure_filters(open_bench(catalog_items(300, split=[None] * 300), draw_vectors(300)), seed=0) == ()
