"""The rows of a training: which pictures of a catalogue are taken, and which of those that can be read train."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.evaluate.duplicates import thumbnails
from retrieval_core.ingest.sources import HELD_OUT
from retrieval_core.train.config import Training
from retrieval_core.train.pictures import Prepared
from retrieval_core.train.split import Split, group_pictures, split_pictures


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
