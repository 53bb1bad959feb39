"""Which pictures are trained on and which validated on: no product and no near-duplicate picture is on both sides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64, UInt8
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.picture_similarity import near_duplicates, thumbnails
from retrieval_core.train.config import Training
from retrieval_core.train.pictures import Prepared


class Split(NamedTuple):
    """Row numbers, each ordered: (n_train,) and (n_val,) int64, disjoint."""

    train: Int64
    val: Int64


def group_pictures(items: pl.DataFrame, small: UInt8) -> Int64:
    """(n,) group of each row: rows of one product, of the same file, or of near-duplicate pictures share one.

    `items` has product_id and content_id; `small` the `thumbnails` of its rows. The group's number is its lowest row.
    """
    parent = np.arange(len(items))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in (*_same_value(items, "product_id"), *_same_value(items, "content_id"), *near_duplicates(small)):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(row) for row in range(len(items))], np.int64)


def split_pictures(items: pl.DataFrame, groups: Int64, val_fraction: float, seed: int) -> Split:
    """Train and validation rows of a catalogue whose held-out rows (split val, query, test) are neither.

    A group with a held-out picture is left out whole: its pictures are queries of the evaluation in all but name.
    Whole groups validate, drawn by `seed`, as many as fit into `val_fraction` of the pictures and at least one, then
    the smallest. Raises `BadConfig` where fewer than two groups are left.
    """
    held_out = items["split"].is_in(HELD_OUT).to_numpy()
    free = np.flatnonzero(~np.isin(groups, groups[held_out]))
    names, group, sizes = np.unique(groups[free], return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise BadConfig(
            f"{len(free)} of {len(items)} pictures may be trained on, and they are {len(names)} groups of one product "
            "or near-duplicates; a training and a validation group are needed"
        )
    drawn = np.random.default_rng(seed).permutation(len(names))
    in_val = np.isin(group, _that_fit(drawn, sizes, val_fraction * len(free)))
    return Split(free[~in_val], free[in_val])


def _that_fit(drawn: Int64, sizes: Int64, room: float) -> list[int]:
    """Those of the `drawn` groups that one after the other find room; the smallest where none does."""
    taken: list[int] = []
    for group in drawn.tolist():
        if sizes[group] <= room:
            taken.append(group)
            room -= sizes[group]
    return taken or [int(drawn[sizes[drawn].argmin()])]


def _same_value(items: pl.DataFrame, column: str) -> list[tuple[int, int]]:
    """Each row with the first row that has the same value."""
    rows = items.with_row_index("row").filter(pl.col(column).is_not_null())
    first = rows.select("row", pl.col("row").min().over(column).alias("first")).filter(pl.col("row") != pl.col("first"))
    return [(int(a), int(b)) for a, b in first.iter_rows()]


def choose_items(items: pl.DataFrame, config: Training) -> pl.DataFrame:
    """One row for each picture outside quarantine, ordered by item_id: every one held out, the others up to a bound.

    Those are a random sample of `config.max_pictures`, drawn by `config.seed`. A picture that is held out as one item
    is held out as all of them. `items` is a catalogue.
    """
    usable = items.filter(pl.col("status") == "ok").with_columns(held_out=pl.col("split").is_in(HELD_OUT))
    each = usable.sort("held_out", "item_id", descending=[True, False]).unique("content_id", keep="first")
    free = each.filter(~pl.col("held_out")).sort("item_id")
    taken = np.random.default_rng(config.seed).permutation(len(free))[: config.max_pictures]
    return pl.concat([free[np.sort(taken)], each.filter("held_out")]).drop("held_out").sort("item_id")


def split_readable(items: pl.DataFrame, prepared: Prepared, config: Training) -> Split:
    """Training and validation rows among the pictures that could be read; none shares a product or a near-duplicate.

    Raises `BadConfig` where too few are left.
    """
    readable = items[prepared.positions]
    groups = group_pictures(readable, thumbnails(prepared.pixels)[prepared.positions])
    split = split_pictures(readable, groups, config.val_fraction, config.seed)
    return Split(prepared.positions[split.train], prepared.positions[split.val])
