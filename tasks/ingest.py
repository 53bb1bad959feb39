"""Source to catalogue snapshot."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core.arrays import Bool
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS, load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.growing_sets import plan_work, seal_view, shard_pictures
from retrieval_core.artifacts.manifests import Catalog, MaskSet, Ref, Value, fingerprint
from retrieval_core.artifacts.parts import (
    masks_bytes,
    put_part,
    put_part_once,
    read_table,
    read_unsealed,
    table_bytes,
)
from retrieval_core.config import IngestConfig
from retrieval_core.errors import BadConfig, NotFound, Permanent
from retrieval_core.ingest.change import MAX_LISTED, Change, resolve_change
from retrieval_core.ingest.diff import CatalogDiff, diff_catalogs
from retrieval_core.ingest.selection import WHOLE_CATALOG, ItemSelection, items_changed_in, select_items
from retrieval_core.ingest.snapshot import Snapshot, catalog_fingerprint, take_snapshot, update_snapshot
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tasks.stage import progress, stage

TRUTH_SHARD_ROWS = 256
TABLES = ("items", "quarantine")  # of a sealed catalogue


class IngestOutcome(Value):
    """A sealed catalogue and how it differs from the last run's."""

    catalog: Ref
    diff: CatalogDiff
    n_read: int


@stage("ingest")
def snapshot_catalog(settings: Settings, source: str, config: IngestConfig) -> IngestOutcome:
    """Read what changed in the source and seal the snapshot."""
    store = settings.open_store()
    rows = open_source(source).rows()
    advance = progress("pictures of the source", len(rows))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    snapshot = take_snapshot(rows, _last_seen(store), config, now, lambda done, total: advance(1))
    catalog = _seal(store, snapshot)
    store.put(LEDGER, table_bytes(snapshot.quarantine))
    store.put(SEEN_ITEMS, table_bytes(snapshot.items))
    _tell(snapshot.quarantine)
    diff = diff_catalogs(_last_run_items(store), snapshot.items)
    return IngestOutcome(catalog=catalog.ref, diff=diff, n_read=snapshot.n_read)


@stage("ingest the change")
def update_catalog(settings: Settings, source: str, base: Ref, change: Change, config: IngestConfig) -> IngestOutcome:
    """Read the items that a change names and seal the catalogue `base` with them; the difference is to `base`."""
    store = settings.open_store()
    sealed = Catalog.open(store, base)
    items, quarantine = (read_table(store, sealed.part(f"{table}.parquet")) for table in TABLES)
    last = Snapshot(items, quarantine, 0)
    rows = open_source(source).rows()
    named = resolve_change(change, rows, last.items)
    if named.unknown:
        examples = ", ".join(map(repr, named.unknown[:MAX_LISTED]))
        get_run_logger().warning("%d items named are nowhere, and passed over: %s", len(named.unknown), examples)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    snapshot = update_snapshot(last, rows, named.item_ids, config, now)
    is_named = pl.col("item_id").is_in(list(named.item_ids))
    _tell(snapshot.quarantine.filter(is_named))
    seen = _last_seen(store) or last
    store.put(LEDGER, table_bytes(_replaced(seen.quarantine, snapshot.quarantine, is_named)))
    store.put(SEEN_ITEMS, table_bytes(_replaced(seen.items, snapshot.items, is_named)))
    diff = diff_catalogs(last.items, snapshot.items)
    return IngestOutcome(catalog=_seal(store, snapshot).ref, diff=diff, n_read=snapshot.n_read)


@stage("choose items")
def choose_items(settings: Settings, catalog: Ref, selection: ItemSelection) -> Ref:
    """The items chosen of a catalogue, as a catalogue that is no snapshot; the catalogue itself where these are all.

    Raises `BadConfig` for a filter or a date that cannot be read, `NotFound` for a listed item that is not there, for
    dates between which nothing was sealed, or where no item is left.
    """
    store, period = settings.open_store(), selection.period()
    sealed = Catalog.open(store, catalog)
    items, quarantine = (read_table(store, sealed.part(f"{table}.parquet")) for table in TABLES)
    chosen = select_items(items, selection, items_changed_in(store, period) if any(period) else None)
    if len(chosen) == len(items):
        return catalog
    bad = quarantine.filter(pl.col("item_id").is_in(chosen["item_id"].implode()))
    return _seal(store, Snapshot(chosen, bad, 0), {WHOLE_CATALOG: catalog.name}).ref


