"""Find the pictures that have not changed since a snapshot read them, with as few requests as their servers allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts import mapped_rows
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, VERSION_SCHEMA
from retrieval_core.artifacts.mapped_rows import (
    KeyIndex,
    batches_at,
    beside,
    first_with_key,
    in_batches,
    mapped,
    rows_at,
    rows_or_null,
)
from retrieval_core.errors import BadConfig, NotFound, Permanent, StoreUnavailable
from retrieval_core.ingest.reading import (
    MAX_FILE_BYTES,
    PICTURE_COLUMNS,
    READ_COLUMNS,
    fault,
    has_remote,
    in_threads,
    tells_version,
)
from retrieval_core.ingest.versions import PictureVersion
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import stat_uri

PREVIOUS_COLUMNS = ["item_id", *PICTURE_COLUMNS, *READ_COLUMNS, "size_bytes", "version", "status"]  # of a snapshot


class _Picture(NamedTuple):
    """A picture of the source; what its source tells of its file; and its size and version when it was last read."""

    image_uri: str
    mask_uri: str | None
    size_bytes: int | None
    version: str | None
    row_version: str | None
    known_size_bytes: int | None
    known_version: str | None


class _Stat(NamedTuple):
    size_bytes: int | None = None
    version: str | None = None
    reason: str | None = None
    is_unavailable: bool = False
    is_unchanged: bool = False  # since it was last read


_STAT_SCHEMA = {
    "size_bytes": pl.Int64,
    "version": pl.String,
    "reason": pl.String,
    "is_unavailable": pl.Boolean,
    "is_unchanged": pl.Boolean,
}


def with_previous_readings(
    items: pl.DataFrame, previous: pl.DataFrame | None, is_kept: Callable[[pl.Series], pl.Series] | None = None
) -> pl.DataFrame:
    """Return the items with what is known of their pictures without reading them, mapped.

    Adds size_bytes and version, null where only reading tells them; the reason for which a picture cannot be read, and
    whether that is_unavailable; row_version; and the `READ_COLUMNS` that the `previous` snapshot read of that version,
    null where the picture may have changed or its content id is not `is_kept`; and status, null. A picture that
    several items show is asked for once.
    """
    given = items.select(
        *PICTURE_COLUMNS,
        *(
            (pl.col(name) if name in items.columns else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in VERSION_SCHEMA.items()
        ),
    )
    known, waits = _KnownPictures(previous), has_remote(items)
    first = first_with_key(items.select(PICTURE_COLUMNS))
    order = np.argsort(first, kind="stable")  # items with one picture follow each other
    batches = (rows_at(given, rows) for rows in _whole_groups(order, first[order]))
    told = mapped(_told(batch, known, waits, is_kept) for batch in batches)
    if not np.array_equal(order, first):
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        told = mapped(batches_at(told, place))
    return beside(items.drop(*VERSION_SCHEMA, strict=False), told)


def _whole_groups(order: Int64, groups: Int64) -> Iterator[Int64]:
    """Yield the rows in batches that divide none of the groups, whose numbers ascend; an empty one without rows."""
    rows = mapped_rows.BATCH_ROWS
    starts = np.append(np.flatnonzero(np.diff(groups, prepend=-1)), len(groups))
    ends = starts[np.searchsorted(starts, np.arange(rows, len(groups), rows))]
    yield from np.split(order, np.unique(ends[ends < len(groups)]))


def _told(
    items: pl.DataFrame, known: _KnownPictures, waits: bool, is_kept: Callable[[pl.Series], pl.Series] | None
) -> pl.DataFrame:
    """Return the columns that `with_previous_readings` adds to some items, all that show their pictures."""
    pictures = known.added_to(
        items.group_by(PICTURE_COLUMNS, maintain_order=True).agg(
            pl.first("size_bytes", "version"), pl.col("row_version").drop_nulls().unique().sort().str.join("|")
        )
    )
    answers = in_threads(lambda picture: _stat(_Picture(*picture)), pictures.select(*_Picture._fields).rows(), waits)
    stats = pl.DataFrame(list(answers), schema=_STAT_SCHEMA, orient="row")
    told = pictures.select(*PICTURE_COLUMNS, "row_version", *READ_COLUMNS).hstack(stats)
    is_sure = pl.col("is_unchanged")
    if is_kept is not None:
        is_sure &= pl.lit(pl.Series(is_kept(told["content_id"])))
    told = told.with_columns(pl.when(is_sure).then(pl.col(READ_COLUMNS)), status=pl.lit(None, pl.String))
    shown = items.select(PICTURE_COLUMNS)
    joined = shown.join(told, PICTURE_COLUMNS, how="left", nulls_equal=True, maintain_order="left")
    return joined.drop(*PICTURE_COLUMNS, "is_unchanged")


class _KnownPictures:
    """The pictures that an earlier snapshot has in good state, each once, with its size and version."""

    def __init__(self, previous: pl.DataFrame | None) -> None:
        items = pl.DataFrame(schema=CATALOG_SCHEMA) if previous is None else previous
        names = {"known_size_bytes": "size_bytes", "known_version": "version"}
        good = pl.col("status") == "ok", pl.col("version").is_not_null()
        pictures = mapped(
            batch.filter(*good).select(*PICTURE_COLUMNS, *READ_COLUMNS, **names) for batch in in_batches(items)
        )
        self._index, self._readings = KeyIndex(pictures.select(PICTURE_COLUMNS)), pictures.drop(PICTURE_COLUMNS)

    def added_to(self, pictures: pl.DataFrame) -> pl.DataFrame:
        """Return the pictures with their `READ_COLUMNS`, known_size_bytes and known_version, null where unknown."""
        return pictures.hstack(rows_or_null(self._readings, self._index.first(pictures.select(PICTURE_COLUMNS))))


def _stat(picture: _Picture) -> _Stat:
    """Return the size and version of a picture; null where only reading it tells them, in the same request."""
    has_mask, row = picture.mask_uri is not None, picture.row_version or ""
    known = PictureVersion.parse(picture.known_version, has_mask) if picture.known_version is not None else None
    if known and row and known.row == row:
        return _Stat(picture.known_size_bytes, picture.known_version, is_unchanged=True)
    if tells_version(picture.image_uri) and picture.version is None and not (known and known.file):
        return _Stat()
    try:
        stat = _file_stat(picture, known)
        version = PictureVersion.of(stat, _mask_stat(picture.mask_uri), has_mask, row)
    except BadConfig:
        raise
    except (Permanent, StoreUnavailable) as error:
        reason, is_unavailable = fault(picture.image_uri, picture.mask_uri, error)
        return _Stat(reason=reason, is_unavailable=is_unavailable)
    if stat.size_bytes > MAX_FILE_BYTES:
        return _Stat(stat.size_bytes, reason=f"file of {stat.size_bytes} bytes is more than {MAX_FILE_BYTES}")
    is_same_file = known is not None and known[:2] == version[:2] and version.file != ""
    if is_same_file and stat.size_bytes == picture.known_size_bytes:
        return _Stat(stat.size_bytes, version.as_text(), is_unchanged=True)
    return _Stat(stat.size_bytes, version._replace(fresh_until_s=0).as_text())  # reading it tells until when


def _file_stat(picture: _Picture, known: PictureVersion | None) -> UriStat:
    if picture.version is not None:
        return UriStat(picture.size_bytes or 0, picture.version)
    if known is None:
        return stat_uri(picture.image_uri)
    return stat_uri(picture.image_uri, UriStat(picture.known_size_bytes or 0, known.file, known.fresh_until_s))


def _mask_stat(mask_uri: str | None) -> UriStat | None:
    """Return the size and version of a mask, None where there is none."""
    try:
        return stat_uri(mask_uri) if mask_uri is not None else None
    except NotFound:
        return None
