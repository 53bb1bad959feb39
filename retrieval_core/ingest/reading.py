"""Read the pictures of a source: fetch, check and decode each once, and keep its bytes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import polars as pl

from retrieval_core import images
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA
from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import PictureWriter
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import BadConfig, ImageRefused, NotFound, Permanent, StoreUnavailable
from retrieval_core.ingest.versions import PictureVersion
from retrieval_core.picture_files.formats import suffix_of
from retrieval_core.store.base import UriStat, span_of
from retrieval_core.store.traffic import counting
from retrieval_core.store.uris import fetch_uri, is_http, is_remote, read_uri, stat_uri

PICTURE_COLUMNS = ["image_uri", "mask_uri"]  # items in which both are equal show one picture, which is read once
READ_COLUMNS = ("content_id", "mask_id", "height", "width")  # known only after a picture was read
MAX_FILE_BYTES = 2**30  # files are read into memory whole; a larger one is not a catalogue picture
MAX_FETCHED_BYTES = 10**8  # of a picture on S3 or a web server, which can send without end
REMOTE_THREADS = 32  # more than cores, because they wait for the network
LOCAL_CHUNK = 16  # pictures that a thread reads at a time
CHUNKS_AHEAD = 2  # a thread, which bounds the bytes in memory

T = TypeVar("T")
R = TypeVar("R")


class Reading(NamedTuple):
    """What reading a picture told; `read_reason` says why it cannot be used.

    `size_bytes` and `version` are those of the answer of a web server or S3, and null where `stat_uri` told them.
    `is_unavailable` is true if the picture's web server did not answer.
    """

    content_id: str | None = None
    mask_id: str | None = None
    height: int | None = None
    width: int | None = None
    read_reason: str | None = None
    size_bytes: int | None = None
    version: str | None = None
    is_unavailable: bool = False


_TYPES = CATALOG_SCHEMA | {"read_reason": pl.String(), "is_unavailable": pl.Boolean()}
READING_SCHEMA: dict[str, pl.DataType] = {name: _TYPES[name] for name in ("item_id", *Reading._fields)}


def read_pictures(
    items: pl.DataFrame,
    config: IngestConfig,
    writer: PictureWriter | None = None,
    on_picture: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """Read the pictures of items that `plan_snapshot` planned; return their readings (`READING_SCHEMA`).

    A picture that several items show is read once. The bytes that the config keeps are given to the `writer`, in the
    order of the items. Where it bounds pictures, a larger one is the smaller JPEG from here on: its content id and size
    in pixels are those of the JPEG. `on_picture` is called with the number of pictures that were read. Raises
    `StoreUnavailable` where S3 does not answer.
    """
    readings: list[Reading] = []
    pictures = items.unique(PICTURE_COLUMNS, keep="first", maintain_order=True).select(*PICTURE_COLUMNS, "row_version")

    def read(picture: tuple[str, str | None, str | None]) -> tuple[Reading, bytes]:
        return _read(*picture, config)

    for reading, data in in_threads(read, pictures.rows(), has_remote(items)):
        readings.append(reading)
        if writer and reading.content_id and data:
            writer.add(reading.content_id, data, suffix_of(data))
        if on_picture:
            on_picture(len(readings))
    schema = {name: READING_SCHEMA[name] for name in Reading._fields}
    frame = pl.concat([pictures, pl.DataFrame(readings, schema=schema, orient="row")], how="horizontal")
    shown = items.select("item_id", *PICTURE_COLUMNS)
    return shown.join(frame, PICTURE_COLUMNS, nulls_equal=True, maintain_order="left").select(*READING_SCHEMA)


def _read(image_uri: str, mask_uri: str | None, row_version: str | None, config: IngestConfig) -> tuple[Reading, bytes]:
    """Return what reading a picture told, and the bytes to keep, b"" for none."""
    try:
        data, stat, content_type = _read_file(image_uri)
        mask_id, mask_stat = _read_mask(mask_uri) if mask_uri else (None, None)
    except BadConfig:
        raise
    except (Permanent, StoreUnavailable) as error:
        reason, is_unavailable = fault(image_uri, mask_uri, error)
        return Reading(read_reason=reason, is_unavailable=is_unavailable), b""
    version = PictureVersion.of(stat, mask_stat, bool(mask_uri), row_version or "").as_text() if stat else None
    size_bytes = len(data)
    try:
        if config.keep == "bounded":
            data, (height, width) = _bounded(data, config)
        else:
            height, width = images.check(data, max_pixels=config.max_pixels)
    except ImageRefused as error:
        note = f"; the server calls it {content_type}" if content_type else ""
        return Reading(content_id(data), None, None, None, f"{error}{note}", size_bytes, version), b""
    reading = Reading(content_id(data), mask_id, height, width, None, size_bytes, version)
    return reading, b"" if config.keep == "none" else data


def _bounded(data: bytes, config: IngestConfig) -> tuple[bytes, tuple[int, int]]:
    """Return a picture, as a smaller JPEG if a side is too long, and its height and width."""
    pixels = images.decode(data, max_pixels=config.max_pixels)
    if max(pixels.shape) > config.keep_px:
        pixels = images.shrink(pixels, config.keep_px)
        data = images.thumbnail(pixels, config.keep_px, config.keep_quality)
    return data, pixels.shape[:2]


def _read_file(uri: str) -> tuple[bytes, UriStat | None, str]:
    """Return a file's bytes and, where reading tells them, its size and version, and what a web server calls it."""
    return fetch_uri(uri, MAX_FETCHED_BYTES) if tells_version(uri) else (read_uri(uri), None, "")


def tells_version(uri: str) -> bool:
    """Return whether reading a file tells its version: of a whole file on S3 or a web server, not of a part of one."""
    return is_remote(uri) and span_of(uri) is None


def _read_mask(uri: str) -> tuple[str | None, UriStat | None]:
    """Return the content id of a mask and, on S3 or a web server, its size and version; None where it is missing."""
    try:
        data, stat, _ = _read_file(uri)
    except NotFound:
        return None, None
    return content_id(data), stat or stat_uri(uri)


def fault(image_uri: str, mask_uri: str | None, error: Permanent | StoreUnavailable) -> tuple[str, bool]:
    """Return the reason for the quarantine of a picture that cannot be read, and whether its server did not answer.

    Raises the error for an outage of S3, which holds the whole catalogue.
    """
    if isinstance(error, NotFound):
        return "file is missing", False
    is_outage = isinstance(error, StoreUnavailable)
    if is_outage and not is_http(image_uri) and not is_http(mask_uri or ""):
        raise error
    return f"cannot be read: {error}", is_outage


def has_remote(items: pl.DataFrame) -> bool:
    """Return whether a picture of these items is fetched over the network."""
    return any(map(is_remote, items["image_uri"]))


def in_threads(function: Callable[[T], R], values: Sequence[T], waits: bool) -> Iterator[R]:
    """Yield the results in order, computed a few chunks ahead; after an error, start no further chunk."""
    counted = counting(lambda chunk: [function(value) for value in chunk])
    threads, rows = (REMOTE_THREADS, 1) if waits else (os.cpu_count() or 1, LOCAL_CHUNK)
    pending: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(values), rows):
                chunk = values[start : start + rows]
                pending.append(pool.submit(counted, chunk))
                if len(pending) >= CHUNKS_AHEAD * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
