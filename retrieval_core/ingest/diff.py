"""What changed between two catalogue snapshots."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.ingest.snapshot import CATALOG_SCHEMA, STATEMENT


class CatalogDiff(Value):
    """Counts and ordered ids; added + changed + unchanged are the current rows, quarantined ones included."""

    added: int
    changed: int
    removed: int
    unchanged: int
    added_ids: tuple[str, ...] = ()
    changed_ids: tuple[str, ...] = ()
    removed_ids: tuple[str, ...] = ()


def diff_catalogs(previous: pl.DataFrame | None, current: pl.DataFrame) -> CatalogDiff:
    """Difference of two tables of items (`CATALOG_SCHEMA`, unique item_ids, any order).

    An item changed when it says something else (`STATEMENT`: picture, mask, metadata, split, status); a touched file
    with the same bytes did not.
    """
    before = pl.DataFrame(schema=CATALOG_SCHEMA) if previous is None else previous
    says = [name for name in STATEMENT if name != "item_id"]
    both = current.select(STATEMENT).join(before.select(STATEMENT), on="item_id", suffix="_before")
    is_changed = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in says)
    changed = _ids(both.filter(is_changed))
    added = _ids(current.join(before, on="item_id", how="anti"))
    removed = _ids(before.join(current, on="item_id", how="anti"))
    return CatalogDiff(
        added=len(added),
        changed=len(changed),
        removed=len(removed),
        unchanged=len(both) - len(changed),
        added_ids=added,
        changed_ids=changed,
        removed_ids=removed,
    )


def _ids(items: pl.DataFrame) -> tuple[str, ...]:
    return tuple(items["item_id"].sort())
