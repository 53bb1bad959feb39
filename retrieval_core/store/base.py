"""Storage: one object for a local folder and for `s3://bucket/prefix`; nothing else in Vitrine touches either.

A write is whole or absent, on both, and both settle who was first: `store_local` and `store_s3` say how.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retrieval_core.errors import Permanent

ENDPOINT_VARIABLE = "VITRINE_S3_ENDPOINT_URL"
ENDPOINT_EXPECTED = (
    f"the S3 endpoint must read http(s)://host[:port] (see {ENDPOINT_VARIABLE}); "
    "keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+@-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")


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


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a local file, read without loading it whole. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
