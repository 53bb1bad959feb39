"""What changed between two catalogue snapshots."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, COMPARED_COLUMNS
from retrieval_core.artifacts.manifests import Value

ADDRESSES = ("image_uri", "mask_uri")


class CatalogDiff(Value):
    """How many items were added, changed, removed and kept, and the ids of those that differ, sorted.

    `added + changed + unchanged` is the number of current rows, quarantined ones included. Of the unchanged, `moved`
    counts those whose picture or mask has another address, `refreshed` those with other fields, such as a price.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    moved: int = 0
    refreshed: int = 0
    added_ids: tuple[str, ...] = ()
    changed_ids: tuple[str, ...] = ()
    removed_ids: tuple[str, ...] = ()


def diff_catalogs(previous: pl.DataFrame | None, current: pl.DataFrame) -> CatalogDiff:
    """Compare two tables of items (`CATALOG_SCHEMA`, unique item_ids, any order); without a previous one, all are new.

    An item has changed when one of `COMPARED_COLUMNS` differs, other than the address of a picture that was read. A
    file that was touched but holds the same bytes has not. Fields are compared where both tables have them.
    """
    before = pl.DataFrame(schema=CATALOG_SCHEMA) if previous is None else previous
    fields = ["fields"] if "fields" in before.columns and "fields" in current.columns else []
    given = [*COMPARED_COLUMNS, *fields]
    compared = [name for name in COMPARED_COLUMNS if name not in ("item_id", *ADDRESSES)]
    is_moved, is_other = _differs(ADDRESSES), _differs(compared)
    # Without a reading, nothing shows that a picture at another address is the same.
    is_changed = is_other | (is_moved & pl.col("content_id").is_null())
    both = (  # streamed: neither table is copied
        current.lazy()
        .select(given)
        .join(before.lazy().select(given), on="item_id", suffix="_before")
        .select("item_id", is_changed=is_changed, is_moved=is_moved, is_refreshed=_differs(fields))
        .collect(engine="streaming")
    )
    ids, ids_before = current.select("item_id"), before.select("item_id")
    changed = _ids(both.filter("is_changed"))
    added = _ids(ids.join(ids_before, on="item_id", how="anti"))
    removed = _ids(ids_before.join(ids, on="item_id", how="anti"))
    return CatalogDiff(
        added=len(added),
        changed=len(changed),
        removed=len(removed),
        unchanged=len(both) - len(changed),
        moved=both.filter(pl.col("is_moved") & ~pl.col("is_changed")).height,
        refreshed=both.filter(pl.col("is_refreshed") & ~pl.col("is_changed")).height,
        added_ids=added,
        changed_ids=changed,
        removed_ids=removed,
    )


def _differs(columns: Iterable[str]) -> pl.Expr:
    return pl.any_horizontal(pl.lit(False), *(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in columns))


def _ids(items: pl.DataFrame) -> tuple[str, ...]:
    return tuple(items["item_id"].sort())
