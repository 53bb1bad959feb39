"""Storage: one object for a local folder and for `s3://bucket/prefix`; nothing else in Vitrine touches either.

A write is whole or absent, on both, and both settle who was first: `store_local` and `store_s3` say how.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retrieval_core.errors import BadConfig, Permanent

ENDPOINT_VARIABLE = "VITRINE_S3_ENDPOINT_URL"
ENDPOINT_EXPECTED = (
    f"the S3 endpoint must read http(s)://host[:port] (see {ENDPOINT_VARIABLE}); "
    "keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+@-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class UriStat(NamedTuple):
    """What a listing knows of a file without reading it; `version` (mtime in ns, or ETag) changes when the bytes do."""

    size_bytes: int
    version: str


class Entry(NamedTuple):
    """An object as a listing shows it; `modified_s` is when it was last written, in seconds since 1970."""

    key: str
    size_bytes: int
    modified_s: float


class Store(ABC):
    """Whole objects by key, on a folder or on S3.

    A key is relative: names of letters, digits and `._=+@-` joined by `/`, each starting with a letter, a digit or `_`;
    any other raises `Permanent`. Reads raise `NotFound` for an absent object, writes `StoreNotWritable`; both raise
    `StoreUnavailable`, the one error worth a retry.
    """

    url: str

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object, replacing what was there; a reader sees the old or the new one, never a mixture."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object where none is; False, and nothing changed, where there was one."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Store a local file, replacing what was there, without reading it into memory. `NotFound` without the file."""

    @abstractmethod
    def compare_and_swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace `expected` (None: no object) by `data`; False, and nothing changed, where something else is stored.

        Safe against other `compare_and_swap` and `put_if_absent` calls; a key moved this way is never plainly `put`.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def size_bytes(self, key: str) -> int:
        """The object's size."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects that start with `prefix` ("" for all), in byte order of their keys, fetched page by page."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys of `entries`."""
        return (entry.key for entry in self.entries(prefix))

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    @abstractmethod
    def local_path(self, key: str, sha256: str | None = None) -> Path:
        """A local file with the object's bytes, to be mapped or read, never written; siblings share a folder.

        With `sha256` (hex), for immutable objects, the bytes are checked once per process: `ShardCorrupt`. A remote
        object is downloaded once; without `sha256` the copy is used as long as the store still has the same version.
        """

    def _at(self, key: str) -> str:
        return f"{self.url}/{key}"


# What follows imports the two kinds of store where they are used: both stand on this module.


def open_store(
    url: str, *, s3_endpoint_url: str | None = None, cache_dir: Path | None = None, cache_bytes: int = 0
) -> Store:
    """The store at a folder's path or `s3://bucket/prefix`; nothing is created or contacted before the first use.

    The S3 endpoint is the argument, else `VITRINE_S3_ENDPOINT_URL`, else what boto3 finds (`AWS_ENDPOINT_URL`, AWS).
    `cache_dir` holds local copies of S3 objects, about `cache_bytes` of them (0: no bound). Raises `BadConfig` for
    another scheme, a bad bucket or a bad endpoint.
    """
    from retrieval_core.store_local import LocalStore
    from retrieval_core.store_s3 import S3Store

    if not url:
        raise BadConfig("the store's address is empty; expected a folder or s3://bucket/prefix")
    address = _split_s3(url)
    if address is None:
        return LocalStore(Path(url))
    bucket, prefix = address
    place = (bucket, prefix.strip("/"), _endpoint_url(s3_endpoint_url))
    return S3Store(*place, cache_dir or default_cache_dir(), cache_bytes)


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a local file, read without loading it whole. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_cache_dir() -> Path:
    """Where local copies of S3 objects go if nothing else is said: `vitrine` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"


def read_uri(uri: str) -> bytes:
    """The bytes of a local path or of `s3://bucket/key`, at the endpoint that `VITRINE_S3_ENDPOINT_URL` names.

    Raises `NotFound` (also for what is no regular file), `Permanent` where reading is forbidden, `StoreUnavailable`,
    and `BadConfig` for another scheme.
    """
    from retrieval_core import store_local, store_s3

    address = _split_s3(uri)
    if address is None:
        return store_local.read_file(uri)
    return store_s3.read_object(_endpoint_url(None), *address)


def stat_uri(uri: str) -> UriStat:
    """Size and version of a local path or of `s3://bucket/key`; errors as for `read_uri`."""
    from retrieval_core import store_local, store_s3

    address = _split_s3(uri)
    if address is None:
        return store_local.stat_file(uri)
    return store_s3.stat_object(_endpoint_url(None), *address)


def list_uris(folder_uri: str) -> Iterator[tuple[str, UriStat]]:
    """The files under a folder at any depth, in byte order of their URIs; linked folders are followed, loops are not.

    `folder_uri` is a local path or `s3://bucket/folder`. Raises `NotFound` where a local folder is absent (an S3 folder
    without objects is merely empty), and otherwise as `read_uri`.
    """
    from retrieval_core import store_local, store_s3

    address = _split_s3(folder_uri)
    if address is None:
        yield from store_local.list_files(folder_uri)
        return
    bucket, folder = address[0], address[1].rstrip("/")
    for name, found in store_s3.list_objects(_endpoint_url(None), bucket, f"{folder}/" if folder else ""):
        if not name.endswith("/"):  # consoles mark folders by empty objects
            yield f"s3://{bucket}/{name}", found


# Keys and addresses


def is_key(name: str) -> bool:
    """Whether an object of a store can have that name; other files in its folder or bucket are not its own."""
    return _KEY.fullmatch(name) is not None


def checked_key(key: str) -> str:
    """The key itself. Raises `Permanent` for what is none."""
    if not is_key(key):
        raise Permanent(
            f"{key!r} is not a store key; expected names of letters, digits and ._=+@- joined by '/', "
            "each starting with a letter, a digit or _"
        )
    return key


def check_prefix(prefix: str) -> None:
    """Raises `Permanent` for what no key can start with."""
    if not _PREFIX.fullmatch(prefix):
        raise Permanent(f"{prefix!r} cannot start a store key; expected names of letters, digits, ._=+@- joined by '/'")


def _split_s3(uri: str) -> tuple[str, str] | None:
    """(bucket, key) of an s3:// address, None for a local path. A message never repeats what may hold a password."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return None
    if scheme[1] != "s3":
        raise BadConfig(f"{scheme[1]}:// is not supported; expected a local path or s3://bucket/…")
    bucket, _, key = uri[scheme.end() :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        if "@" in uri or ":" in bucket:
            raise BadConfig(
                "what follows s3:// is not a bucket name; expected s3://bucket/… without user and password, "
                "which belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        raise BadConfig(f"{bucket!r} is not a bucket name; expected s3://bucket/…")
    return bucket, key


def _endpoint_url(given: str | None) -> str | None:
    url = given or os.environ.get(ENDPOINT_VARIABLE) or None
    if url is not None and ("@" in url or not url.startswith(("http://", "https://"))):
        raise BadConfig(ENDPOINT_EXPECTED)
    return url
