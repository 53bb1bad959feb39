"""The choice of pictures to train and to validate on; no product and no near-duplicate picture is on both sides."""

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
    """Row numbers to train and to validate on: (n_train,) and (n_val,) int64, disjoint, each ascending."""

    train: Int64
    val: Int64


def group_pictures(items: pl.DataFrame, small: UInt8) -> Int64:
    """Return the group of each row, (n,): rows of one product, one file or near-duplicate pictures share a group.

    `items` has the columns product_id and content_id; `small` holds the `thumbnails` of its rows. A group is numbered
    by its lowest row.
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


def split_pictures(
    items: pl.DataFrame, groups: Int64, val_fraction: float, seed: int, unseen: Int64 | None = None
) -> Split:
    """Split the rows of a catalogue by whole groups, leaving out held-out rows (split val, query, test).

    A group with a held-out picture is left out entirely, as its pictures are almost queries of the evaluation;
    `unseen`, (n,), groups the rows for this purpose, in place of `groups`. Groups are drawn by `seed` for validation
    while they fit into `val_fraction` of the pictures; if none fits, the smallest is taken. Raises `BadConfig` if fewer
    than two groups remain.
    """
    is_held_out = items["split"].is_in(HELD_OUT).to_numpy()
    unseen = groups if unseen is None else unseen
    rows = np.flatnonzero(~np.isin(unseen, unseen[is_held_out]))
    names, group, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise BadConfig(
            f"{len(rows)} of {len(items)} pictures may be trained on, and they form {len(names)} groups of one product "
            "or near-duplicates; at least two are needed, one to train and one to validate on"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    is_val = np.isin(group, _fitting_groups(order, sizes, val_fraction * len(rows)))
    return Split(rows[~is_val], rows[is_val])


def _fitting_groups(order: Int64, sizes: Int64, n_pictures: float) -> list[int]:
    """Take groups in `order`, skipping those that no longer fit into `n_pictures`; if none fits, the smallest."""
    chosen: list[int] = []
    for group in order.tolist():
        if sizes[group] <= n_pictures:
            chosen.append(group)
            n_pictures -= sizes[group]
    return chosen or [int(order[sizes[order].argmin()])]


def _same_value(items: pl.DataFrame, column: str) -> list[tuple[int, int]]:
    """Return (row, first row with the same value) for each repeated value."""
    rows = items.with_row_index("row").filter(pl.col(column).is_not_null())
    first = rows.select("row", pl.col("row").min().over(column).alias("first")).filter(pl.col("row") != pl.col("first"))
    return [(int(a), int(b)) for a, b in first.iter_rows()]


def choose_items(items: pl.DataFrame, config: Training) -> pl.DataFrame:
    """Return one row for each picture of a catalogue outside quarantine, ordered by item_id.

    All held-out pictures are kept, and of the others a random sample of at most `config.max_pictures`, drawn by
    `config.seed`. A picture is held out if any item that shows it is.
    """
    usable = items.filter(pl.col("status") == "ok").with_columns(held_out=pl.col("split").is_in(HELD_OUT))
    pictures = usable.sort("held_out", "item_id", descending=[True, False]).unique("content_id", keep="first")
    trainable = pictures.filter(~pl.col("held_out")).sort("item_id")
    sample = np.random.default_rng(config.seed).permutation(len(trainable))[: config.max_pictures]
    return pl.concat([trainable[np.sort(sample)], pictures.filter("held_out")]).drop("held_out").sort("item_id")


def split_readable(items: pl.DataFrame, prepared: Prepared, config: Training) -> Split:
    """Split the pictures that could be read into rows to train and to validate on, as `split_pictures` does."""
    readable = items[prepared.positions]
    small = thumbnails(prepared.pixels)[prepared.positions]
    groups = group_pictures(readable, small)
    no_products = readable.with_columns(product_id=pl.lit(None, pl.String))
    unseen = group_pictures(no_products, small) if config.known_products else groups
    split = split_pictures(readable, groups, config.val_fraction, config.seed, unseen)
    return Split(prepared.positions[split.train], prepared.positions[split.val])
