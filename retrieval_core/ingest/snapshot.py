"""Take a snapshot of a catalogue: one row per item, reading only the pictures that are new or changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
import xxhash

from retrieval_core.arrays import Int64, UInt8, UInt64
from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    COMPARED_COLUMNS,
    QUARANTINE_SCHEMA,
    SPLITS,
    product_unit,
    row_ids,
)
from retrieval_core.artifacts.mapped_rows import (
    KeyIndex,
    beside,
    in_batches,
    mapped,
    rows_or_null,
    sorted_by,
    unique_by,
)
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import CatalogInvalid, SourceMissing, StoreUnavailable, TooManyRejects
from retrieval_core.ingest.reading import READ_COLUMNS, read_pictures
from retrieval_core.ingest.unchanged import with_previous_readings

MAX_UNAVAILABLE_FRACTION = 0.5  # of the pictures, which then are not bad: the source is down
SPLIT_COLUMNS = ["item_id", "product_id", "split"]  # what keeps the split of an item
MAX_HOLDOUT_SHARE = 1 / 3
NO_SPLIT = 255

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
    ordered = sorted_by(rows, "item_id")
    ordered = beside(ordered, row_ids(ordered["item_id"]).to_frame())
    _check_row_ids(ordered)
    return with_previous_readings(ordered, previous, is_kept)


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


def unread_rows(planned: pl.DataFrame) -> Int64:
    """Return the positions of the planned items whose pictures have to be read."""
    is_unread = (batch.select(_IS_UNREAD).to_series().to_numpy() for batch in in_batches(planned))
    return np.flatnonzero(np.concatenate([*is_unread]))


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
    ledger = previous.quarantine if previous is not None else pl.DataFrame(schema=QUARANTINE_SCHEMA)
    read, split_of = KeyIndex(readings.select("item_id")), _Splits(planned, splits, config)
    bad: list[pl.DataFrame] = []
    kept = [ledger.clear()]
    n_tried = 0

    def completed(batch: pl.DataFrame) -> pl.DataFrame:
        nonlocal n_tried
        is_settled = pl.col("status").is_not_null()
        settled, tried = batch.filter(is_settled), batch.filter(~is_settled)
        items = _with_readings(tried, rows_or_null(readings, read.first(tried.select("item_id"))))
        n_tried += len(items)
        bad.append(items.filter(status="quarantined"))
        kept.append(ledger.join(settled, on="item_id", how="semi"))
        both = pl.concat([settled.select(*CATALOG_SCHEMA), items.select(*CATALOG_SCHEMA)]).sort("item_id")
        return both.with_columns(split_of(both))

    items = mapped(map(completed, in_batches(planned)))
    refused = pl.concat(bad)
    _check_servers(refused, n_tried, config.max_reject_fraction)
    quarantine = pl.concat([*kept, _quarantine(refused, ledger, now)]).sort("item_id")
    _check_rejects(quarantine, len(items), config.max_reject_fraction)
    return Snapshot(items, quarantine, len(readings))


def earlier_splits(previous: Snapshot | None, published: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return the split of each item (`SPLIT_COLUMNS`) in the items of `published`, else in the `previous` snapshot.

    The previous snapshot may be of a broken source that was never published.
    """
    earlier = [table for table in (published, previous.items if previous else None) if table is not None]
    if not earlier:
        return None
    return unique_by(pl.concat([table.select(SPLIT_COLUMNS) for table in earlier]), "item_id")


def catalog_fingerprint(items: pl.DataFrame) -> str:
    """Return 32 hex digits of the SHA-256 of the items' `COMPARED_COLUMNS`, whatever the order of the rows."""
    return digest(in_batches(sorted_by(items.select(COMPARED_COLUMNS), "item_id")))


def digest(batches: Iterable[pl.DataFrame]) -> str:
    """Return 32 hex digits of the SHA-256 of a table as JSON Lines, given its rows in batches."""
    sha256 = hashlib.sha256()
    for batch in batches:
        sha256.update(batch.write_ndjson().encode())
    return sha256.hexdigest()[:32]


def _check_row_ids(items: pl.DataFrame) -> None:
    ascending = np.sort(items["row_id"].to_numpy())
    shared = ascending[1:][ascending[1:] == ascending[:-1]]
    if len(shared):
        first, second = items.filter(row_id=int(shared[0]))["item_id"][:2]
        raise CatalogInvalid(f"item_ids {first!r} and {second!r} share row_id {shared[0]}; rename one of them")


