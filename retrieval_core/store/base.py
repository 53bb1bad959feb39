"""The interface of a store: whole objects by key, in a local folder or under `s3://bucket/prefix`.

Both kinds promise that a write is complete or absent, and that of several writers exactly one is told it was first. The
modules `local` and `s3` say how each keeps the promise.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retrieval_core.errors import Permanent

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+@-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")


class UriStat(NamedTuple):
    """A file's size and version, known without reading it.

    `version` is the modification time in ns or the S3 ETag; it changes whenever the bytes do.
    """

    size_bytes: int
    version: str


class Entry(NamedTuple):
    """An object as a listing shows it; `modified_s` is the time of its last write, in seconds since 1970."""

    key: str
    size_bytes: int
    modified_s: float


class Store(ABC):
    """Whole objects by key, in a folder or on S3.

    A key is relative: names of letters, digits and `._=+@-` joined by `/`, each starting with a letter, a digit or `_`;
    any other key raises `Permanent`. Reading an absent object raises `NotFound`, a refused write `StoreNotWritable`.
    Either may raise `StoreUnavailable`, the only error worth a retry.
    """

    url: str

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the whole object."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object, replacing any other; a reader sees the old or the new bytes, never a mixture."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; return False, having changed nothing, if it is."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Store a local file without reading it into memory, replacing any other object.

        Raises `NotFound` if there is no such file.
        """

    @abstractmethod
    def compare_and_swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace `expected` (None: no object) by `data`; return False, having changed nothing, if it is not there.

        Safe against concurrent `compare_and_swap` and `put_if_absent`; never use plain `put` on such a key.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether the object exists."""

    @abstractmethod
    def size_bytes(self, key: str) -> int:
        """Return the object's size."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all objects whose key starts with `prefix` ("" for all), in byte order of keys, page by page."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys of `entries(prefix)`."""
        return (entry.key for entry in self.entries(prefix))

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; do nothing if it is absent."""

    @abstractmethod
    def local_path(self, key: str, sha256: str | None = None) -> Path:
        """Return a local file that holds the object, to be read or mapped but never written; siblings share a folder.

        With `sha256` (hex), meant for immutable objects, the bytes are checked once per process; a mismatch raises
        `ShardCorrupt`. A remote object is downloaded once; without `sha256` the copy is reused while the store still
        has the same version.
        """

    def _address_of(self, key: str) -> str:
        """Return the address of an object, for messages."""
        return f"{self.url}/{key}"


def is_key(name: str) -> bool:
    """Return whether an object can have that name; other files in a store's folder or bucket are ignored."""
    return _KEY.fullmatch(name) is not None


def checked_key(key: str) -> str:
    """Return the key. Raises `Permanent` if it is not a valid one."""
    if not is_key(key):
        raise Permanent(
            f"{key!r} is not a store key; expected names of letters, digits and ._=+@- joined by '/', "
            "each starting with a letter, a digit or _"
        )
    return key


def check_prefix(prefix: str) -> None:
    """Raise `Permanent` unless a key can start with `prefix`."""
    if not _PREFIX.fullmatch(prefix):
        raise Permanent(f"{prefix!r} cannot start a store key; expected names of letters, digits, ._=+@- joined by '/'")
