"""Seal a catalogue: of a whole source, of a sealed catalogue and a change, or of selected items of a sealed one.

The store also keeps every item as it was last read, and the quarantine ledger; the next run starts from these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import ParamSpec

import numpy as np
import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import (
    FIELDS_FILE,
    LEDGER,
    QUARANTINE_FILE,
    SEEN_ITEMS,
    FieldSet,
    field_table,
    load_items,
    product_unit,
    put_items,
    read_last_seen,
    read_with_fields,
    row_ids,
    with_fields,
)
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Catalog, Ref, Release, Value, fingerprint
from retrieval_core.artifacts.mapped_rows import KeyIndex, in_batches, rows_at
from retrieval_core.artifacts.parts import put_parts, put_table, read_table, table_bytes, table_file
from retrieval_core.artifacts.pictures import kept_places, seal_kept
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import NotFound
from retrieval_core.ingest.change import Change, NamedItems, resolve_change
from retrieval_core.ingest.delta import (
    is_delta,
    lists_deletions,
    named_items,
    require_whole,
    unpublished_note,
    without_base,
)
from retrieval_core.ingest.diff import CatalogDiff, diff_catalogs
from retrieval_core.ingest.selection import WHOLE_CATALOG, ItemSelection, items_changed_in, select_items
from retrieval_core.ingest.shards import ReadingPlan, ReadingShard, collect_readings, plan_reading, planned_items
from retrieval_core.ingest.snapshot import (
    SPLIT_COLUMNS,
    Snapshot,
    catalog_fingerprint,
    complete_snapshot,
    digest,
    earlier_splits,
    plan_snapshot,
    plan_update,
)
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.ingest.unchanged import PREVIOUS_COLUMNS
from retrieval_core.item_ids.normal_form import with_normal_names
from retrieval_core.store.base import Store
from retrieval_core.store.traffic import Traffic, counted_traffic
from retrieval_core.store.uris import label_of

MIN_SHARING, MIN_SHARING_FRACTION = 20, 0.005  # products, and share of the items, by which a picture is a placeholder

log = logging.getLogger(__name__)
P = ParamSpec("P")


class IngestOutcome(Value):
    """A sealed catalogue, how it differs from an earlier one, and how many pictures were read for it.

    `fields` are those of the items, None if no item has any. `declared_removals` are the items that a change listed as
    removed or the source marked as deleted; `notes` are those of the source and of pictures that many items share.
    `n_passed_over` rows of the source are not in the catalogue; `fetched` is what reading it over the network took.
    """

    catalog: Ref
    fields: Ref | None = None
    diff: CatalogDiff
    n_read: int
    declared_removals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_passed_over: int = 0
    fetched: Traffic = Traffic()


class IngestPlan(Value):
    """What to read for a catalogue; `base` is the fingerprint of the catalogue that a change is applied to, else "".

    `base_fields` are the fields of its items, `named` the items that the change names; `declared_removals`, `notes` and
    `n_passed_over` are those of the outcome, and `fetched` is what planning took.
    """

    reading: ReadingPlan
    base: str = ""
    base_fields: Ref | None = None
    named: tuple[str, ...] = ()
    declared_removals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_passed_over: int = 0
    fetched: Traffic = Traffic()

    def split(self) -> list[ReadingShard]:
        """Return the shards that are to be read, in order."""
        return self.reading.split()


def _counted(plan: Callable[P, IngestPlan]) -> Callable[P, IngestPlan]:
    """Make a function add to the plan that it returns what planning took."""

    @wraps(plan)
    def counted_plan(*args: P.args, **kwargs: P.kwargs) -> IngestPlan:
        with counted_traffic() as counter:
            planned = plan(*args, **kwargs)
        return planned.model_copy(update={"fetched": counter.total})

    return counted_plan


@_counted
def plan_source(store: Store, source: str, config: IngestConfig) -> IngestPlan:
    """Plan which pictures of a source are to be read, in shards for `read_shard`.

    A source of changes is applied to production's catalogue. Raises `BadConfig` for one without production.
    """
    opened = open_source(source)
    rows = opened.rows()
    for note in opened.notes:
        log.info("%s: %s", source, note)
    production = releases.read_release(store, releases.PRODUCTION)
    if is_delta(opened):
        if production is None:
            raise without_base(opened.spec)
        return _plan_delta(store, opened, rows, production, config)
    removed: tuple[str, ...] = ()
    if production and lists_deletions(opened):
        last = load_items(store, production.catalog.name, ["item_id", "product_id"])
        removed = named_items(opened, rows, last).removed
    listed = IngestPlan(
        reading=ReadingPlan(folder="", n_shards=0),
        declared_removals=removed,
        notes=opened.notes,
        n_passed_over=opened.n_passed_over,
    )
    del opened  # which holds its file's table beside the rows
    seen = _last_seen(store, PREVIOUS_COLUMNS)
    planned = plan_snapshot(rows, seen.items if seen else None, is_kept(store, config))
    reading = plan_reading(store, planned, seen.quarantine if seen else None, config)
    return listed.model_copy(update={"reading": reading})


def _plan_delta(store: Store, opened: Source, rows: pl.DataFrame, base: Release, config: IngestConfig) -> IngestPlan:
    """Plan which pictures are to be read of the items that a source of changes names; others stay as in `base`."""
    last, seen = _snapshot_of(store, Catalog.open(store, base.catalog), base.fields), _last_seen(store)
    unpublished = unpublished_note(last.items, seen.items) if seen else ()
    for note in unpublished:
        log.warning(note)
    plan = _plan_named(store, last, opened, rows, named_items(opened, rows, last.items), config)
    notes = (*opened.notes, *unpublished)
    return plan.model_copy(update={"base": base.catalog.name, "base_fields": base.fields, "notes": notes})


@_counted
def plan_change(
    store: Store, source: str, base: Catalog, change: Change, config: IngestConfig, base_fields: Ref | None = None
) -> IngestPlan:
    """Plan which pictures are to be read of the items that a change of the catalogue `base` names.

    `base_fields` are the fields of its items. Raises `BadConfig` for a source that lists only what changed.
    """
    last, opened = _snapshot_of(store, base, base_fields), open_source(source)
    require_whole(opened)
    rows = opened.rows()
    named = resolve_change(change, rows, last.items)
    for note in named.notes:
        log.warning(note)
    plan = _plan_named(store, last, opened, rows, named, config)
    notes = (*opened.notes, *named.notes)
    return plan.model_copy(update={"base": base.fingerprint, "base_fields": base_fields, "notes": notes})


def _plan_named(
    store: Store, last: Snapshot, opened: Source, rows: pl.DataFrame, named: NamedItems, config: IngestConfig
) -> IngestPlan:
    planned = plan_update(last.items, rows, named.item_ids, is_kept(store, config))
    reading = plan_reading(store, planned, last.quarantine, config)
    return IngestPlan(
        reading=reading,
        named=named.item_ids,
        declared_removals=named.removed,
        n_passed_over=opened.n_passed_over,
    )


def seal_ingest(store: Store, plan: IngestPlan, config: IngestConfig, fetched: Traffic) -> IngestOutcome:
    """Seal the catalogue of a plan whose shards were read; `fetched` is what planning and reading took.

    The difference is to the catalogue that was changed, and of a whole source to production's. Raises as
    `complete_snapshot` does.
    """
    catalog, snapshot, diff = (_seal_change if plan.base else _seal_source)(store, plan, config)
    shared = shared_picture_notes(snapshot.items)
    for note in shared:
        log.warning(note)
    seal_kept(store, catalog.ref)
    return IngestOutcome(
        catalog=catalog.ref,
        fields=_seal_fields(store, snapshot.items),
        diff=diff,
        n_read=snapshot.n_read,
        declared_removals=plan.declared_removals,
        notes=(*plan.notes, *shared),
        n_passed_over=plan.n_passed_over,
        fetched=fetched,
    )


def _seal_source(store: Store, plan: IngestPlan, config: IngestConfig) -> tuple[Catalog, Snapshot, CatalogDiff]:
    production = releases.read_release(store, releases.PRODUCTION)
    splits = load_items(store, production.catalog.name, SPLIT_COLUMNS) if production else None
    seen = _last_seen(store, SPLIT_COLUMNS)
    snapshot = _complete(store, plan, seen, earlier_splits(seen, splits), config)
    catalog = _seal(store, snapshot)
    store.put(LEDGER, table_bytes(snapshot.quarantine))
    put_table(store, SEEN_ITEMS, snapshot.items)
    _log_quarantine(snapshot.quarantine)
    published = None
    if production:
        published = read_with_fields(store, Catalog.open(store, production.catalog), production.fields)
    return catalog, snapshot, diff_catalogs(published, snapshot.items)


def _complete(
    store: Store, plan: IngestPlan, previous: Snapshot | None, splits: pl.DataFrame | None, config: IngestConfig
) -> Snapshot:
    """Return the snapshot of a plan whose shards were read."""
    planned, readings = planned_items(store, plan.reading), collect_readings(store, plan.reading)
    return complete_snapshot(planned, readings, previous, splits, config, _now())


def _seal_change(store: Store, plan: IngestPlan, config: IngestConfig) -> tuple[Catalog, Snapshot, CatalogDiff]:
    """Seal the catalogue `plan.base` with the items that the change names."""
    base = Catalog.open(store, Ref(kind="Catalog", key=f"{Catalog.folder}/{plan.base}"))
    last = _snapshot_of(store, base, plan.base_fields)
    snapshot = _complete(store, plan, last, last.items, config)
    is_named = pl.col("item_id").is_in(list(plan.named))
    _log_quarantine(snapshot.quarantine.filter(is_named))
    seen = _last_seen(store) or last
    store.put(LEDGER, table_bytes(_replaced(seen.quarantine, snapshot.quarantine, is_named)))
    put_table(store, SEEN_ITEMS, _replaced(seen.items, snapshot.items, is_named))
    return _seal(store, snapshot), snapshot, diff_catalogs(last.items, snapshot.items)


def is_kept(store: Store, config: IngestConfig) -> Callable[[pl.Series], pl.Series] | None:
    """Return which of given content ids the store keeps; None where it keeps no pictures."""
    if config.keep == "none":
        return None
    kept = KeyIndex(kept_places(store).select("content_id"))
    return lambda content_ids: pl.Series(kept.first(content_ids.to_frame()) >= 0)


def seal_selection(store: Store, catalog: Catalog, selection: ItemSelection, fields: Ref | None = None) -> Catalog:
    """Seal the selected items as a catalogue of their own, which is no snapshot; return `catalog` when that is all.

    `fields` are those of the items, by which the selection may filter. Raises `BadConfig` for a filter or a date that
    cannot be parsed, `NotFound` for a listed item that the catalogue lacks, for dates between which no snapshot was
    sealed, and when no item is left.
    """
    period = selection.period()
    whole = _snapshot_of(store, catalog, fields)
    selected = select_items(whole.items, selection, items_changed_in(store, period) if any(period) else None)
    return catalog if len(selected) == len(whole.items) else _seal_part(store, catalog, whole, selected)


def seal_split(store: Store, catalog: Catalog, split: Callable[[pl.DataFrame], pl.DataFrame]) -> Catalog:
    """Seal the items that `split` returns of a catalogue's, with other splits, as a catalogue that is no snapshot."""
    whole = _snapshot_of(store, catalog)
    return _seal_part(store, catalog, whole, split(whole.items))


