"""The split: nothing that is the same product, file or picture is on both sides, and nothing held out on either."""

from __future__ import annotations

import io
from collections import Counter
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.errors import BadConfig
from retrieval_core.images import Preprocess, decode, fit
from retrieval_core.metrics.picture_similarity import Duplicates, near_duplicates, thumbnails
from retrieval_core.train.split import almost_held_out, group_pictures, split_pictures

HOW = Preprocess(size_px=32)


class Row(NamedTuple):
    """A picture of a catalogue: the scene it shows, the encoding of its file, its product and its split."""

    scene: int
    encoding: str
    product: int | None
    split: str | None


def scene(number: int) -> Image.Image:
    """Random colours in large patches with a fine pattern, different for each number."""
    rng = np.random.default_rng(number)
    patches = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 12, (96, 96, 1))
    return Image.fromarray(np.clip(np.asarray(patches) + noise, 0, 255).astype(np.uint8))


def encoded(number: int, encoding: str) -> bytes:
    picture, out = scene(number), io.BytesIO()
    if encoding == "png":
        picture.save(out, "PNG")
    elif encoding.startswith("q"):
        picture.save(out, "JPEG", quality=int(encoding[1:]))
    else:
        side = int(encoding)
        picture.resize((side, side), Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


def catalog(rows: list[Row]) -> tuple[pl.DataFrame, UInt8]:
    squares = [fit(decode(encoded(row.scene, row.encoding)), HOW) for row in rows]
    columns = {
        "content_id": [f"{row.scene}-{row.encoding}" for row in rows],
        "product_id": [None if row.product is None else f"p{row.product}" for row in rows],
        "split": [row.split or "train" for row in rows],
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), np.stack(squares)


def groups_of(rows: list[Row]) -> Int64:
    items, pixels = catalog(rows)
    return group_pictures(items, near_duplicates(thumbnails(pixels)))


def connected(rows: list[Row]) -> list[set[int]]:
    """The expected groups of rows, by repeated merging of equal scenes and products."""
    sets = [{number} for number in range(len(rows))]
    for a, one in enumerate(rows):
        for b, other in enumerate(rows[:a]):
            if one.scene == other.scene or (one.product is not None and one.product == other.product):
                joined = sets[a] | sets[b]
                for number in joined:
                    sets[number] = joined
    return sets


ROWS = st.lists(
    st.builds(
        Row,
        st.integers(0, 11),
        st.sampled_from(["png", "q95", "q60", "48", "160"]),
        st.one_of(st.none(), st.integers(0, 8)),
        st.sampled_from([None, None, None, None, "gallery", *HELD_OUT]),
    ),
    min_size=2,
    max_size=16,
)


@settings(max_examples=60)
@given(rows=ROWS, val_fraction=st.sampled_from([0.1, 0.3, 0.5, 0.9]), seed=st.integers(0, 5))
def test_no_product_file_or_near_duplicate_is_on_both_sides_and_nothing_held_out_on_either(rows, val_fraction, seed):
    items, pixels = catalog(rows)
    duplicates, together = near_duplicates(thumbnails(pixels)), connected(rows)
    groups, excluded = group_pictures(items, duplicates), almost_held_out(items, duplicates, known_products=False)
    assert groups.tolist() == [min(rows) for rows in together]
    held_out = [row for row in rows if row.split in HELD_OUT]
    products, scenes = {row.product for row in held_out} - {None}, {row.scene for row in held_out}
    free = {n for n, row in enumerate(rows) if row.product not in products and row.scene not in scenes}
    assert set(np.flatnonzero(~excluded).tolist()) == free
    sizes = Counter(min(together[row]) for row in free)
    if len(sizes) < 2:
        with pytest.raises(BadConfig, match=f"{len(free)} of {len(rows)} pictures may be trained on"):
            split_pictures(excluded, groups, val_fraction, seed)
        return
    split = split_pictures(excluded, groups, val_fraction, seed)
    train, val = set(split.train.tolist()), set(split.val.tolist())
    assert train | val == free
    assert not train & val
    assert train
    assert val
    assert all(together[row] & free <= (train if row in train else val) for row in free)
    assert len(val) <= max(val_fraction * len(free), min(sizes.values()))
    assert sorted(split.train) == split.train.tolist()
    assert sorted(split.val) == split.val.tolist()
    again = split_pictures(excluded, groups, val_fraction, seed)
    assert again.train.tolist() == split.train.tolist()


def test_another_seed_chooses_other_validation_pictures():
    vals = {tuple(split_pictures(np.zeros(50, bool), np.arange(50), 0.2, seed).val) for seed in range(4)}
    assert len(vals) == 4
    assert {len(val) for val in vals} == {10}


def test_a_product_with_most_of_the_pictures_is_for_training():
    groups = np.array([0] * 90 + list(range(90, 100)))
    for seed in range(10):
        split = split_pictures(np.zeros(100, bool), groups, 0.1, seed)
        assert len(split.val) == 10
        assert set(split.train) == set(range(90))


def test_without_a_group_that_fits_the_smallest_is_for_validation():
    groups = np.array([0] * 5 + [5] * 3 + [8] * 4)
    split = split_pictures(np.zeros(12, bool), groups, 0.1, 0)
    assert split.val.tolist() == [5, 6, 7]


def test_a_picture_encoded_again_or_resized_is_a_near_duplicate_and_another_one_is_not():
    again = [Row(0, encoding, None, None) for encoding in ("png", "q95", "q75", "q50", "48", "80", "200")]
    assert set(groups_of(again)) == {0}
    others = [Row(number, "q90", None, None) for number in range(40)]
    assert groups_of(others).tolist() == list(range(40))


def test_many_copies_of_a_picture_are_one_group():
    rows = [Row(0, f"q{quality}", None, None) for quality in range(60, 96)]
    assert set(groups_of(rows)) == {0}


def test_groups_are_joined_through_products_and_pictures():
    rows = [Row(0, "png", 1, None), Row(1, "png", 1, None), Row(1, "q80", 2, None), Row(2, "png", 2, None)]
    assert groups_of(rows).tolist() == [0, 0, 0, 0]


def test_a_near_duplicate_of_a_held_out_picture_is_not_trained_on():
    copies = [Row(0, "q70", None, None), Row(0, "q50", 7, None)]
    others = [Row(1, "png", 7, None), *(Row(n, "png", None, None) for n in (2, 3))]
    items, pixels = catalog([Row(0, "png", None, "query"), *copies, *others])
    duplicates = near_duplicates(thumbnails(pixels))
    assert almost_held_out(items, duplicates, known_products=False).tolist() == [True] * 3 + [False] * 3


def test_what_only_resembles_an_excluded_picture_is_trained_on():
    items = pl.DataFrame({"content_id": list("abcd"), "product_id": [None] * 4, "split": ["query"] + ["train"] * 3})
    chain = Duplicates(copies=[(0, 1)], alike=[(2, 1), (2, 3), (3, 2)])
    excluded = almost_held_out(items.cast({"product_id": pl.String}), chain, known_products=False)
    assert excluded.tolist() == [True, True, True, False]


def test_no_picture_at_all_is_refused():
    items = pl.DataFrame(schema={"content_id": pl.String, "product_id": pl.String, "split": pl.String})
    none = near_duplicates(thumbnails(np.empty((0, 32, 32, 3), np.uint8)))
    with pytest.raises(BadConfig, match="0 of 0 pictures may be trained on"):
        split_pictures(almost_held_out(items, none, known_products=False), group_pictures(items, none), 0.1, 0)
