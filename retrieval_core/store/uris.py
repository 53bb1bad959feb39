"""Addresses: opens a store by its folder or `s3://bucket/prefix`, and reads any file or folder by its URI.

The module `http` is imported where an address needs it, because its library takes a tenth of a second.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.store import files, s3
from retrieval_core.store.base import Fetched, Store, UriStat, span_of
from retrieval_core.store.local import LocalStore

STAT_LIFETIME_S = 60.0  # of what is known of a remote file of which many parts are read

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def open_store(
    url: str, *, s3_endpoint_url: str | None = None, cache_dir: Path | None = None, cache_bytes: int = 0
) -> Store:
    """Return the store at a folder's path or `s3://bucket/prefix`; nothing is created or contacted before its use.

    The S3 endpoint is the argument, else `VITRINE_S3_ENDPOINT_URL`, else boto3's own (`AWS_ENDPOINT_URL`, AWS).
    `cache_dir` holds local copies of S3 objects, about `cache_bytes` of them (0: no bound). Raises `BadConfig` for
    another scheme, a bad bucket or a bad endpoint.
    """
    if not url:
        raise BadConfig("the store's address is empty; expected a folder or s3://bucket/prefix")
    address = _split_s3(url)
    if address is None:
        return LocalStore(Path(url))
    bucket, prefix = address
    endpoint_url = _endpoint_url(s3_endpoint_url)
    return s3.S3Store(bucket, prefix.strip("/"), endpoint_url, cache_dir or default_cache_dir(), cache_bytes)


def default_cache_dir() -> Path:
    """Return the default folder for local copies of S3 objects: `vitrine` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"


def read_uri(uri: str, n_bytes: int = -1, accepts_gzip: bool = False) -> bytes:
    """Return the first `n_bytes` bytes of a local path, `s3://bucket/key` or an http(s) address, -1 for all.

    The address of a file may name a part of it, `FILE#bytes=START-END`.

    The endpoint of S3 is that of `VITRINE_S3_ENDPOINT_URL`. A web server may send the bytes packed if `accepts_gzip`.

    Raises `NotFound` (also for anything but a regular file), `Permanent` if reading is forbidden, `StoreUnavailable`,
    and `BadConfig` for another scheme.
    """
    file, start, n_bytes = _bounds(uri, n_bytes)
    if is_http(uri):
        from retrieval_core.store import http

        data = http.fetch(file, n_bytes, accepts_gzip=accepts_gzip, start=start).data
    elif (address := _split_s3(file)) is None:
        data = files.read_file(file, n_bytes, start)
    else:
        data = s3.read_object(_endpoint_url(None), *address, n_bytes, start).data
    _check_part(uri, len(data), n_bytes)
    return data


def _bounds(uri: str, n_bytes: int) -> tuple[str, int, int]:
    """Return the file that a URI names, where to start in it, and how many bytes to read, -1 for all."""
    span = span_of(uri)
    if span is None:
        return uri, 0, n_bytes
    return span.file, span.start, span.n_bytes if n_bytes < 0 else min(n_bytes, span.n_bytes)


def _check_part(uri: str, n_read: int, n_bytes: int) -> None:
    """Raise `NotFound` where a URI names a part of a file of which fewer bytes than expected were read."""
    if (span := span_of(uri)) and n_read < n_bytes:
        raise NotFound(f"{label_of(span.file)} ends before its part at {span.start:,}; it was replaced by another file")


def fetch_uri(uri: str, max_bytes: int) -> Fetched:
    """Return the bytes of a whole file on S3 or a web server, or of the part named, with its version, in one request.

    Raises as `read_uri` does, and `Permanent` for more than `max_bytes` bytes.
    """
    file, start, n_bytes = _bounds(uri, -1)
    if is_http(file):
        from retrieval_core.store import http

        fetched = http.fetch(file, n_bytes, max_bytes=max_bytes, start=start)
    elif address := _split_s3(file):
        fetched = s3.read_object(_endpoint_url(None), *address, n_bytes, start, max_bytes=max_bytes)
    else:
        raise BadConfig(f"{uri} is a local path; expected s3://bucket/key or an http(s) address")
    _check_part(uri, len(fetched.data), n_bytes)
    return fetched


