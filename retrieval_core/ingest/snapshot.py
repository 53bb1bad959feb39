"""The catalogue snapshot: what the source's pictures hold tonight, read only where something changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import polars as pl
import xxhash

from retrieval_core import images
from retrieval_core.artifacts.catalog_rows import (
    CATALOG_SCHEMA,
    COMPARED_COLUMNS,
    QUARANTINE_SCHEMA,
    product_unit,
    row_id,
)
from retrieval_core.artifacts.manifests import content_id
from retrieval_core.config import IngestConfig
from retrieval_core.errors import (
    BadConfig,
    CatalogInvalid,
    ImageRefused,
    NotFound,
    Permanent,
    SourceMissing,
    TooManyRejects,
)
from retrieval_core.store.uris import read_uri, stat_uri

# A picture read before under these values need not be read again.
SEEN_BY = ("image_uri", "mask_uri", "size_bytes", "version")

MAX_FILE_BYTES = 2**30  # a larger file is no picture of a catalogue; it would be read into memory whole
MAX_HOLDOUT_SHARE = 1 / 3
S3_THREADS = 32  # they wait for the network, not for a core
CHUNK = 32
FINGERPRINT_CHUNK = 100_000

T = TypeVar("T")
R = TypeVar("R")


class Snapshot(NamedTuple):
    """`items`: `CATALOG_SCHEMA`, ordered by item_id, split filled; content_id, mask_id, height and width null where
    status is "quarantined". `quarantine`: the fields of `artifacts.Reject`, one row for each of those.
    `n_read`: pictures whose bytes were read for this snapshot.
    """

    items: pl.DataFrame
    quarantine: pl.DataFrame
    n_read: int


class _Stat(NamedTuple):
    size_bytes: int | None = None
    version: str | None = None
    reason: str | None = None


class _Reading(NamedTuple):
    content_id: str | None = None
    mask_id: str | None = None
    height: int | None = None
    width: int | None = None
    read_reason: str | None = None


def take_snapshot(
    rows: pl.DataFrame,
    previous: Snapshot | None,
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Snapshot of a source's `rows` (`SOURCE_SCHEMA`), reading and decoding the pictures `previous` does not know.

    A picture is known when it was good before and its URI, size and version (mtime or ETag; those of its mask too) are
    the same. One that cannot be read or decoded is quarantined and tried again every time, its attempts counted. A mask
    that cannot be read leaves mask_id null. `now` is the ISO time for the ledger; `progress` is told (done, to read).

    Raises `TooManyRejects` above `config.max_reject_fraction`, `CatalogInvalid` when two ids share a row_id, and
    `StoreUnavailable`: an outage says nothing about a picture.
    """
    return _settle(_look(rows, previous, config, now, progress), previous, config)