def _with_readings(items: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """Fill in the reading of each item, and its status; `refused_id` is the content_id of a quarantined picture."""
    joined = items.hstack(readings.drop("item_id").rename(lambda name: f"{name}_read"))
    filled = joined.with_columns(
        pl.coalesce("reason", "read_reason_read").alias("reason"),
        pl.any_horizontal("is_unavailable", "is_unavailable_read").alias("is_unavailable"),
        *(pl.coalesce(f"{name}_read", name).alias(name) for name in (*READ_COLUMNS, "size_bytes", "version")),
    )
    is_bad = pl.col("reason").is_not_null()
    return filled.with_columns(
        pl.when(is_bad).then(pl.lit("quarantined")).otherwise(pl.lit("ok")).alias("status"),
        pl.when(is_bad).then(None).otherwise("content_id").alias("content_id"),
        pl.when(is_bad).then("content_id").fill_null("").alias("refused_id"),
    )


def _quarantine(bad: pl.DataFrame, ledger: pl.DataFrame, now: str) -> pl.DataFrame:
    before = ledger.select("item_id", pl.col("attempts").alias("attempts_before"))
    rows = bad.join(before, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("refused_id").alias("content_id"),
        (pl.col("attempts_before").fill_null(0) + 1).alias("attempts"),
        pl.lit(now).alias("last_seen"),
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in QUARANTINE_SCHEMA.items())


def _check_servers(refused: pl.DataFrame, n_items: int, max_fraction: float) -> None:
    """Raise `StoreUnavailable` where the web servers of too many pictures do not answer."""
    unavailable = refused.filter("is_unavailable")
    if len(unavailable) > min(max_fraction, MAX_UNAVAILABLE_FRACTION) * n_items:
        item_id, reason = unavailable.select("item_id", "reason").row(0)
        raise StoreUnavailable(
            f"{len(unavailable)} of {n_items} pictures cannot be fetched now, for example {item_id}: {reason}. "
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


class _Splits:
    """The split of each item of a catalogue: of all rows of a product for which the source gives none, the same.

    In this order, a product gets the split that the source gives its other rows, the split that it had before, or one
    drawn by hash. If rows of the same rank disagree it gets "train": a picture that a model may have seen cannot test
    the model. A product is known by the hash of its name.
    """

    def __init__(self, items: pl.DataFrame, earlier: pl.DataFrame | None, config: IngestConfig) -> None:
        self._share, self._seed = min(config.n_holdout / len(items), MAX_HOLDOUT_SHARE), config.seed
        units, given = _units(items), _codes(items)
        self._units, self._codes = _agreed(units, given)
        if earlier is None:
            return
        units_before, before = _units(earlier), _codes(earlier)
        at = KeyIndex(earlier.select("item_id")).first(items.select("item_id"))
        is_same = (given == NO_SPLIT) & (at >= 0)
        for claims in ((units[is_same], before[at[is_same]]), (units_before, before)):
            self._add(*_agreed(*claims))

    def _add(self, units: UInt64, codes: UInt8) -> None:
        """Add the splits of products that have none yet."""
        is_new = ~np.isin(units, self._units)
        units, codes = np.append(self._units, units[is_new]), np.append(self._codes, codes[is_new])
        order = np.argsort(units)
        self._units, self._codes = units[order], codes[order]

    def __call__(self, items: pl.DataFrame) -> pl.Series:
        """Return the split of each of some items."""
        units = _units(items)
        at = np.searchsorted(self._units, units)
        codes = np.append(self._codes, np.uint8(NO_SPLIT))[at]
        codes[np.append(self._units, np.uint64(0))[at] != units] = NO_SPLIT
        known = pl.Series(codes).replace_strict(range(len(SPLITS)), SPLITS, default=None, return_dtype=pl.String)
        filled = items.select(split=pl.coalesce("split", known), unit=product_unit())
        names = filled.filter(pl.col("split").is_null())["unit"].unique()
        draws = pl.Series([_draw(name, self._share, self._seed) for name in names], dtype=pl.String)
        drawn = pl.col("unit").replace_strict(names, draws, default=None, return_dtype=pl.String)
        return filled.select(split=pl.coalesce("split", drawn)).to_series()


def _units(items: pl.DataFrame) -> UInt64:
    """Return the hash of what each item's pictures belong to, (n,)."""
    return np.concatenate([batch.select(product_unit().hash()).to_series().to_numpy() for batch in in_batches(items)])


def _codes(items: pl.DataFrame) -> UInt8:
    """Return the position in `SPLITS` of each item's split, (n,), `NO_SPLIT` where it has none."""
    codes = pl.col("split").replace_strict(SPLITS, range(len(SPLITS)), default=NO_SPLIT, return_dtype=pl.UInt8)
    return np.concatenate([batch.select(codes).to_series().to_numpy() for batch in in_batches(items)])


def _agreed(units: UInt64, codes: UInt8) -> tuple[UInt64, UInt8]:
    """Return each unit that has a split, ascending, and the code of the split that its rows agree on, else "train"."""
    has_split = codes != NO_SPLIT
    units, codes = units[has_split], codes[has_split]
    order = np.argsort(units)
    units, codes = units[order], codes[order]
    starts = np.flatnonzero(np.r_[True, units[1:] != units[:-1]][: len(units)])
    if not len(starts):
        return units, codes
    low, high = np.minimum.reduceat(codes, starts), np.maximum.reduceat(codes, starts)
    return units[starts], np.where(low == high, low, np.uint8(SPLITS.index("train")))


def _draw(unit: str, share: float, seed: int) -> str:
    return "query" if xxhash.xxh3_64_intdigest(f"{seed}/{unit}".encode()) < share * 2**64 else "train"
