"""What a catalogue lost is counted against a plain count, and every disaster of a feed is named."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.config.stages import GateConfig
from retrieval_core.evaluate.gate.catalog_losses import COLUMNS, find_catalog_losses

N = 1040
CONFIG = GateConfig()
CATEGORIES = ("dress", "coat", "shoe", "hat")
NUMBER = pl.int_range(pl.len(), dtype=pl.Int64)
SCHEMA = {
    "item_id": pl.String,
    "content_id": pl.String,
    "product_id": pl.String,
    "category": pl.String,
    "labels": pl.List(pl.String),
    "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


def shop(n: int = N) -> pl.DataFrame:
    """Products of four views in categories of different sizes: of 1,040 items 416, 312, 208 and 104."""
    rows = [
        {
            "item_id": f"i{number:04}",
            "content_id": f"c{number:04}",
            "product_id": f"p{number // 4}",
            "category": CATEGORIES[(0, 0, 0, 0, 1, 1, 1, 2, 2, 3)[number % 10]],
            "labels": ["new", f"l{number % 7}"],
            "attributes": [{"name": "colour", "value": f"v{number % 3}"}],
        }
        for number in range(n)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def causes(challenger: pl.DataFrame, production: pl.DataFrame | None = None, **config: float) -> list[str]:
    before = shop() if production is None else production
    return list(find_catalog_losses(before, challenger, GateConfig(**config)))


IS_IN_HALF = NUMBER % 2 == 0
NOTHING = pl.lit(None)
DISASTERS = {
    "a feed that was cut off": (shop().head(104), "936 of 1,040 items are gone, more than 0.2 of them"),
    "half of the rows": (shop().filter(IS_IN_HALF), "520 of 1,040 items are gone"),
    "an empty catalogue": (shop().clear(), "1,040 of 1,040 items are gone"),
    "ids renamed by the feed": (
        shop().with_columns(item_id="new-" + pl.col("item_id")),
        "1,040 of 1,040 items are gone (1,040 of their pictures have another id now)",
    ),
    "one placeholder picture": (
        shop().with_columns(content_id=pl.lit("placeholder")),
        "1,039 of 1,040 items show the same picture as items that showed another",
    ),
    "a placeholder for half of the pictures": (
        shop().with_columns(content_id=pl.when(IS_IN_HALF).then(pl.lit("placeholder")).otherwise("content_id")),
        "519 of 1,040 items show the same picture",
    ),
    "no category": (shop().with_columns(category=NOTHING.cast(pl.String)), "1,040 of 1,040 items lost their category"),
    "one category": (shop().with_columns(category=pl.lit("all")), "624 of 1,040 items lost their category or share it"),
    "categories of other rows": (
        shop().with_columns(pl.col("category").shuffle(seed=0)),
        "items lost their category or share it with items of another",
    ),
    "one product": (shop().with_columns(product_id=pl.lit("p")), "1,036 of 1,040 items lost their product or share it"),
    "no product": (shop().with_columns(product_id=NOTHING.cast(pl.String)), "1,040 of 1,040 items lost their product"),
    "no labels": (shop().with_columns(labels=pl.lit([], SCHEMA["labels"])), "1,040 of 1,040 items lost all labels"),
    "null labels": (shop().with_columns(labels=NOTHING.cast(SCHEMA["labels"])), "1,040 of 1,040 items lost all labels"),
    "no attributes": (
        shop().with_columns(attributes=pl.lit([], SCHEMA["attributes"])),
        "1,040 of 1,040 items lost all attributes",
    ),
    "one department removed": (
        shop().filter(pl.col("category") != "hat"),
        "104 of 104 items of category hat are gone, more than 0.2 of them",
    ),
    "placeholders in one department": (
        shop().with_columns(
            content_id=pl.when(pl.col("category") == "hat").then(pl.lit("placeholder")).otherwise("content_id")
        ),
        "103 of 104 items of category hat show the same picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("challenger", "words"), DISASTERS.values(), ids=DISASTERS)
def test_every_disaster_of_a_feed_is_named(challenger: pl.DataFrame, words: str) -> None:
    (cause,) = causes(challenger)
    assert words in cause
    assert "gate.max_removed_fraction" in cause


@pytest.mark.parametrize(("before", "after"), [(160, 8), (1040, 104), (60, 6), (1040, 520), (2, 1)])
def test_a_small_catalogue_that_lost_half_or_more_is_named_and_the_way_on_with_it(before: int, after: int) -> None:
    (cause,) = causes(shop(after), shop(before))
    assert cause.startswith(f"{before - after:,} of {before:,} items are gone")
    assert "vitrine promote RELEASE --anyway --why" in cause
    assert "catalog-update" in cause


CHANGES = {
    "nothing": shop(),
    "rows in another order": shop().sample(fraction=1.0, shuffle=True, seed=0),
    "a seventh removed": shop().filter(NUMBER % 7 != 0),
    "twice as many": pl.concat([shop(), shop().with_columns(pl.col("item_id", "content_id", "product_id") + "-new")]),
    "every picture taken again": shop().with_columns(content_id="new-" + pl.col("content_id")),
    "categories renamed": shop().with_columns(pl.col("category", "product_id") + "-new"),
    "other labels": shop().with_columns(labels=pl.lit(["sale"])),
    "a small category moved into another": shop().with_columns(pl.col("category").replace("hat", "dress")),
    "one label left": shop().with_columns(pl.col("labels").list.head(1)),
}


@pytest.mark.parametrize("challenger", CHANGES.values(), ids=CHANGES)
def test_what_changes_in_a_shop_is_no_loss(challenger: pl.DataFrame) -> None:
    assert causes(challenger) == []


def test_what_production_never_had_cannot_be_lost() -> None:
    bare = shop().select("item_id", "content_id", *(pl.lit(None, SCHEMA[name]).alias(name) for name in COLUMNS[2:]))
    assert causes(bare, bare) == []
    assert causes(shop(), bare) == []


def test_items_that_were_listed_as_removed_are_no_loss() -> None:
    removed = shop().filter(IS_IN_HALF)["item_id"].to_list()
    left = shop().filter(~IS_IN_HALF)
    assert list(find_catalog_losses(shop(), left, CONFIG, removed)) == []
    (cause,) = find_catalog_losses(shop(), left.head(10), CONFIG, removed)
    assert cause.startswith("510 of 1,040 items are gone")


def test_a_category_of_few_items_may_go() -> None:
    small = shop(290)
    without = small.filter(pl.col("category") != "hat")
    assert small["category"].value_counts().filter(category="hat")["count"].item() == 29
    assert causes(without, small) == []
    assert len(causes(without, small, min_category_items=29)) == 1


def test_the_worst_categories_are_named_and_the_others_counted() -> None:
    many = shop().with_columns(category=pl.format("c{}", NUMBER % 20))
    left = many.filter((NUMBER // 20 % 4 > 0) | (NUMBER % 20 > 12))
    found = causes(left, many)
    assert [cause.split(" are gone")[0] for cause in found[:3]] == [
        f"13 of 52 items of category c{n}" for n in (0, 1, 10)
    ]
    assert found[3:] == ["so it is in 10 more categories"]


def test_a_bound_of_one_is_none() -> None:
    assert all(causes(challenger, max_removed_fraction=1) == [] for challenger, _ in DISASTERS.values())


values = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("x", "y", None))), min_size=1, max_size=30)


@settings(max_examples=50)
@given(values)
def test_what_became_that_of_others_is_counted_as_by_hand(pairs: list[tuple[str, str | None]]) -> None:
    """Of each current value the items of its most frequent earlier value keep it; all others lost theirs."""
    before = shop(len(pairs)).with_columns(product_id=pl.Series([old for old, _ in pairs], dtype=pl.String))
    after = before.with_columns(product_id=pl.Series([new for _, new in pairs], dtype=pl.String))
    n_kept = sum(max(Counter(old for old, new in pairs if new == value).values(), default=0) for value in "xy")
    expected = [f"{len(pairs) - n_kept} of {len(pairs)} items lost their product"] * (n_kept < len(pairs))
    found = causes(after, before, max_removed_fraction=0, min_category_items=100)
    assert [cause.split(" or share")[0] for cause in found] == expected
