"""Source to catalogue snapshot."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
from prefect.logging import get_run_logger

from retrieval_core import lineage, releases
from retrieval_core.artifacts import Catalog, MaskSet, Ref, Value, fingerprint
from retrieval_core.config import IngestConfig
from retrieval_core.errors import NotFound
from retrieval_core.ingest import VERSION
from retrieval_core.ingest.catalog import LEDGER, SEEN_ITEMS, Snapshot, catalog_fingerprint, take_snapshot
from retrieval_core.ingest.diff import CatalogDiff, diff_catalogs
from retrieval_core.ingest.sources import open_source
from retrieval_core.sets import part_key, plan_work, seal_view, shard_pictures
from retrieval_core.settings import Settings
from retrieval_core.shards import masks_bytes, put_part, table_bytes
from retrieval_core.store import Store
from tasks.stage import progress, stage

TRUTH_SHARD_ROWS = 256


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
    for reject in snapshot.quarantine.iter_rows(named=True):
        get_run_logger().warning("quarantined %s: %s", reject["item_id"], reject["reason"])
    diff = diff_catalogs(_last_run_items(store), snapshot.items)
    return IngestOutcome(catalog=catalog.ref, diff=diff, n_read=snapshot.n_read)


def _last_seen(store: Store) -> Snapshot | None:
    try:
        items = pl.read_parquet(store.get(SEEN_ITEMS))
        return Snapshot(items, pl.read_parquet(store.get(LEDGER)), 0)
    except NotFound:
        return None


def _last_run_items(store: Store) -> pl.DataFrame | None:
    release = releases.read_release(store, releases.LATEST)
    return lineage.load_items(store, release.parents["catalog"]) if release else None


def _seal(store: Store, snapshot: Snapshot) -> Catalog:
    name = fingerprint("catalog", VERSION, catalog_fingerprint(snapshot.items), [])
    known = Catalog.find(store, name)
    if known:
        return known
    tables = {"items": snapshot.items, "quarantine": snapshot.quarantine}
    n_quarantined = snapshot.items.filter(pl.col("status") == "quarantined").height
    return Catalog(
        fingerprint=name,
        parts=tuple(
            put_part(store, f"{Catalog.folder}/{name}/{table}.parquet", table_bytes(frame), len(frame))
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
    """Keep the source's own masks in the store, by the id of the mask file; None where the source has none."""
    store = settings.open_store()
    items = lineage.load_items(store, catalog.name).filter(pl.col("mask_id").is_not_null())
    if items.is_empty():
        return None
    family = fingerprint("truth masks", VERSION, source.partition(":")[0], [])
    masks = items.select(content_id="mask_id", image_uri="mask_uri", item_id="item_id")
    plan = plan_work(store, MaskSet.folder, family, masks, TRUTH_SHARD_ROWS)
    reader, report = open_source(source), progress("truth masks", plan.n_missing)
    for number, name in enumerate(plan.shards):
        shard = shard_pictures(store, plan, number)
        found = [reader.read_mask(uri) for uri in shard["image_uri"]]
        data = masks_bytes(shard["content_id"].to_list(), found, [""] * len(found))
        put_part(store, part_key(plan.folder, family, name), data, len(found))
        report(len(found))
    return seal_view(store, MaskSet, family, catalog.name, masks["content_id"]).ref
