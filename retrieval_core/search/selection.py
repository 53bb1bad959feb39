"""Which rows of a release a filter selects, and a sample of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.filters import parse_where
from retrieval_core.index.lookup import RowSelection, ShardedIndex


class Selected(NamedTuple):
    """Rows of the catalogue, ascending, and the index's selection of those that it holds."""

    row_ids: Int64
    only: RowSelection


def select(items: Items, index: ShardedIndex, where: str) -> Selected:
    """Return the rows that match a filter. Raises `BadConfig` for an invalid one."""
    parsed = parse_where(where)
    table = items.columns(["row_id", *parsed.columns], parsed.open_names)
    row_ids = np.sort(table["row_id"].filter(parsed.mask(table, items.field_names)).to_numpy())
    return Selected(row_ids, index.select(row_ids))


def sample(items: Items, row_ids: Int64, k: int) -> Int64:
    """Return up to k of these rows, of different products and as many categories as possible; always the same ones."""
    table = items.columns(["row_id", "item_id", "product_id", "category"])
    usable = table.filter(pl.col("row_id").is_in(row_ids.tolist())).sort("item_id")
    product = pl.coalesce("product_id", "item_id")
    one_per_product = usable.unique(product, keep="first", maintain_order=True)
    rank = pl.col("item_id").cum_count().over("category")  # the first of each category, then the second, ...
    ordered = one_per_product.with_columns(rank=rank).sort("rank", "category", "item_id", nulls_last=True)
    return ordered.head(k)["row_id"].to_numpy()
