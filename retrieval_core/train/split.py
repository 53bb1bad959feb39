"""The choice of pictures to train and to validate on; no product and no near-duplicate picture is on both sides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Int64
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.picture_similarity import Duplicates, near_duplicates, thumbnails
from retrieval_core.train.config import Training
from retrieval_core.train.pictures import Prepared


class Split(NamedTuple):
    """Row numbers to train and to validate on: (n_train,) and (n_val,) int64, disjoint, each ascending."""

    train: Int64
    val: Int64


def group_pictures(items: pl.DataFrame, duplicates: Duplicates) -> Int64:
    """Return the group of each row, (n,): rows of one product, one file or near-duplicate pictures share a group.

    So do rows that shoppers chose for each other, if `items` has the column chosen beside product_id and content_id. A
    group is numbered by its lowest row.
    """
    columns = [name for name in ("product_id", "content_id", "chosen") if name in items.columns]
    same = [pair for name in columns for pair in _same_value(items, name)]
    return _joined(len(items), same + duplicates.copies + duplicates.alike)


def almost_held_out(items: pl.DataFrame, duplicates: Duplicates, known_products: bool) -> Bool:
    """Return which rows, (n,), may not be trained on: held-out ones (split val, query, test) and what is almost one.

    That is a copy of a held-out picture, a picture that is alike to one of these, and, unless `known_products`, any
    other picture of a held-out product. What resembles those in turn is no query, and is trained on.
    """
    is_held_out = items["split"].is_in(HELD_OUT).to_numpy()
    copies = _joined(len(items), _same_value(items, "content_id") + duplicates.copies)
    excluded = np.isin(copies, copies[is_held_out])
    pairs = np.array(duplicates.alike, np.int64).reshape(-1, 2)
    alike = pairs[excluded[pairs].any(axis=1)]
    excluded[alike] = True
    if not known_products:
        products = items["product_id"].filter(is_held_out).drop_nulls().unique()
        excluded |= items["product_id"].is_in(products.implode()).fill_null(value=False).to_numpy()
    return excluded


def split_pictures(excluded: Bool, groups: Int64, val_fraction: float, seed: int) -> Split:
    """Split the rows of a catalogue that are not `excluded` by whole groups; both are (n,).

    Groups are drawn by `seed` for validation while they fit into `val_fraction` of the pictures; if none fits, the
    smallest is taken. Raises `BadConfig` if fewer than two groups remain.
    """
    rows = np.flatnonzero(~excluded)
    names, group, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise BadConfig(
            f"{len(rows)} of {len(excluded)} pictures may be trained on, and they form {len(names)} groups of one "
            "product or near-duplicates; at least two are needed, one to train and one to validate on"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    is_val = np.isin(group, _fitting_groups(order, sizes, val_fraction * len(rows)))
    return Split(rows[~is_val], rows[is_val])


def _joined(n_rows: int, pairs: list[tuple[int, int]]) -> Int64:
    """Return the lowest row that each row is joined with by a chain of pairs, (n_rows,)."""
    parent = np.arange(n_rows)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(row) for row in range(n_rows)], np.int64)


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
    duplicates = near_duplicates(thumbnails(prepared.pixels)[prepared.positions])
    excluded = almost_held_out(readable, duplicates, config.known_products)
    split = split_pictures(excluded, group_pictures(readable, duplicates), config.val_fraction, config.seed)
    return Split(prepared.positions[split.train], prepared.positions[split.val])