def update_snapshot(
    last: Snapshot,
    rows: pl.DataFrame,
    ids: Collection[str],
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """The `last` snapshot with the items `ids` as the source's `rows` now have them; no other picture is looked at.

    Items that the rows lack are taken out. Where nothing but these items changed it equals `take_snapshot` of the rows,
    except that quarantined items not named are not tried again. Raises what `take_snapshot` raises, and `SourceMissing`
    when no item is left.
    """
    is_named = pl.col("item_id").is_in(list(ids))
    looked = _look(rows.filter(is_named), last, config, now, progress)
    # A split that was filled in gives way to what the source says of a product's other rows, as on any night.
    given = rows.filter(pl.col("split").is_not_null())["item_id"]
    kept = last.items.filter(~is_named).with_columns(pl.when(pl.col("item_id").is_in(given.implode())).then("split"))
    items = pl.concat([kept, looked.items]).sort("item_id")
    if items.is_empty():
        raise SourceMissing(f"without the {len(ids)} items named the catalogue would be empty; run the night instead")
    _check_row_ids(items)
    quarantine = pl.concat([last.quarantine.filter(~is_named), looked.quarantine]).sort("item_id")
    return _settle(Snapshot(items, quarantine, looked.n_read), last, config)


def unseen_pictures(rows: pl.DataFrame, seen: pl.DataFrame | None) -> pl.DataFrame:
    """The `rows` of a source whose pictures a snapshot would read, given the items `seen` before; none is opened."""
    return _compare(rows, seen).filter(_IS_UNSEEN)


def catalog_fingerprint(items: pl.DataFrame) -> str:
    """32 hex digits of what the items say (`COMPARED_COLUMNS`); the order of rows, sizes and times do not count."""
    digest = hashlib.sha256()
    statements = items.select(COMPARED_COLUMNS).sort("item_id")
    for chunk in statements.iter_slices(FINGERPRINT_CHUNK):
        digest.update(chunk.write_ndjson().encode())
    return digest.hexdigest()[:32]


_READ_COLUMNS = ("content_id", "mask_id", "height", "width")
_IS_UNSEEN = pl.col("content_id").is_null() & pl.col("reason").is_null()


def _compare(items: pl.DataFrame, seen: pl.DataFrame | None) -> pl.DataFrame:
    """The items with their stat, and with what reading them told where it was done under the same stat before."""
    items = pl.concat([items, _stat_pictures(items)], how="horizontal")
    if seen is None:
        return items.with_columns(pl.lit(None, CATALOG_SCHEMA[name]).alias(name) for name in _READ_COLUMNS)
    return items.join(_seen(seen), on=SEEN_BY, how="left", nulls_equal=True, maintain_order="left")


def _look(
    rows: pl.DataFrame,
    previous: Snapshot | None,
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None,
) -> Snapshot:
    """What these rows' pictures hold; splits are as the source gave them. Raises `CatalogInvalid`."""
    numbers = pl.Series("row_id", [row_id(item_id) for item_id in rows["item_id"]], pl.Int64)
    ordered = rows.with_columns(numbers).sort("item_id")
    _check_row_ids(ordered)
    items = _compare(ordered, previous.items if previous is not None else None)
    unseen = items.filter(_IS_UNSEEN)
    items = _with_readings(items, _read_pictures(unseen, config.max_pixels, progress))
    return Snapshot(items.select(*CATALOG_SCHEMA), _quarantine(items, previous, now), len(unseen))


def _settle(looked: Snapshot, previous: Snapshot | None, config: IngestConfig) -> Snapshot:
    """The snapshot with its splits filled. Raises `TooManyRejects`."""
    _check_rejects(looked.quarantine, len(looked.items), config.max_reject_fraction)
    return looked._replace(items=_with_splits(looked.items, previous, config).select(*CATALOG_SCHEMA))


def _check_row_ids(items: pl.DataFrame) -> None:
    same = items.filter(pl.col("row_id").is_duplicated()).sort("row_id")
    if len(same):
        first, second = same["item_id"][:2]
        raise CatalogInvalid(f"item_ids {first!r} and {second!r} share row_id {same['row_id'][0]}; rename one of them")


def _stat_pictures(items: pl.DataFrame) -> pl.DataFrame:
    pictures = items.select("image_uri", "mask_uri").rows()
    stats = list(_in_threads(lambda picture: _stat(picture[0], picture[1]), pictures, _n_threads(items)))
    schema = {"size_bytes": pl.Int64, "version": pl.String, "reason": pl.String}
    return pl.DataFrame(stats, schema=schema, orient="row")


def _stat(image_uri: str, mask_uri: str | None) -> _Stat:
    try:
        found = stat_uri(image_uri)
    except BadConfig:
        raise
    except Permanent as error:
        return _Stat(reason=_unreadable(error))
    if found.size_bytes > MAX_FILE_BYTES:
        return _Stat(found.size_bytes, reason=f"file of {found.size_bytes} bytes is more than {MAX_FILE_BYTES}")
    return _Stat(found.size_bytes, found.version + (f"+{_mask_version(mask_uri)}" if mask_uri else ""))


def _mask_version(mask_uri: str) -> str:
    try:
        found = stat_uri(mask_uri)
    except NotFound:
        return "none"
    return f"{found.size_bytes}-{found.version}"


def _unreadable(error: Permanent) -> str:
    return "file is missing" if isinstance(error, NotFound) else f"cannot be read: {error}"


def _seen(items: pl.DataFrame) -> pl.DataFrame:
    """What reading a picture told, by what it was seen by."""
    good = items.filter(pl.col("status") == "ok")
    return good.select(*SEEN_BY, *_READ_COLUMNS).unique(subset=SEEN_BY, keep="first", maintain_order=True)


def _read_pictures(unseen: pl.DataFrame, max_pixels: int, progress: Callable[[int, int], None] | None) -> pl.DataFrame:
    """item_id and the fields of `_Reading`, for each of the unseen items."""
    readings: list[_Reading] = []
    pictures = unseen.select("image_uri", "mask_uri").rows()
    for reading in _in_threads(lambda picture: _read(picture[0], picture[1], max_pixels), pictures, _n_threads(unseen)):
        readings.append(reading)
        if progress is not None:
            progress(len(readings), len(pictures))
    schema = {name: CATALOG_SCHEMA[name] for name in _READ_COLUMNS} | {"read_reason": pl.String()}
    return pl.concat([unseen.select("item_id"), pl.DataFrame(readings, schema=schema, orient="row")], how="horizontal")


def _read(image_uri: str, mask_uri: str | None, max_pixels: int) -> _Reading:
    try:
        data = read_uri(image_uri)
    except BadConfig:
        raise
    except Permanent as error:
        return _Reading(read_reason=_unreadable(error))
    name = content_id(data)
    try:
        height, width = images.decode(data, max_pixels=max_pixels).shape[:2]
    except ImageRefused as error:
        return _Reading(name, read_reason=str(error))
    return _Reading(name, _mask_id(mask_uri), height, width)


def _mask_id(mask_uri: str | None) -> str | None:
    if mask_uri is None:
        return None
    try:
        return content_id(read_uri(mask_uri))
    except NotFound:
        return None


def _with_readings(items: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """The items with what was read filled in and their status; `refused_id` is the content of a refused picture."""
    joined = items.join(readings, on="item_id", how="left", suffix="_read", maintain_order="left")
    filled = joined.with_columns(
        pl.coalesce("reason", "read_reason").alias("reason"),
        *(pl.coalesce(name, f"{name}_read").alias(name) for name in _READ_COLUMNS),
    )
    is_bad = pl.col("reason").is_not_null()
    return filled.with_columns(
        pl.when(is_bad).then(pl.lit("quarantined")).otherwise(pl.lit("ok")).alias("status"),
        pl.when(is_bad).then(None).otherwise("content_id").alias("content_id"),
        pl.when(is_bad).then("content_id").fill_null("").alias("refused_id"),
    )


def _quarantine(items: pl.DataFrame, previous: Snapshot | None, now: str) -> pl.DataFrame:
    bad = items.filter(pl.col("status") == "quarantined")
    ledger = previous.quarantine if previous is not None else pl.DataFrame(schema=QUARANTINE_SCHEMA)
    before = ledger.select("item_id", pl.col("attempts").alias("attempts_before"))
    rows = bad.join(before, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("refused_id").alias("content_id"),
        (pl.col("attempts_before").fill_null(0) + 1).alias("attempts"),
        pl.lit(now).alias("last_seen"),
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in QUARANTINE_SCHEMA.items())


def _check_rejects(quarantine: pl.DataFrame, n_rows: int, max_fraction: float) -> None:
    n_bad = len(quarantine)
    if n_bad <= max_fraction * n_rows:
        return
    first = "; ".join(f"{item_id}: {reason}" for item_id, reason in quarantine.select("item_id", "reason").rows()[:3])
    raise TooManyRejects(
        f"{n_bad} of {n_rows} pictures ({n_bad / n_rows:.1%}) cannot be used, more than ingest.max_reject_fraction "
        f"{max_fraction:.1%} allows: {first}{'; …' if n_bad > 3 else ''}. Repair them or raise the fraction"
    )


def _with_splits(items: pl.DataFrame, previous: Snapshot | None, config: IngestConfig) -> pl.DataFrame:
    """The items with every null split filled, one split for all of a product's filled rows.

    A product takes, in this order, the split its other rows were given by the source, the split it had before, or a
    draw by hash. Where these disagree it is "train": what a model may have seen cannot test it.
    """
    items = items.with_columns(product_unit().alias("unit"))
    open_items = items.filter(pl.col("split").is_null())
    claims = [items.filter(pl.col("split").is_not_null()).select("unit", "split", rank=pl.lit(0))]
    if previous is not None:
        before = previous.items.with_columns(product_unit().alias("unit"))
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
    drawn = [_draw(unit, share, config.seed) if split is None else split for unit, split in units.rows()]
    filled = units.select("unit", pl.Series("unit_split", drawn, pl.String))
    joined = items.join(filled, on="unit", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("split", "unit_split").alias("split"))


def _draw(unit: str, share: float, seed: int) -> str:
    return "query" if xxhash.xxh3_64_intdigest(f"{seed}/{unit}".encode()) < share * 2**64 else "train"


def _n_threads(items: pl.DataFrame) -> int:
    is_remote = items["image_uri"].str.starts_with("s3://").any()
    return S3_THREADS if is_remote else os.cpu_count() or 1


def _in_threads(function: Callable[[T], R], values: Sequence[T], n_threads: int) -> Iterator[R]:
    """Results in order; after the first error nothing more is started."""
    chunks = [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(lambda chunk: [function(value) for value in chunk], chunk) for chunk in chunks]
        try:
            for future in futures:
                yield from future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
