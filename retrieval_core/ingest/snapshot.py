"""Take a snapshot of a catalogue: one row per item, reading only the pictures that are new or changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import NamedTuple

import polars as pl
import xxhash

from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    COMPARED_COLUMNS,
    QUARANTINE_SCHEMA,
    product_unit,
    row_ids,
)
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import CatalogInvalid, SourceMissing, StoreUnavailable, TooManyRejects
from retrieval_core.ingest.reading import READ_COLUMNS, read_pictures
from retrieval_core.ingest.unchanged import with_previous_readings

MAX_UNAVAILABLE_FRACTION = 0.5  # of the pictures, which then are not bad: the source is down
SPLIT_COLUMNS = ["item_id", "product_id", "split"]  # what keeps the split of an item
MAX_HOLDOUT_SHARE = 1 / 3
FINGERPRINT_ROWS = 100_000  # serialised at a time

_IS_UNREAD = pl.col("status").is_null() & pl.col("content_id").is_null() & pl.col("reason").is_null()


class Snapshot(NamedTuple):
    """The items of a catalogue, those of them in quarantine, and how many pictures were read for it.

    `items` has `CATALOG_SCHEMA`, is sorted by item_id and has no null split; content_id, mask_id, height and width are
    null where status is "quarantined". `quarantine` has `QUARANTINE_SCHEMA`, and one row for each of those items.
    """

    items: pl.DataFrame
    quarantine: pl.DataFrame
    n_read: int


def take_snapshot(
    rows: pl.DataFrame,
    previous: Snapshot | None,
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None = None,
    published: pl.DataFrame | None = None,
) -> Snapshot:
    """Take a snapshot of a source's `rows` (`SOURCE_SCHEMA`) in this process, keeping no picture.

    A run does the same in steps: `plan_snapshot`, `reading.read_pictures` of shards, and `complete_snapshot`, whose
    arguments these are and which raise as this does. `progress` gets the number of pictures read and to read.
    """
    planned = plan_snapshot(rows, previous.items if previous else None)
    readings = read_here(planned, config.max_pixels, progress)
    return complete_snapshot(planned, readings, previous, earlier_splits(previous, published), config, now)


def update_snapshot(
    last: Snapshot, rows: pl.DataFrame, ids: Collection[str], config: IngestConfig, now: str
) -> Snapshot:
    """Return the `last` snapshot with the items `ids` as in the source's current `rows`; read no other picture.

    When only these items changed, the result equals `take_snapshot` of the rows, except that other quarantined items
    are not tried again. Raises what `take_snapshot` raises, and `SourceMissing` when no item is left.
    """
    planned = plan_update(last.items, rows, ids)
    return complete_snapshot(planned, read_here(planned, config.max_pixels), last, last.items, config, now)


def plan_snapshot(
    rows: pl.DataFrame, previous: pl.DataFrame | None, is_kept: Callable[[pl.Series], pl.Series] | None = None
) -> pl.DataFrame:
    """Return the items of a source's `rows` (`SOURCE_SCHEMA`) with what is known of their pictures, sorted by item_id.

    A picture is unchanged when the items of the `previous` snapshot have it in good state with the same URI, size and
    version (mtime or ETag; its mask's too), and its content id `is_kept`; `unread` selects the others. One of a web
    server that tells no version is read each time. Where the source's version of a row did not change, nor did its
    picture. Raises `CatalogInvalid` when two ids share a row_id, and `StoreUnavailable` where S3 does not answer.
    """
    ordered = rows.with_columns(row_ids(rows["item_id"])).sort("item_id")
    _check_row_ids(ordered)
    items = with_previous_readings(ordered, previous)
    if is_kept is not None:
        lacks = pl.Series(~is_kept(items["content_id"]))
        items = items.with_columns(pl.when(~lacks).then(name).alias(name) for name in READ_COLUMNS)
    return items.with_columns(status=pl.lit(None, pl.String))


def plan_update(
    last: pl.DataFrame,
    rows: pl.DataFrame,
    ids: Collection[str],
    is_kept: Callable[[pl.Series], pl.Series] | None = None,
) -> pl.DataFrame:
    """Return what `plan_snapshot` does of the items `ids`, and all other items of the `last` snapshot as they are.

    Items that the rows lack are removed. Raises as `plan_snapshot` does, and `SourceMissing` when no item is left.
    """
    is_named = pl.col("item_id").is_in(list(ids))
    update = plan_snapshot(rows.filter(is_named), last, is_kept)
    # Forget the splits that a snapshot filled in: the source may now give one for another row of the product.
    given = rows.filter(pl.col("split").is_not_null())["item_id"]
    others = last.filter(~is_named).with_columns(pl.when(pl.col("item_id").is_in(given.implode())).then("split"))
    items = pl.concat([others, update], how="diagonal").sort("item_id")
    if items.is_empty():
        raise SourceMissing(f"without the {len(ids)} items named the catalogue would be empty; run the nightly instead")
    _check_row_ids(items)
    return items


def unread(planned: pl.DataFrame) -> pl.DataFrame:
    """Return the planned items whose pictures have to be read."""
    return planned.filter(_IS_UNREAD)


def read_here(
    planned: pl.DataFrame, max_pixels: int, progress: Callable[[int, int], None] | None = None
) -> pl.DataFrame:
    """Read the pictures of all unread items in this process; return their readings (`READING_SCHEMA`)."""
    items, total = unread(planned), unread(planned).height
    report = (lambda done: progress(done, total)) if progress else None
    return read_pictures(items, IngestConfig(max_pixels=max_pixels, keep="none"), on_picture=report)


def complete_snapshot(
    planned: pl.DataFrame,
    readings: pl.DataFrame,
    previous: Snapshot | None,
    splits: pl.DataFrame | None,
    config: IngestConfig,
    now: str,
) -> Snapshot:
    """Return the snapshot of planned items and the `readings` (`READING_SCHEMA`) of those that were unread.

    A picture that cannot be read or decoded is quarantined; every snapshot tries it again and counts the attempt in the
    ledger of the `previous` one. A missing mask leaves mask_id null. `now` is the ISO time for the ledger. A split that
    the source leaves open stays as in `splits` (`SPLIT_COLUMNS`). Raises `TooManyRejects` above
    `config.max_reject_fraction`, and `StoreUnavailable` where the servers of more of the pictures do not answer,
    because an outage must not quarantine a catalogue.
    """
    is_settled = pl.col("status").is_not_null()
    settled, items = planned.filter(is_settled), _with_readings(planned.filter(~is_settled), readings)
    _check_servers(items, config.max_reject_fraction)
    ledger = previous.quarantine if previous is not None else pl.DataFrame(schema=QUARANTINE_SCHEMA)
    quarantine = pl.concat([ledger.join(settled, on="item_id", how="semi"), _quarantine(items, ledger, now)])
    items = pl.concat([settled.select(*CATALOG_SCHEMA), items.select(*CATALOG_SCHEMA)]).sort("item_id")
    quarantine = quarantine.sort("item_id")
    _check_rejects(quarantine, len(items), config.max_reject_fraction)
    return Snapshot(_with_splits(items, splits, config).select(*CATALOG_SCHEMA), quarantine, len(readings))


def earlier_splits(previous: Snapshot | None, published: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return the split of each item (`SPLIT_COLUMNS`) in the items of `published`, else in the `previous` snapshot.

    The previous snapshot may be of a broken source that was never published.
    """
    earlier = [table for table in (published, previous.items if previous else None) if table is not None]
    splits = [table.select(SPLIT_COLUMNS) for table in earlier]
    return pl.concat(splits).unique("item_id", keep="first", maintain_order=True) if splits else None


def catalog_fingerprint(items: pl.DataFrame) -> str:
    """Return 32 hex digits of the SHA-256 of the items' `COMPARED_COLUMNS`, whatever the order of the rows."""
    return table_digest(items.select(COMPARED_COLUMNS).sort("item_id"))


def table_digest(table: pl.DataFrame) -> str:
    """Return 32 hex digits of the SHA-256 of a table as JSON Lines."""
    digest = hashlib.sha256()
    for chunk in table.iter_slices(FINGERPRINT_ROWS):
        digest.update(chunk.write_ndjson().encode())
    return digest.hexdigest()[:32]


def _check_row_ids(items: pl.DataFrame) -> None:
    shared = items.filter(pl.col("row_id").is_duplicated()).sort("row_id")
    if len(shared):
        first, second = shared["item_id"][:2]
        raise CatalogInvalid(
            f"item_ids {first!r} and {second!r} share row_id {shared['row_id'][0]}; rename one of them"
        )


def _with_readings(items: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """Fill in the readings and the status of each item; `refused_id` is the content_id of a quarantined picture."""
    joined = items.join(readings, on="item_id", how="left", suffix="_read", maintain_order="left")
    filled = joined.with_columns(
        pl.coalesce("reason", "read_reason").alias("reason"),
        pl.any_horizontal("is_unavailable", "is_unavailable_read").alias("is_unavailable"),
        *(pl.coalesce(f"{name}_read", name).alias(name) for name in (*READ_COLUMNS, "size_bytes", "version")),
    )
    is_bad = pl.col("reason").is_not_null()
    return filled.with_columns(
        pl.when(is_bad).then(pl.lit("quarantined")).otherwise(pl.lit("ok")).alias("status"),
        pl.when(is_bad).then(None).otherwise("content_id").alias("content_id"),
        pl.when(is_bad).then("content_id").fill_null("").alias("refused_id"),
    )


def _quarantine(items: pl.DataFrame, ledger: pl.DataFrame, now: str) -> pl.DataFrame:
    bad = items.filter(pl.col("status") == "quarantined")
    before = ledger.select("item_id", pl.col("attempts").alias("attempts_before"))
    rows = bad.join(before, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("refused_id").alias("content_id"),
        (pl.col("attempts_before").fill_null(0) + 1).alias("attempts"),
        pl.lit(now).alias("last_seen"),
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in QUARANTINE_SCHEMA.items())


def _check_servers(items: pl.DataFrame, max_fraction: float) -> None:
    """Raise `StoreUnavailable` where the web servers of too many pictures do not answer."""
    unavailable = items.filter("is_unavailable")
    if len(unavailable) > min(max_fraction, MAX_UNAVAILABLE_FRACTION) * len(items):
        item_id, reason = unavailable.select("item_id", "reason").row(0)
        raise StoreUnavailable(
            f"{len(unavailable)} of {len(items)} pictures cannot be fetched now, for example {item_id}: {reason}. "
            "Production stays as it is; check their servers, then try again"
        )


def _check_rejects(quarantine: pl.DataFrame, n_rows: int, max_fraction: float) -> None:
    n_bad = len(quarantine)
    if n_bad <= max_fraction * n_rows:
        return
    first = "; ".join(f"{item_id}: {reason}" for item_id, reason in quarantine.select("item_id", "reason").rows()[:3])
    raise TooManyRejects(
        f"{n_bad} of {n_rows} pictures ({n_bad / n_rows:.1%}) cannot be used, more than ingest.max_reject_fraction "
        f"{max_fraction:.1%} allows: {first}{'; …' if n_bad > 3 else ''}. Repair them or raise the fraction"
    )


def _with_splits(items: pl.DataFrame, earlier: pl.DataFrame | None, config: IngestConfig) -> pl.DataFrame:
    """Fill every null split, with the same split for all such rows of a product.

    In this order, a product gets the split that the source gives its other rows, the split that it had before, or one
    drawn by hash. If rows of the same rank disagree it gets "train": a picture that a model may have seen cannot test
    the model.
    """
    items = items.with_columns(product_unit().alias("unit"))
    open_items = items.filter(pl.col("split").is_null())
    claims = [items.filter(pl.col("split").is_not_null()).select("unit", "split", rank=pl.lit(0))]
    if earlier is not None:
        before = earlier.with_columns(product_unit().alias("unit"))
        same_item = open_items.select("item_id", "unit").join(before.select("item_id", "split"), on="item_id")
        claims.append(same_item.select("unit", "split", rank=pl.lit(1)))
        claims.append(before.select("unit", "split", rank=pl.lit(2)))
    settled = (
        pl.concat(claims)
        .filter(pl.col("rank") == pl.col("rank").min().over("unit"))
        .group_by("unit")
        .agg(pl.when(pl.col("split").n_unique() == 1).then(pl.col("split").first()).otherwise(pl.lit("train")))
    )
    units = open_items.select("unit").unique(maintain_order=True).join(settled, on="unit", how="left")
    share = min(config.n_holdout / len(items), MAX_HOLDOUT_SHARE)
    splits = [_draw(unit, share, config.seed) if split is None else split for unit, split in units.rows()]
    filled = units.select("unit", pl.Series("unit_split", splits, pl.String))
    joined = items.join(filled, on="unit", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("split", "unit_split").alias("split"))


def _draw(unit: str, share: float, seed: int) -> str:
    return "query" if xxhash.xxh3_64_intdigest(f"{seed}/{unit}".encode()) < share * 2**64 else "train"
