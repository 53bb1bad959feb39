"""Who queries whom: queries and gallery never overlap, and every product asked for can be found."""

import itertools

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.measure.setup import choose_protocol, gallery_depth, positions_in_gallery
from retrieval_core.index.lookup import ShardedIndex

SCHEMA = {
    "item_id": pl.String,
    "content_id": pl.String,
    "split": pl.String,
    "product_id": pl.String,
    "category": pl.String,
    "labels": pl.List(pl.String),
    "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


def catalogue(rows: list[tuple[str, str | None]], n_files: int = 1000) -> pl.DataFrame:
    """Items of (split, product), of which the first `n_files` show distinct files and the others repeat these."""
    full = [(f"i{n}", f"c{n % n_files}", split, product, "dress", [], []) for n, (split, product) in enumerate(rows)]
    return pl.DataFrame(full, schema=SCHEMA, orient="row")


splits = st.sampled_from(["train", "query", "val", "test"])
products = st.one_of(st.none(), st.sampled_from("abcdef"))


@given(st.lists(st.tuples(splits, products), min_size=1, max_size=40), st.integers(0, 20), st.integers(0, 3))
def test_queries_are_held_out_and_the_rest_is_the_gallery(rows, n_queries, seed) -> None:
    items = catalogue(rows)
    protocol = choose_protocol(items, EvaluateConfig(queries=n_queries, seed=seed))
    assert len(protocol.queries) <= n_queries
    assert sorted([*protocol.queries, *protocol.gallery]) == list(range(len(rows)))
    assert all(rows[query][0] != "train" for query in protocol.queries)
    same = protocol.clusters[:, None] == protocol.clusters
    for (a, row_a), (b, row_b) in itertools.product(enumerate(protocol.queries), repeat=2):
        alone = rows[row_a][1] is None and rows[row_b][1] is None
        assert same[a, b] == (row_a == row_b if alone else rows[row_a][1] == rows[row_b][1])
    again = choose_protocol(items, EvaluateConfig(queries=n_queries, seed=seed))
    assert np.array_equal(again.queries, protocol.queries)


@given(
    rows=st.lists(st.tuples(st.sampled_from(["train", "query", "gallery"]), products), min_size=1, max_size=40),
    n_files=st.integers(1, 12),
    n_queries=st.integers(0, 20),
)
def test_a_file_is_a_query_once_and_never_also_in_the_gallery(rows, n_files, n_queries) -> None:
    items = catalogue(rows, n_files)
    protocol = choose_protocol(items, EvaluateConfig(queries=n_queries))
    queries, gallery = (items["content_id"].gather(side).to_list() for side in (protocol.queries, protocol.gallery))
    assert len(set(queries)) == len(queries)
    assert not set(queries) & set(gallery)
    in_gallery = items["split"] == "gallery" if "gallery" in items["split"] else pl.Series([True] * len(items))
    assert set(gallery) == set(items["content_id"].filter(in_gallery)) - set(queries)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_at_most_half_of_a_held_out_product_queries(views_of: list[int]) -> None:
    rows = [("query", f"p{n}") for n, views in enumerate(views_of) for _ in range(views)]
    protocol = choose_protocol(catalogue(rows), EvaluateConfig(queries=1000))
    asked = [rows[query][1] for query in protocol.queries]
    assert all(asked.count(f"p{n}") == max(views // 2, 1) for n, views in enumerate(views_of))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_all_of_a_held_out_product_query_where_another_of_its_files_can_be_found(views_of: list[int]) -> None:
    products = [f"p{n}" for n in range(len(views_of))]
    held_out = [("query", product) for product, views in zip(products, views_of, strict=True) for _ in range(views)]
    rows = [*held_out, *(("train", product) for product in products)]
    assert choose_protocol(catalogue(rows), EvaluateConfig(queries=1000)).queries.tolist() == [*range(len(held_out))]
    # The same file is no other file.
    shared = pl.concat([catalogue(held_out), catalogue(held_out).with_columns(split=pl.lit("train"))])
    asked = choose_protocol(shared, EvaluateConfig(queries=1000)).queries
    assert len(asked) == sum(max(views // 2, 1) for views in views_of)


def test_a_gallery_the_source_names_is_the_one_searched() -> None:
    items = catalogue([("train", "a"), ("query", "a"), ("query", "a"), ("gallery", "a"), ("gallery", "b")])
    protocol = choose_protocol(items, EvaluateConfig(queries=10))
    assert protocol.queries.tolist() == [1, 2]
    assert protocol.gallery.tolist() == [3, 4]


@given(st.lists(st.integers(0, 30), max_size=15), st.sets(st.integers(0, 30), max_size=12), st.integers(1, 6))
def test_hits_outside_the_gallery_are_passed_over(hits: list[int], gallery: set[int], k: int) -> None:
    gallery_ids = np.array(sorted(gallery, key=lambda n: n * 7 % 31), np.int64)
    found = positions_in_gallery(np.array([hits], np.int64), gallery_ids, k)[0]
    expected = [list(gallery_ids).index(hit) for hit in hits if hit in gallery][:k]
    assert found.tolist() == expected + [-1] * (k - len(expected))


@given(n_rows=st.integers(1, 5000), share=st.floats(0, 1), k=st.integers(1, 20))
def test_enough_hits_are_asked_for_to_leave_k_of_the_gallery(n_rows: int, share: float, k: int) -> None:
    n_gallery = round(share * n_rows)
    depth = gallery_depth(n_rows, n_gallery, k)
    assert 1 <= depth <= n_rows
    assert depth == n_rows or depth * n_gallery >= k * n_rows
    assert gallery_depth(0, 0, k) == 1


def test_rows_that_were_asked_before_are_not_searched_again(monkeypatch, catalog_items, draw_vectors, open_bench):
    bench, rows = open_bench(catalog_items(60), draw_vectors(60)), np.arange(40)
    expected, asked, search = bench.find(rows, 10)[1], [], ShardedIndex.search

    def counted(self, queries, *args, **options):
        asked.append(len(queries))
        return search(self, queries, *args, **options)

    monkeypatch.setattr(ShardedIndex, "search", counted)
    for some in (rows[10:20], rows, rows[::-1]):
        np.testing.assert_array_equal(bench.hits(some, 10)[1], expected[some])
    assert asked == [10, 30]


def test_nobody_held_out_means_no_queries() -> None:
    protocol = choose_protocol(catalogue([("train", "a")] * 3), EvaluateConfig())
    assert (len(protocol.queries), len(protocol.gallery)) == (0, 3)
    assert protocol.truth.queries.n_items == 0