def _replaced(before: pl.DataFrame, after: pl.DataFrame, chosen: pl.Expr) -> pl.DataFrame:
    """A table by item with the chosen rows as they are after."""
    return pl.concat([before.filter(~chosen), after.filter(chosen)]).sort("item_id")


def _tell(quarantine: pl.DataFrame) -> None:
    for reject in quarantine.iter_rows(named=True):
        get_run_logger().warning("quarantined %s: %s", reject["item_id"], reject["reason"])


def _last_seen(store: Store) -> Snapshot | None:
    try:
        return Snapshot(read_unsealed(store, SEEN_ITEMS), read_unsealed(store, LEDGER), 0)
    except NotFound:
        return None


def _last_run_items(store: Store) -> pl.DataFrame | None:
    release = releases.read_release(store, releases.LATEST)
    return load_items(store, release.parents["catalog"]) if release else None


def _seal(store: Store, snapshot: Snapshot, parents: dict[str, str] | None = None) -> Catalog:
    parents = parents or {}
    name = fingerprint("catalog", STAGE_VERSIONS["ingest"], catalog_fingerprint(snapshot.items), list(parents.values()))
    known = Catalog.find(store, name)
    if known:
        return known
    tables = dict(zip(TABLES, snapshot[:2], strict=True))
    n_quarantined = snapshot.items.filter(pl.col("status") == "quarantined").height
    return Catalog(
        fingerprint=name,
        parents=parents,
        parts=tuple(
            put_part_once(store, f"{Catalog.folder}/{name}/{table}.parquet", table_bytes(frame), len(frame))
            for table, frame in tables.items()
        ),
        counts={
            "rows": len(snapshot.items),
            "ok": len(snapshot.items) - n_quarantined,
            "quarantined": n_quarantined,
        },
    ).seal(store)


@stage("truth masks")
def collect_truth_masks(settings: Settings, source: str, catalog: Ref) -> Ref | None:
    """Keep the source's own masks in the store, by the id of the mask file; None where the source has none.

    A mask that cannot be read is passed over with a warning: its items have none.
    """
    store = settings.open_store()
    items = load_items(store, catalog.name).filter(pl.col("mask_id").is_not_null())
    if items.is_empty():
        return None
    family = fingerprint("truth masks", STAGE_VERSIONS["ingest"], source.partition(":")[0], [])
    masks = items.select(content_id="mask_id", image_uri="mask_uri", item_id="item_id")
    plan = plan_work(store, MaskSet.folder, family, masks, TRUTH_SHARD_ROWS)
    reader, report = open_source(source), progress("truth masks", plan.n_missing)
    problems: list[str] = []
    for shard in plan.split():
        table = shard_pictures(store, shard)
        found = _read_masks(reader, table, problems)
        if found:
            put_part(
                store, shard.part_key, masks_bytes(list(found), list(found.values()), [""] * len(found)), len(found)
            )
        report(len(table))
    if problems:
        examples = "; ".join(problems[:MAX_LISTED])
        get_run_logger().warning(
            "%d masks of the source cannot be read and are passed over: %s", len(problems), examples
        )
    sealed = seal_view(store, MaskSet, family, catalog.name, masks["content_id"])
    return sealed.ref if sealed.parts else None


def _read_masks(reader: Source, pictures: pl.DataFrame, problems: list[str]) -> dict[str, Bool]:
    """Masks by content id; what is wrong with the others joins `problems`."""
    found = {}
    for name, uri in pictures.select("content_id", "image_uri").iter_rows():
        try:
            found[name] = reader.read_mask(uri)
        except BadConfig:  # of S3: it says nothing about a mask
            raise
        except Permanent as error:
            problems.append(f"{uri}: {error}")
    return found
