"""The targets of the pictures that may be trained on; one that is held out does not even say what classes there are."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import HELD_OUT
from retrieval_core.head.targets import UNKNOWN, Targets, build_targets


def free_items(items: pl.DataFrame) -> pl.DataFrame:
    """The items whose split does not hold them out."""
    return items.filter(_is_free(items))


def free_targets(items: pl.DataFrame, min_count: int) -> Targets:
    """Targets of all n items as `build_targets` makes them of the free ones; a held-out item has none."""
    free = _is_free(items)
    targets = build_targets(items.filter(free), min_count)
    rows = np.flatnonzero(free)
    single = {name: np.full(len(items), UNKNOWN, np.int64) for name in targets.single}
    for name, codes in targets.single.items():
        single[name][rows] = codes
    if targets.multi is None:
        return targets._replace(single=single)
    multi = np.full((len(items), targets.multi.shape[1]), np.nan, np.float32)
    multi[rows] = targets.multi
    return targets._replace(single=single, multi=multi)


def _is_free(items: pl.DataFrame) -> Bool:
    return ~items["split"].is_in(HELD_OUT).fill_null(False).to_numpy()
