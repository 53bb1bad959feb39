"""Seal a catalogue: of a whole source, of a sealed catalogue and a change, or of selected items of a sealed one.

The store also keeps every item as it was last read, and the quarantine ledger; the next run starts from these.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import (
    LEDGER,
    QUARANTINE_FILE,
    SEEN_ITEMS,
    load_items,
    put_items,
    read_items,
    read_last_seen,
    row_ids,
    with_fields,
)
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Catalog, Ref, Value, fingerprint
from retrieval_core.artifacts.parts import put_parts, read_table, table_bytes
from retrieval_core.artifacts.shards import log_progress
from retrieval_core.config import IngestConfig
from retrieval_core.errors import NotFound
from retrieval_core.ingest.change import Change, resolve_change
from retrieval_core.ingest.diff import CatalogDiff, diff_catalogs
from retrieval_core.ingest.selection import WHOLE_CATALOG, ItemSelection, items_changed_in, select_items
from retrieval_core.ingest.snapshot import SPLIT_COLUMNS, Snapshot, catalog_fingerprint, take_snapshot, update_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.item_ids.normal_form import with_normal_names
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)


class IngestOutcome(Value):
    """A sealed catalogue, how it differs from an earlier one, and how many pictures were read for it.

    `declared_removals` are the items that a change listed as removed; `notes` are those of the source.
    """

    catalog: Ref
    diff: CatalogDiff
    n_read: int
    declared_removals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def ingest_source(store: Store, source: str, config: IngestConfig) -> IngestOutcome:
    """Read what changed in a source and seal its catalogue; the difference is to production's."""
    opened = open_source(source)
    rows = opened.rows()
    for note in opened.notes:
        log.info("%s: %s", source, note)
    advance = log_progress("pictures of the source", len(rows))
    production = releases.read_release(store, releases.PRODUCTION)
    published = load_items(store, production.catalog.name, SPLIT_COLUMNS) if production else None
    snapshot = take_snapshot(rows, _last_seen(store), config, _now(), lambda done, total: advance(1), published)
    catalog = _seal(store, snapshot)
    store.put(LEDGER, table_bytes(snapshot.quarantine))
    store.put(SEEN_ITEMS, table_bytes(snapshot.items))
    _log_quarantine(snapshot.quarantine)
    previous = load_items(store, production.catalog.name) if production else None
    diff = diff_catalogs(previous, snapshot.items)
    return IngestOutcome(catalog=catalog.ref, diff=diff, n_read=snapshot.n_read, notes=opened.notes)


def ingest_change(store: Store, source: str, base: Catalog, change: Change, config: IngestConfig) -> IngestOutcome:
    """Read the items that a change names and seal the catalogue `base` with them; the difference is to `base`."""
    items, quarantine = _tables(store, base)
    last = Snapshot(items, quarantine, 0)
    opened = open_source(source)
    rows = opened.rows()
    named = resolve_change(change, rows, items)
    for note in named.notes:
        log.warning(note)
    snapshot = update_snapshot(last, rows, named.item_ids, config, _now())
    is_named = pl.col("item_id").is_in(list(named.item_ids))
    _log_quarantine(snapshot.quarantine.filter(is_named))
    seen = _last_seen(store) or last
    store.put(LEDGER, table_bytes(_replaced(seen.quarantine, snapshot.quarantine, is_named)))
    store.put(SEEN_ITEMS, table_bytes(_replaced(seen.items, snapshot.items, is_named)))
    diff = diff_catalogs(items, snapshot.items)
    return IngestOutcome(
        catalog=_seal(store, snapshot).ref,
        diff=diff,
        n_read=snapshot.n_read,
        declared_removals=named.removed,
        notes=(*opened.notes, *named.notes),
    )


def seal_selection(store: Store, catalog: Catalog, selection: ItemSelection) -> Catalog:
    """Seal the selected items as a catalogue of their own, which is no snapshot; return `catalog` when that is all.

    Raises `BadConfig` for a filter or a date that cannot be parsed, `NotFound` for a listed item that the catalogue
    lacks, for dates between which no snapshot was sealed, and when no item is left.
    """
    period = selection.period()
    items, quarantine = _tables(store, catalog)
    selected = select_items(items, selection, items_changed_in(store, period) if any(period) else None)
    if len(selected) == len(items):
        return catalog
    rejects = quarantine.filter(pl.col("item_id").is_in(selected["item_id"].implode()))
    return _seal(store, Snapshot(selected, rejects, 0), {WHOLE_CATALOG: catalog.fingerprint})


def _seal(store: Store, snapshot: Snapshot, parents: dict[str, str] | None = None) -> Catalog:
    parents = parents or {}
    name = fingerprint("catalog", STAGE_VERSIONS["ingest"], catalog_fingerprint(snapshot.items), list(parents.values()))
    existing = Catalog.find(store, name)
    if existing:
        return existing
    n_quarantined = snapshot.items.filter(pl.col("status") == "quarantined").height
    return Catalog(
        fingerprint=name,
        parents=parents,
        parts=(
            *put_items(store, snapshot.items),
            *put_parts(
                store,
                f"{Catalog.folder}/{name}",
                {QUARANTINE_FILE: table_bytes(snapshot.quarantine)},
                {QUARANTINE_FILE: len(snapshot.quarantine)},
            ),
        ),
        counts={
            "rows": len(snapshot.items),
            "ok": len(snapshot.items) - n_quarantined,
            "quarantined": n_quarantined,
        },
    ).seal(store)


def _tables(store: Store, catalog: Catalog) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the items of a catalogue and its rejects, their names and row ids in normal form."""
    items, quarantine = read_items(store, catalog), read_table(store, catalog.part(QUARANTINE_FILE))
    return with_fields(items.with_columns(row_ids(items["item_id"]))), with_normal_names(quarantine)


def _last_seen(store: Store) -> Snapshot | None:
    try:
        items, quarantine = (read_last_seen(store, key) for key in (SEEN_ITEMS, LEDGER))
    except NotFound:
        return None
    return Snapshot(with_fields(items), quarantine, 0)


def _replaced(table: pl.DataFrame, current: pl.DataFrame, is_named: pl.Expr) -> pl.DataFrame:
    """Return a table of items with its named rows replaced by those of `current`."""
    return pl.concat([table.filter(~is_named), current.filter(is_named)]).sort("item_id")


def _log_quarantine(quarantine: pl.DataFrame) -> None:
    for reject in quarantine.iter_rows(named=True):
        log.warning("quarantined %s: %s", reject["item_id"], reject["reason"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
