"""The interface of a store: whole objects by key, in a local folder or under `s3://bucket/prefix`.

Both kinds promise that a write is complete or absent, and that of several writers exactly one is told it was first. The
modules `local` and `s3` say how each keeps the promise. `check_conditions` tries whether a server or a mount keeps it.
"""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from retrieval_core.errors import BadConfig, LeaseLost, NotFound, Permanent

CHUNK_BYTES = 1 << 20
PROBES = "runs/_probe"  # start of the keys that `check_conditions` writes and deletes; a killed check leaves one

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+@-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_SPAN = re.compile(r"(.+)#bytes=(\d{1,18})-(\d{1,18})", re.DOTALL)
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")


class UriStat(NamedTuple):
    """A file's size and version, known without reading it.

    `version` is the modification time in ns or the S3 ETag; it changes whenever the bytes do. Until `fresh_until_s`, in
    seconds since 1970, a web server lets the file count as unchanged, and the operator agrees.
    """

    size_bytes: int
    version: str
    fresh_until_s: int = 0


class Fetched(NamedTuple):
    """A file's bytes, their size and version, and what a web server calls them, such as `image/jpeg`, else ""."""

    data: bytes
    stat: UriStat
    content_type: str = ""


class Span(NamedTuple):
    """The bytes of a file from `start` on, counted from 0: `FILE#bytes=START-END`, as a picture in an archive."""

    file: str
    start: int
    n_bytes: int

    @property
    def uri(self) -> str:
        """Return the address; the byte at its END is the last."""
        return f"{self.file}#bytes={self.start}-{self.start + self.n_bytes - 1}"


def span_of(uri: str) -> Span | None:
    """Return the span that a URI names, None for one that names a whole file."""
    match = _SPAN.fullmatch(uri)
    if match is None or (n_bytes := int(match[3]) - int(match[2]) + 1) < 1:
        return None
    return Span(match[1], int(match[2]), n_bytes)


class Entry(NamedTuple):
    """An object as a listing shows it; `modified_s` is the time of its last write, in seconds since 1970."""

    key: str
    size_bytes: int
    modified_s: float


# Called before each write with its key, and whether the write decides something: a conditional write or a delete.
Guard = Callable[[str, bool], None]


class Store(ABC):
    """Whole objects by key, in a folder or on S3.

    A key is relative: names of letters, digits and `._=+@-` joined by `/`, each starting with a letter, a digit or `_`;
    any other key raises `Permanent`. Reading an absent object raises `NotFound`, a refused write `StoreNotWritable`.
    Either may raise `StoreUnavailable`, the only error worth a retry.
    """

    url: str
    has_current_format = False  # set once the format was seen to be this version's, so that it is read once
    _identity: tuple[str, ...]  # equal for every opening of the same store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the whole object."""

    @abstractmethod
    def get_range(self, key: str, start: int, n_bytes: int) -> bytes:
        """Return at most `n_bytes` (> 0) bytes of the object from byte `start` on, fewer only at its end."""

    def put(self, key: str, data: bytes) -> None:
        """Store an object, replacing any other; a reader sees the old or the new bytes, never a mixture."""
        self._check_guards(key)
        self._put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless the key is taken; return False, having changed nothing, if it is."""
        self._check_guards(key, decides=True)
        if not self._put_if_absent(key, data):
            return False

        def undo() -> None:
            with suppress(NotFound):
                if self.get(key) == data:
                    self._delete(key)

        self._confirm(key, undo)
        return True

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file without reading it into memory, replacing any other object.

        Raises `NotFound` if there is no such file.
        """
        self._check_guards(key)
        self._put_file(key, path)

    def put_chunks(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store an object in pieces without holding it in memory, replacing any other.

        Nothing is stored if the iteration over `chunks` raises.
        """
        self._check_guards(key)
        self._put_chunks(key, chunks)

    def compare_and_swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace `expected` (None: no object) by `data`; return False, having changed nothing, if it is not there.

        Safe against concurrent `compare_and_swap` and `put_if_absent`; never use plain `put` on such a key.
        """
        if expected is None:
            return self.put_if_absent(key, data)
        self._check_guards(key, decides=True)
        if not self._compare_and_swap(key, data, expected):
            return False
        self._confirm(key, lambda: self._compare_and_swap(key, expected, data))
        return True

    @abstractmethod
    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the object in pieces of at most `CHUNK_BYTES`, read from the store itself and not from a local copy."""

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

    def delete(self, key: str) -> None:
        """Remove an object; do nothing if it is absent."""
        self._check_guards(key, decides=True)
        self._delete(key)

    @abstractmethod
    def local_path(self, key: str, sha256: str | None = None) -> Path:
        """Return a local file that holds the object, to be read or mapped but never written; siblings share a folder.

        With `sha256` (hex), meant for immutable objects, the bytes are checked once per process; a mismatch raises
        `ShardCorrupt`. A remote object is downloaded once; without `sha256` the copy is reused while the store still
        has the same version.
        """

    @abstractmethod
    def _put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def _put_if_absent(self, key: str, data: bytes) -> bool: ...

    @abstractmethod
    def _put_file(self, key: str, path: Path) -> None: ...

    @abstractmethod
    def _put_chunks(self, key: str, chunks: Iterable[bytes]) -> None: ...

    @abstractmethod
    def _compare_and_swap(self, key: str, data: bytes, expected: bytes) -> bool: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _ignored_conditions(self, key: str) -> tuple[str, ...]:
        """Write to an unused key on conditions that do not hold; return those that did not prevent it."""

    def _check_guards(self, key: str, *, decides: bool = False) -> None:
        for guard in tuple(_GUARDS[self]):
            guard(key, decides)

    def _confirm(self, key: str, undo: Callable[[], object]) -> None:
        """Check again after a write: the process may have been suspended between the check and the write."""
        try:
            self._check_guards(key, decides=True)
        except LeaseLost:
            undo()
            raise

    def _address_of(self, key: str) -> str:
        """Return the address of an object, for messages."""
        return f"{self.url}/{key}"


_GUARDS: defaultdict[Store, list[Guard]] = defaultdict(list)


@contextmanager
def guarded(store: Store, guard: Guard) -> Iterator[None]:
    """Call `guard` before each write of this process to a store, however it was opened; it raises to prevent it."""
    _GUARDS[store].append(guard)
    try:
        yield
    finally:
        _GUARDS[store].remove(guard)


@lru_cache(maxsize=256)
def check_conditions(store: Store) -> None:
    """Check once per process that a store refuses a write whose condition does not hold.

    Raises `BadConfig`, which names the conditions that it ignores, `StoreNotWritable` and `StoreUnavailable`.
    """
    key = f"{PROBES}-{uuid.uuid4().hex}"  # several processes may check at once
    try:
        ignored = store._ignored_conditions(key)
    finally:
        store.delete(key)
    if ignored:
        raise BadConfig(
            f"{store.url} ignores {' and '.join(ignored)}: of several writers each would be told that it was first, "
            "and runs would overwrite each other's work; use a store that honours such conditions, as AWS and Ceph do"
        )


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
