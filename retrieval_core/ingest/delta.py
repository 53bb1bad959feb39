"""Sources that list only what changed since production's catalogue."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.change import NamedItems
from retrieval_core.ingest.diff import diff_catalogs
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.delta import items_named
from retrieval_core.ingest.sources.tables.table import TableSource


def is_delta(source: Source) -> bool:
    """Return whether a source lists only what changed."""
    return isinstance(source, TableSource) and source.is_delta


def lists_deletions(source: Source) -> bool:
    """Return whether a source marks items as deleted."""
    return isinstance(source, TableSource) and bool(source.deleted_ids)


def require_whole(source: Source) -> None:
    """Raise `BadConfig` for a source that lists only what changed."""
    if is_delta(source):
        raise BadConfig(f"{source.spec} lists only what changed; name the source that lists the whole catalogue")


def without_base(spec: str) -> BadConfig:
    """Return the error of a source of changes in a store without a production release."""
    return BadConfig(
        f"{spec} lists only what changed, but the store has no production release that it could change; run the whole "
        "catalogue first, without mode=delta"
    )


def unpublished_note(production: pl.DataFrame, seen: pl.DataFrame) -> tuple[str, ...]:
    """Return a line that says how many items of the last run, which was not published, this one does not have."""
    diff = diff_catalogs(production, seen)
    if not (n_lost := diff.added + diff.changed + diff.removed):
        return ()
    return (
        f"the last run was not published: {counted(n_lost, 'item')} of it differ from production, on which this run "
        "builds; promote that release and run again, or run the whole catalogue without mode=delta",
    )


def named_items(source: Source, rows: pl.DataFrame, last: pl.DataFrame) -> NamedItems:
    """Return the items that a source names, given its `rows` and the items that it changes; others stay.

    `removed` are those that the source marks as deleted, in a source that lists everything, too.
    """
    if not isinstance(source, TableSource):
        return NamedItems(item_ids=(), unknown=())
    named = items_named(source.named(), last)
    removed = named.filter("is_deleted").join(rows, on="item_id", how="anti")["item_id"]
    item_ids = pl.concat([rows["item_id"], named["item_id"]]).unique().sort()
    return NamedItems(item_ids=tuple(item_ids), unknown=(), removed=tuple(removed))


def changed_rows(last: pl.DataFrame, rows: pl.DataFrame, named: NamedItems) -> pl.DataFrame:
    """Return the rows that a source of changes makes of the items of the last catalogue."""
    kept = last.filter(~pl.col("item_id").is_in(list(named.item_ids)))
    return pl.concat([kept.select(*SOURCE_SCHEMA), rows.select(*SOURCE_SCHEMA)]).sort("item_id")
