"""Which pictures of a catalogue are used, and how the readable ones are split into training and validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import HELD_OUT, SPLITS
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.pictures import Prepared
from retrieval_core.train.split import choose_items, split_readable

Rows = list[tuple[str, str, str]]


def catalog(rows: Rows) -> pl.DataFrame:
    """Items of (content_id, split, status), each of a product of its own."""
    frame = pl.DataFrame(rows, schema=["content_id", "split", "status"], orient="row")
    names = [f"{number:03}" for number in range(len(rows))]
    return frame.with_columns(pl.Series("item_id", names), pl.Series("product_id", names))


CATALOGS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(SPLITS), st.sampled_from(["ok", "quarantined"])),
    min_size=1,
    max_size=30,
).map(catalog)


@given(items=CATALOGS, max_pictures=st.integers(2, 6), seed=st.integers(0, 3))
def test_each_usable_picture_is_taken_once_and_held_out_where_any_item_is(
    items: pl.DataFrame, max_pictures: int, seed: int
) -> None:
    config = RotationTraining(max_pictures=max_pictures, seed=seed)
    chosen = choose_items(items, config)
    usable = items.filter(pl.col("status") == "ok")
    held_out = set(usable.filter(pl.col("split").is_in(HELD_OUT))["content_id"])
    free = set(usable["content_id"]) - held_out
    taken = chosen.filter(~pl.col("split").is_in(HELD_OUT))["content_id"].to_list()
    assert chosen["content_id"].n_unique() == len(chosen)
    assert set(chosen["content_id"]) - set(taken) == held_out
    assert len(taken) == min(len(free), max_pictures)
    assert set(taken) <= free
    assert chosen["item_id"].is_sorted()
    assert chosen.columns == items.columns
    assert choose_items(items.sample(fraction=1, shuffle=True, seed=seed), config).equals(chosen)


def test_the_sample_is_not_the_first_rows() -> None:
    items = catalog([(f"{n:03}", "train", "ok") for n in range(200)])
    chosen = [choose_items(items, RotationTraining(max_pictures=50, seed=seed))["item_id"].to_list() for seed in (0, 1)]
    assert chosen[0] != chosen[1]
    assert all(max(sample) > "120" for sample in chosen)


def prepared(folder: Path, positions: list[int], n: int) -> Prepared:
    pixels = np.lib.format.open_memmap(folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(n, 16, 16, 3))
    pixels[positions] = np.random.default_rng(0).integers(0, 256, (len(positions), 16, 16, 3), dtype=np.uint8)
    return Prepared(pixels, np.array(positions, np.int64), [])


def test_unreadable_pictures_are_on_neither_side_and_join_no_groups(tmp_path: Path) -> None:
    items = catalog([(f"{n}", "train", "ok") for n in range(6)]).with_columns(product_id=pl.Series(list("aabbcc")))
    # Rows 1 and 3 stay black: taken for one picture, they would make one group of the products a and b.
    split = split_readable(items, prepared(tmp_path, [0, 2], 6), RotationTraining())
    assert sorted([*split.train, *split.val]) == [0, 2]


def test_other_pictures_of_held_out_products_train_only_as_known_products(tmp_path: Path) -> None:
    items = catalog([("a", "test", "ok"), *((f"{n}", "train", "ok") for n in range(7))])
    items = items.with_columns(product_id=pl.Series(list("aabbccdd")))
    pictures = prepared(tmp_path, [*range(8)], 8)
    pictures.pixels[5] = pictures.pixels[0]  # a copy of the held-out picture, sold as another product
    unseen = split_readable(items, pictures, RotationTraining())
    known = split_readable(items, pictures, RotationTraining(known_products=True))
    assert sorted([*unseen.train, *unseen.val]) == [2, 3, 4, 6, 7]
    assert sorted([*known.train, *known.val]) == [1, 2, 3, 4, 6, 7]


def test_too_few_readable_pictures_are_an_error(tmp_path: Path) -> None:
    items = catalog([(f"{n}", "train", "ok") for n in range(4)])
    with pytest.raises(BadConfig, match="1 of 1 pictures may be trained on"):
        split_readable(items, prepared(tmp_path, [2], 4), RotationTraining())