def stat_uri(uri: str, known: UriStat | None = None) -> UriStat:
    """Return the size and version of a local path, `s3://bucket/key` or an http(s) address. Raises as `read_uri` does.

    `known` is what it was before. A web server may not tell a size, which is then that of `known` if the version is the
    same, else 0; and no version, which is then "".
    """
    if span := span_of(uri):
        minute = int(time.monotonic() / STAT_LIFETIME_S) if "://" in uri else time.monotonic_ns()
        return UriStat(span.n_bytes, _stat_container(span.file, minute).version)
    if is_http(uri):
        from retrieval_core.store import http

        return http.stat(uri, known)
    address = _split_s3(uri)
    return files.stat_file(uri) if address is None else s3.stat_object(_endpoint_url(None), *address, known)


@lru_cache(maxsize=4096)
def _stat_container(file: str, minute: int) -> UriStat:
    """Return the size and version of a file, asked for once a minute: thousands of pictures may be parts of it."""
    return stat_uri(file)


def list_uris(
    folder_uri: str, is_passed_over: Callable[[str], bool] = lambda uri: False
) -> Iterator[tuple[str, UriStat]]:
    """Yield the files under a folder at any depth, in byte order of their URIs; linked folders are followed, loops not.

    `folder_uri` is a local path or `s3://bucket/folder`. A local folder that may not be read is yielded itself, with a
    slash at its end, if `is_passed_over` says so of that URI. Raises `NotFound` for an absent local folder (an S3
    folder without objects is merely empty), and otherwise as `read_uri` does.
    """
    if is_http(folder_uri):
        raise BadConfig("a web server does not list its files; expected a table of their addresses: table:https://…")
    address = _split_s3(folder_uri)
    if address is None:
        yield from files.list_files(folder_uri, is_passed_over)
        return
    bucket, folder = address[0], address[1].rstrip("/")
    for name, stat in s3.list_objects(_endpoint_url(None), bucket, f"{folder}/" if folder else ""):
        if not name.endswith("/"):  # consoles mark folders by empty objects
            yield f"s3://{bucket}/{name}", stat


def is_remote(uri: str) -> bool:
    """Return whether a URI is an address on S3 or a web server, rather than a local path."""
    return _SCHEME.match(uri) is not None


def is_http(uri: str) -> bool:
    """Return whether a URI is an http(s):// address."""
    return _HTTP.match(uri) is not None


def folder_of(uri: str) -> str:
    """Return the address of the folder that a file lies in, without a slash at its end."""
    path = uri.partition("?")[0] if is_http(uri) else uri
    return path.rpartition("/")[0]


def label_of(uri: str) -> str:
    """Return a URI for a message: without user, password and query, which may hold a token."""
    return re.sub("//.*@", "//", uri.partition("?")[0]) if "://" in uri else uri


def _split_s3(uri: str) -> tuple[str, str] | None:
    """Return (bucket, key) of an s3:// address, None for a local path. No message repeats a possible password."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return None
    if scheme[1] != "s3":
        raise BadConfig(
            f"{scheme[1]}:// is not supported; expected a local path, s3://bucket/… or, of a file, https://…"
        )
    bucket, _, key = uri[scheme.end() :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        if "@" in uri or ":" in bucket:
            raise BadConfig(
                "what follows s3:// is not a bucket name; expected s3://bucket/… without user and password, "
                "which belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        raise BadConfig(f"{bucket!r} is not a bucket name; expected s3://bucket/…")
    return bucket, key


def _endpoint_url(argument: str | None) -> str | None:
    url = argument or os.environ.get(s3.ENDPOINT_VARIABLE) or None
    if url is not None and ("@" in url or not url.startswith(("http://", "https://"))):
        raise BadConfig(s3.ENDPOINT_EXPECTED)
    return url
