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
from retrieval_core.config import IngestConfig
from retrieval_core.errors import BadConfig, ImageRefused, NotFound, Permanent
from retrieval_core.picture_files.formats import suffix_of
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import is_http, read_uri, stat_uri

READ_COLUMNS = ("content_id", "mask_id", "height", "width")  # known only after a picture was read
MAX_FILE_BYTES = 2**30  # files are read into memory whole; a larger one is not a catalogue picture
MAX_FETCHED_BYTES = 10**8  # of a picture of a web server, which can send without end
REMOTE_THREADS = 32  # more than cores, because they wait for the network
LOCAL_CHUNK = 16  # pictures that a thread reads at a time
CHUNKS_AHEAD = 2  # a thread, which bounds the bytes in memory

T = TypeVar("T")
R = TypeVar("R")


class Reading(NamedTuple):
    """What reading a picture told; `read_reason` says why it cannot be used.

    `size_bytes` and `version` are those of a web server's answer, and null where `stat_uri` told them.
    """

    content_id: str | None = None
    mask_id: str | None = None
    height: int | None = None
    width: int | None = None
    read_reason: str | None = None
    size_bytes: int | None = None
    version: str | None = None


_TYPES = CATALOG_SCHEMA | {"read_reason": pl.String()}
READING_SCHEMA: dict[str, pl.DataType] = {name: _TYPES[name] for name in ("item_id", *Reading._fields)}


def read_pictures(
    items: pl.DataFrame,
    config: IngestConfig,
    writer: PictureWriter | None = None,
    on_picture: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """Read the pictures of items (columns item_id, image_uri, mask_uri); return their readings (`READING_SCHEMA`).

    The bytes that the config keeps are given to the `writer`, in the order of the items. Where it bounds pictures, a
    larger one is the smaller JPEG from here on: its content id and size in pixels are those of the JPEG. `on_picture`
    is called with the number of pictures that were read. Raises `StoreUnavailable`, because an outage must not
    quarantine pictures.
    """
    readings: list[Reading] = []
    pictures = items.select("image_uri", "mask_uri").rows()

    def read(picture: tuple[str, str | None]) -> tuple[Reading, bytes]:
        return _read(*picture, config)

    for reading, data in in_threads(read, pictures, is_remote(items)):
        readings.append(reading)
        if writer and reading.content_id and data:
            writer.add(reading.content_id, data, suffix_of(data))
        if on_picture:
            on_picture(len(readings))
    schema = {name: READING_SCHEMA[name] for name in Reading._fields}
    return pl.concat([items.select("item_id"), pl.DataFrame(readings, schema=schema, orient="row")], how="horizontal")


def _read(image_uri: str, mask_uri: str | None, config: IngestConfig) -> tuple[Reading, bytes]:
    """Return what reading a picture told, and the bytes to keep, b"" for none."""
    try:
        data, stat, content_type = _read_file(image_uri)
        version = version_of(stat, mask_uri) if stat else None
        mask_id = _mask_id(mask_uri)
    except BadConfig:
        raise
    except Permanent as error:
        return Reading(read_reason=unreadable(error)), b""
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
    """Return a file's bytes and, of a web server, their size and version, and what it calls them."""
    if not is_http(uri):
        return read_uri(uri), None, ""
    from retrieval_core.store.http import fetch

    return fetch(uri, max_bytes=MAX_FETCHED_BYTES)


def version_of(stat: UriStat, mask_uri: str | None) -> str | None:
    """Return the version of a picture and its mask; null where a web server tells none."""
    if mask_uri is None:
        return stat.version or None
    try:
        mask = stat_uri(mask_uri)
    except NotFound:
        return f"{stat.version}+none" if stat.version else None
    return f"{stat.version}+{mask.size_bytes}-{mask.version}" if stat.version and mask.version else None


def unreadable(error: Permanent) -> str:
    """Return the reason for the quarantine of a picture whose file cannot be read."""
    return "file is missing" if isinstance(error, NotFound) else f"cannot be read: {error}"


def _mask_id(mask_uri: str | None) -> str | None:
    if mask_uri is None:
        return None
    try:
        return content_id(read_uri(mask_uri))
    except NotFound:
        return None


def is_remote(items: pl.DataFrame) -> bool:
    """Return whether a picture of these items is fetched over the network."""
    return bool(items["image_uri"].str.contains("(?i)^(s3|https?)://").any())


def in_threads(function: Callable[[T], R], values: Sequence[T], is_remote: bool) -> Iterator[R]:
    """Yield the results in order, computed a few chunks ahead; after an error, start no further chunk."""
    threads, rows = (REMOTE_THREADS, 1) if is_remote else (os.cpu_count() or 1, LOCAL_CHUNK)
    pending: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(values), rows):
                chunk = values[start : start + rows]
                pending.append(pool.submit(lambda chunk: [function(value) for value in chunk], chunk))
                if len(pending) >= CHUNKS_AHEAD * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
