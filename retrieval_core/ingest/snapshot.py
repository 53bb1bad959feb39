"""Take a snapshot of a catalogue: one row per item, reading only the pictures that are new or changed."""

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
    row_ids,
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
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import is_http, read_uri, stat_uri

VERSION_COLUMNS = ("image_uri", "mask_uri", "size_bytes", "version")  # a picture is not reread while these stay equal
SPLIT_COLUMNS = ["item_id", "product_id", "split"]  # what keeps the split of an item
READ_COLUMNS = ("content_id", "mask_id", "height", "width")  # known only after a picture was read

MAX_FILE_BYTES = 2**30  # files are read into memory whole; a larger one is not a catalogue picture
MAX_HOLDOUT_SHARE = 1 / 3
MAX_FETCHED_BYTES = 10**8  # of a picture of a web server, which can send without end
REMOTE_THREADS = 32  # more than cores, because they wait for the network
CHUNK_PICTURES = 32  # read by a thread at a time
FINGERPRINT_ROWS = 100_000  # serialised at a time

_IS_UNREAD = pl.col("content_id").is_null() & pl.col("reason").is_null()

T = TypeVar("T")
R = TypeVar("R")


class Snapshot(NamedTuple):
    """The items of a catalogue, those of them in quarantine, and how many pictures were read for it.

    `items` has `CATALOG_SCHEMA`, is sorted by item_id and has no null split; content_id, mask_id, height and width are
    null where status is "quarantined". `quarantine` has `QUARANTINE_SCHEMA`, and one row for each of those items.
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
    size_bytes: int | None = None
    version: str | None = None  # null where `stat_uri` told it


def take_snapshot(
    rows: pl.DataFrame,
    previous: Snapshot | None,
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None = None,
    published: pl.DataFrame | None = None,
) -> Snapshot:
    """Take a snapshot of a source's `rows` (`SOURCE_SCHEMA`); read and decode the pictures that are new or changed.

    A picture is unchanged when `previous` has it in good state with the same URI, size and version (mtime or ETag; its
    mask's too); one of a web server that tells no version is read each time. A picture that cannot be read or decoded
    is quarantined; every snapshot tries it again and counts the attempt. A missing mask leaves mask_id null. `now` is
    the ISO time for the ledger; `progress` gets the number of pictures read and to read. A split that the source leaves
    open stays as in the items of `published`, else as in `previous`, which may be of a broken source that was never
    published.

    Raises `TooManyRejects` above `config.max_reject_fraction`, `CatalogInvalid` when two ids share a row_id, and
    `StoreUnavailable`, because an outage must not quarantine pictures.
    """
    earlier = [table for table in (published, previous.items if previous else None) if table is not None]
    splits = [table.select(SPLIT_COLUMNS) for table in earlier]
    before = pl.concat(splits).unique("item_id", keep="first", maintain_order=True) if splits else None
    return _fill_splits(_read_rows(rows, previous, config, now, progress), before, config)


def update_snapshot(
    last: Snapshot,
    rows: pl.DataFrame,
    ids: Collection[str],
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Return the `last` snapshot with the items `ids` as in the source's current `rows`; read no other picture.

    Items that the rows lack are removed. When only these items changed, the result equals `take_snapshot` of the rows,
    except that other quarantined items are not tried again. Raises what `take_snapshot` raises, and `SourceMissing`
    when no item is left.
    """
    is_named = pl.col("item_id").is_in(list(ids))
    update = _read_rows(rows.filter(is_named), last, config, now, progress)
    # Forget the splits that a snapshot filled in: the source may now give one for another row of the product.
    given = rows.filter(pl.col("split").is_not_null())["item_id"]
    kept = last.items.filter(~is_named).with_columns(pl.when(pl.col("item_id").is_in(given.implode())).then("split"))
    items = pl.concat([kept, update.items]).sort("item_id")
    if items.is_empty():
        raise SourceMissing(f"without the {len(ids)} items named the catalogue would be empty; run the nightly instead")
    _check_row_ids(items)
    quarantine = pl.concat([last.quarantine.filter(~is_named), update.quarantine]).sort("item_id")
    return _fill_splits(Snapshot(items, quarantine, update.n_read), last.items, config)


def unread_pictures(rows: pl.DataFrame, previous: pl.DataFrame | None) -> pl.DataFrame:
    """Return the `rows` whose pictures a snapshot would read, given the items of the `previous` one; read none."""
    return _with_previous_readings(rows, previous).filter(_IS_UNREAD)


def catalog_fingerprint(items: pl.DataFrame) -> str:
    """Return 32 hex digits of the SHA-256 of the items' `COMPARED_COLUMNS`, whatever the order of the rows."""
    digest = hashlib.sha256()
    ordered = items.select(COMPARED_COLUMNS).sort("item_id")
    for chunk in ordered.iter_slices(FINGERPRINT_ROWS):
        digest.update(chunk.write_ndjson().encode())
    return digest.hexdigest()[:32]


def _with_previous_readings(items: pl.DataFrame, previous: pl.DataFrame | None) -> pl.DataFrame:
    """Add each picture's size and version, and the `READ_COLUMNS` that a previous snapshot read from that version."""
    if previous is None:
        previous = pl.DataFrame(schema=CATALOG_SCHEMA)
    has_version = pl.col("version").is_not_null()
    good = previous.filter(pl.col("status") == "ok", has_version).select(*VERSION_COLUMNS, *READ_COLUMNS)
    items = pl.concat([items, _stat_pictures(items, good)], how="horizontal")
    readings = good.unique(subset=VERSION_COLUMNS, keep="first", maintain_order=True)
    return items.join(readings, on=VERSION_COLUMNS, how="left", nulls_equal=True, maintain_order="left")


def _read_rows(
    rows: pl.DataFrame,
    previous: Snapshot | None,
    config: IngestConfig,
    now: str,
    progress: Callable[[int, int], None] | None,
) -> Snapshot:
    """Take a snapshot of these rows whose splits are still the source's. Raises `CatalogInvalid`."""
    ordered = rows.with_columns(row_ids(rows["item_id"])).sort("item_id")
    _check_row_ids(ordered)
    items = _with_previous_readings(ordered, previous.items if previous is not None else None)
    unread = items.filter(_IS_UNREAD)
    items = _with_readings(items, _read_pictures(unread, config.max_pixels, progress))
    return Snapshot(items.select(*CATALOG_SCHEMA), _quarantine(items, previous, now), len(unread))


def _fill_splits(snapshot: Snapshot, before: pl.DataFrame | None, config: IngestConfig) -> Snapshot:
    """Fill the null splits of a snapshot. Raises `TooManyRejects`."""
    _check_rejects(snapshot.quarantine, len(snapshot.items), config.max_reject_fraction)
    return snapshot._replace(items=_with_splits(snapshot.items, before, config).select(*CATALOG_SCHEMA))


def _check_row_ids(items: pl.DataFrame) -> None:
    shared = items.filter(pl.col("row_id").is_duplicated()).sort("row_id")
    if len(shared):
        first, second = shared["item_id"][:2]
        raise CatalogInvalid(
            f"item_ids {first!r} and {second!r} share row_id {shared['row_id'][0]}; rename one of them"
        )


def _stat_pictures(items: pl.DataFrame, good: pl.DataFrame) -> pl.DataFrame:
    """Return the size and version of each picture; null for one of a web server that is not among the `good`."""
    fetched = good.filter(pl.col("image_uri").str.contains("(?i)^https?://")).select(VERSION_COLUMNS)
    known = {(image_uri, mask_uri): UriStat(*stat) for image_uri, mask_uri, *stat in fetched.rows()}
    pictures = items.select("image_uri", "mask_uri").rows()
    stats = list(
        _in_threads(lambda picture: _stat(picture[0], picture[1], known.get(picture)), pictures, _n_threads(items))
    )
    schema = {"size_bytes": pl.Int64, "version": pl.String, "reason": pl.String}
    return pl.DataFrame(stats, schema=schema, orient="row")


def _stat(image_uri: str, mask_uri: str | None, known: UriStat | None) -> _Stat:
    if known is None and is_http(image_uri):
        return _Stat()  # reading it tells its size and version in the same request
    if known is not None and mask_uri:
        known = known._replace(version=known.version.rpartition("+")[0])
    try:
        stat = stat_uri(image_uri, known)
        version = _version(stat, mask_uri)
    except BadConfig:
        raise
    except Permanent as error:
        return _Stat(reason=_unreadable(error))
    if stat.size_bytes > MAX_FILE_BYTES:
        return _Stat(stat.size_bytes, reason=f"file of {stat.size_bytes} bytes is more than {MAX_FILE_BYTES}")
    return _Stat(stat.size_bytes, version)


def _version(stat: UriStat, mask_uri: str | None) -> str | None:
    """Return the version of a picture and its mask; null where a web server tells none."""
    if mask_uri is None:
        return stat.version or None
    try:
        mask = stat_uri(mask_uri)
    except NotFound:
        return f"{stat.version}+none" if stat.version else None
    return f"{stat.version}+{mask.size_bytes}-{mask.version}" if stat.version and mask.version else None


def _unreadable(error: Permanent) -> str:
    return "file is missing" if isinstance(error, NotFound) else f"cannot be read: {error}"


def _read_pictures(unread: pl.DataFrame, max_pixels: int, progress: Callable[[int, int], None] | None) -> pl.DataFrame:
    """Read the pictures of these items; return their item_id and the fields of `_Reading`."""
    readings: list[_Reading] = []
    pictures = unread.select("image_uri", "mask_uri").rows()
    for reading in _in_threads(lambda picture: _read(picture[0], picture[1], max_pixels), pictures, _n_threads(unread)):
        readings.append(reading)
        if progress is not None:
            progress(len(readings), len(pictures))
    types = CATALOG_SCHEMA | {"read_reason": pl.String()}
    schema = {name: types[name] for name in _Reading._fields}
    return pl.concat([unread.select("item_id"), pl.DataFrame(readings, schema=schema, orient="row")], how="horizontal")


def _read(image_uri: str, mask_uri: str | None, max_pixels: int) -> _Reading:
    try:
        data, stat, content_type = _read_file(image_uri)
        version = _version(stat, mask_uri) if stat else None
        mask_id = _mask_id(mask_uri)
    except BadConfig:
        raise
    except Permanent as error:
        return _Reading(read_reason=_unreadable(error))
    name, size_bytes = content_id(data), len(data)
    try:
        height, width = images.decode(data, max_pixels=max_pixels).shape[:2]
    except ImageRefused as error:
        note = f"; the server calls it {content_type}" if content_type else ""
        return _Reading(name, None, None, None, f"{error}{note}", size_bytes, version)
    return _Reading(name, mask_id, height, width, None, size_bytes, version)


def _read_file(uri: str) -> tuple[bytes, UriStat | None, str]:
    """Return a file's bytes and, of a web server, their size and version, and what it calls them."""
    if not is_http(uri):
        return read_uri(uri), None, ""
    from retrieval_core.store.http import fetch

    return fetch(uri, max_bytes=MAX_FETCHED_BYTES)


def _mask_id(mask_uri: str | None) -> str | None:
    if mask_uri is None:
        return None
    try:
        return content_id(read_uri(mask_uri))
    except NotFound:
        return None


def _with_readings(items: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """Fill in the readings and the status of each item; `refused_id` is the content_id of a quarantined picture."""
    joined = items.join(readings, on="item_id", how="left", suffix="_read", maintain_order="left")
    filled = joined.with_columns(
        pl.coalesce("reason", "read_reason").alias("reason"),
        *(pl.coalesce(f"{name}_read", name).alias(name) for name in (*READ_COLUMNS, "size_bytes", "version")),
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


def _n_threads(items: pl.DataFrame) -> int:
    is_remote = items["image_uri"].str.contains("(?i)^(s3|https?)://").any()
    return REMOTE_THREADS if is_remote else os.cpu_count() or 1


def _in_threads(function: Callable[[T], R], values: Sequence[T], n_threads: int) -> Iterator[R]:
    """Yield the results in order; after an error, start no further chunk."""
    chunks = [values[start : start + CHUNK_PICTURES] for start in range(0, len(values), CHUNK_PICTURES)]
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(lambda chunk: [function(value) for value in chunk], chunk) for chunk in chunks]
        try:
            for future in futures:
                yield from future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