def _seal_part(store: Store, catalog: Catalog, whole: Snapshot, selected: pl.DataFrame) -> Catalog:
    rejects = whole.quarantine.filter(pl.col("item_id").is_in(selected["item_id"].implode()))
    return _seal(store, Snapshot(selected, rejects, 0), {WHOLE_CATALOG: catalog.fingerprint})


def _seal(store: Store, snapshot: Snapshot, parents: dict[str, str] | None = None) -> Catalog:
    parents = parents or {}
    name = fingerprint("catalog", STAGE_VERSIONS["ingest"], catalog_fingerprint(snapshot.items), list(parents.values()))
    existing = Catalog.find(store, name)
    if existing:
        return existing
    n_quarantined = int((snapshot.items["status"] == "quarantined").sum())
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


def _seal_fields(store: Store, items: pl.DataFrame) -> Ref | None:
    """Seal the fields of a snapshot's items; return None if no item has any."""
    table = field_table(items)
    if table.is_empty():
        return None
    name = fingerprint("fields", STAGE_VERSIONS["ingest"], digest(in_batches(table)), [])
    existing = FieldSet.find(store, name)
    if existing:
        return existing.ref
    folder = f"{FieldSet.folder}/{name}"
    with table_file(table) as path:
        parts = put_parts(store, folder, {FIELDS_FILE: path}, {FIELDS_FILE: len(table)})
    return FieldSet(fingerprint=name, parts=parts, counts={"rows": len(table)}).seal(store).ref


