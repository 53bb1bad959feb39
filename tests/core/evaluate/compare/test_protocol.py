"""Splits that are drawn, and queries that search the training part or each other."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.compare.protocol import ProtocolConfig, comparison_protocol, split_items

ROWS = st.lists(
    st.tuples(st.sampled_from([None, *"abcdef"]), st.sampled_from([None, "bag", "shoe", "hat"]), st.booleans()),
    min_size=4,
    max_size=60,
)


def items(rows: list[tuple[str | None, str | None, bool]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"row_id": n, "item_id": f"i{n}", "product_id": product, "category": category, "split": "gallery"}
            | {"status": "ok" if is_ok else "quarantined"}
            for n, (product, category, is_ok) in enumerate(rows)
        ],
        schema_overrides={"product_id": pl.String, "category": pl.String},
    )


@given(ROWS, st.sampled_from(["random", "stratified"]), st.integers(0, 3), st.sampled_from([0, 4, 20]))
def test_a_drawn_split_never_divides_a_product(rows, split, seed, max_items) -> None:
    table = items(rows)
    config = ProtocolConfig(split=split, seed=seed, max_items=max_items, test_share=0.3)
    drawn = split_items(table, config)
    assert drawn.columns == table.columns
    assert set(drawn["split"]) <= {"train", "query"}
    assert set(drawn["item_id"]) <= set(table.filter(status="ok")["item_id"])
    assert drawn["row_id"].is_sorted()
    assert len(drawn) <= (max_items or len(table))
    products = drawn.filter(pl.col("product_id").is_not_null())
    if split == "random":
        assert (products.group_by("product_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    assert drawn.equals(split_items(table, config))


def test_a_stratified_split_holds_out_a_fifth_of_each_category_and_drops_those_of_one_item() -> None:
    sizes = {"bag": 50, "shoe": 27, "hat": 23, "glove": 1}
    table = items([(None, category, True) for category, n in sizes.items() for _ in range(n)] + [(None, None, True)])
    drawn = split_items(table, ProtocolConfig(split="stratified"))
    n_held_out = dict(drawn.filter(split="query").group_by("category").len().iter_rows())
    assert len(drawn) == 100
    assert sum(n_held_out.values()) == 20
    assert all(abs(n_held_out[name] - 0.2 * sizes[name]) < 1 for name in ("bag", "shoe", "hat"))


def test_a_random_split_samples_as_many_items_as_it_may() -> None:
    table = items([(None, "bag", True)] * 9_000)
    drawn = split_items(table, ProtocolConfig(split="random", max_items=4_000, test_share=0.25))
    assert dict(drawn["split"].value_counts().iter_rows()) == {"train": 3_000, "query": 1_000}
    other = split_items(table, ProtocolConfig(split="random", max_items=4_000, test_share=0.25, seed=1))
    assert not other["item_id"].equals(drawn["item_id"])


@pytest.fixture
def shelf(shop) -> pl.DataFrame:
    return shop.items.with_columns(
        split=pl.Series(["query", "train", "val", "gallery"] * (len(shop.items) // 4)),
        product_id=pl.lit(None, pl.String),
    )


def test_queries_search_what_was_trained_on_or_each_other(shelf) -> None:
    train, test = (
        comparison_protocol(shelf, EvaluateConfig(queries=20), ProtocolConfig(gallery=name))
        for name in ("train", "test")
    )
    assert len(train.queries) == 20
    assert set(shelf["split"].gather(train.gallery)) == {"train"}
    assert np.array_equal(test.queries, train.queries)
    assert np.array_equal(test.gallery, test.queries)
    assert test.truth.own.tolist() == list(range(20))


def test_no_query_finds_itself_among_the_other_queries(open_shop) -> None:
    shop = open_shop(product_id=None)
    vectors = shop.vectors(0.3)
    results = shop.compare(shop.variant("only", vectors), gallery="test", metrics=("map_at_r",))
    queries, positions = results.protocol.queries, results.positions["only"]
    cosines = vectors[queries] @ vectors[queries].T
    np.fill_diagonal(cosines, -np.inf)
    assert np.array_equal(positions, np.argsort(-cosines, axis=1, kind="stable")[:, :10])
    assert 0 < results.random.summary["map_at_r"] < results.scores["only"].summary["map_at_r"]
