"""What changed between two catalogue snapshots."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

import polars as pl

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, COMPARED_COLUMNS
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.mapped_rows import BATCH_ROWS, mapped, sorted_by

ADDRESSES = ("image_uri", "mask_uri")


class CatalogDiff(Value):
    """How many items were added, changed, removed and kept.

    `added + changed + unchanged` is the number of current rows, quarantined ones included. Of the unchanged, `moved`
    counts those whose picture or mask has another address, `refreshed` those with other fields, such as a price.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    moved: int = 0
    refreshed: int = 0


def diff_catalogs(previous: pl.DataFrame | None, current: pl.DataFrame) -> CatalogDiff:
    """Compare two tables of items (`CATALOG_SCHEMA`, unique item_ids, any order); without a previous one, all are new.

    An item has changed when one of `COMPARED_COLUMNS` differs, other than the address of a picture that was read. A
    file that was touched but holds the same bytes has not. Fields are compared where both tables have them.
    """
    counts = Counter[str]()
    for items in _compared(previous, current):
        counts.update(items["fate"])
        kept = items.filter(fate="unchanged")
        counts.update(moved=int(kept["is_moved"].sum()), refreshed=int(kept["is_refreshed"].sum()))
    return CatalogDiff.model_validate(dict.fromkeys(("added", "changed", "removed", "unchanged"), 0) | counts)


def differing_items(previous: pl.DataFrame | None, current: pl.DataFrame) -> pl.DataFrame:
    """Return item_id and fate (added, changed or removed) of the items that differ, sorted, as `diff_catalogs` does."""
    differing = (items.filter(pl.col("fate") != "unchanged") for items in _compared(previous, current))
    return mapped(items.select("item_id", "fate") for items in differing)


def _compared(previous: pl.DataFrame | None, current: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the item_id, fate, is_moved and is_refreshed of all items of both tables, a range of ids at a time."""
    before = pl.DataFrame(schema=CATALOG_SCHEMA) if previous is None else previous
    fields = ["fields"] if "fields" in before.columns and "fields" in current.columns else []
    given = [*COMPARED_COLUMNS, *fields]
    before, current = (sorted_by(table.select(given), "item_id") for table in (before, current))
    cuts = sorted({*before["item_id"][BATCH_ROWS::BATCH_ROWS], *current["item_id"][BATCH_ROWS::BATCH_ROWS]})
    both = (_cut(before, cuts), _cut(current, cuts))
    for items_before, items in zip(*both, strict=True):
        yield _fates(items_before, items, fields)


def _cut(items: pl.DataFrame, cuts: list[str]) -> Iterator[pl.DataFrame]:
    """Yield the items, sorted by id, before the first of `cuts`, between each two and after the last."""
    for start, end in pairwise([0, *(bisect_left(items["item_id"], cut) for cut in cuts), len(items)]):
        yield items[start:end]


def _fates(before: pl.DataFrame, current: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    compared = [name for name in COMPARED_COLUMNS if name not in ("item_id", *ADDRESSES)]
    is_moved, is_other = _differs(ADDRESSES), _differs(compared)
    # Without a reading, nothing shows that a picture at another address is the same.
    is_changed = is_other | (is_moved & pl.col("content_id").is_null())
    fate = (
        pl.when(~pl.col("is_before")).then(pl.lit("added"))
        .when(~pl.col("is_current")).then(pl.lit("removed"))
        .when(is_changed).then(pl.lit("changed"))
        .otherwise(pl.lit("unchanged"))
    )  # fmt: skip
    here, there = current.with_columns(is_current=True), before.with_columns(is_before=True)
    both = here.join(there, on="item_id", how="full", suffix="_before", coalesce=True)
    known = both.with_columns(pl.col("is_current", "is_before").fill_null(False))
    return known.select("item_id", fate=fate, is_moved=is_moved, is_refreshed=_differs(fields)).sort("item_id")


def _differs(columns: Iterable[str]) -> pl.Expr:
    return pl.any_horizontal(pl.lit(False), *(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in columns))