def _snapshot_of(store: Store, catalog: Catalog, fields: Ref | None = None) -> Snapshot:
    """Return a catalogue's items with these fields, and its rejects, their names and row ids in normal form."""
    items, quarantine = read_with_fields(store, catalog, fields), read_table(store, catalog.part(QUARANTINE_FILE))
    return Snapshot(items.with_columns(row_ids(items["item_id"])), with_normal_names(quarantine), 0)


def _last_seen(store: Store, columns: Sequence[str] | None = None) -> Snapshot | None:
    """Return every item as it was last read, with these columns or all; None for a store without an earlier run."""
    try:
        items, quarantine = read_last_seen(store, SEEN_ITEMS, columns), read_last_seen(store, LEDGER)
    except NotFound:
        return None
    return Snapshot(items if columns else with_fields(items), quarantine, 0)


def _replaced(table: pl.DataFrame, current: pl.DataFrame, is_named: pl.Expr) -> pl.DataFrame:
    """Return a table of items with its named rows replaced by those of `current`."""
    return pl.concat([table.filter(~is_named), current.filter(is_named)]).sort("item_id")


def shared_picture_notes(items: pl.DataFrame) -> tuple[str, ...]:
    """Return a line for each picture that so many products share that it shows none of them, such as a placeholder."""
    # At most 1 / MIN_SHARING_FRACTION pictures, found by their hashes, are shared by so many.
    hashes = np.concatenate([batch["content_id"].hash().to_numpy() for batch in in_batches(items)])
    values, counts = np.unique(hashes, return_counts=True)
    is_often = np.isin(hashes, values[counts > MIN_SHARING_FRACTION * len(items)])
    often = rows_at(items.select("item_id", "image_uri", "product_id", "content_id"), np.flatnonzero(is_often))
    shown = often.drop_nulls("content_id").with_columns(unit=product_unit())
    shared = (
        shown.group_by("content_id")
        .agg(
            pl.len().alias("n_items"),
            pl.col("unit").n_unique().alias("n_products"),
            pl.col("item_id").sort().head(3).str.join(", "),
            pl.col("image_uri").min(),
        )
        .filter(pl.col("n_products") >= MIN_SHARING, pl.col("n_items") > MIN_SHARING_FRACTION * len(items))
        .sort("n_items", "content_id", descending=[True, False])
    )
    return tuple(
        f"{row['n_items']:,} items of {row['n_products']:,} products show the same picture, perhaps a placeholder: "
        f"{row['item_id']} and {row['n_items'] - 3:,} more, for example {label_of(row['image_uri'])}"
        for row in shared.iter_rows(named=True)
    )


def _log_quarantine(quarantine: pl.DataFrame) -> None:
    for reject in quarantine.iter_rows(named=True):
        log.warning("quarantined %s: %s", reject["item_id"], reject["reason"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
