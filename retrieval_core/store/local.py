"""A store in a local folder, and the reading and writing of local files.

A write is a temporary file, fsync and a rename; who was first is settled by a hard link or a lock. Temporary files that
a killed writer left are removed by a writer of the next day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from retrieval_core.errors import NotFound, Permanent, ShardCorrupt, StoreNotWritable, StoreUnavailable
from retrieval_core.store.base import Entry, Store, UriStat, check_prefix, checked_key, file_sha256, is_key

COPY_CHUNK_BYTES = 2**20
ABANDONED_AFTER_S = 24 * 3600

# What a network mount or a busy machine says when waiting may help.
_OUTAGES = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTUNREACH, errno.ENETUNREACH,
    errno.EHOSTDOWN, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}
_WRITE_HINTS = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "this user's disk quota is used up: free space",
    errno.EROFS: "the file system is mounted read-only",
}


class LocalStore(Store):
    """A store in a folder, made by the first write; `.tmp/` and `.lock` in it are no objects."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with local_read(path):
            return path.read_bytes()

    def put(self, key: str, data: bytes) -> None:
        self._write(key, BytesIO(data), os.replace)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        try:
            self._write(key, BytesIO(data), self._place_new)
        except FileExistsError:
            return False
        return True

    def put_file(self, key: str, path: Path) -> None:
        with local_read(path):
            source = path.open("rb")
        with source:
            self._write(key, source, os.replace)

    def compare_and_swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        if expected is None:
            return self.put_if_absent(key, data)
        with self._lock():
            with suppress(NotFound):
                if self.get(key) == expected:
                    self.put(key, data)
                    return True
            return False

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with local_read(path):
            return path.is_file()

    def size_bytes(self, key: str) -> int:
        path = self._path(key)
        with local_read(path):
            return _regular_stat(path).st_size

    def entries(self, prefix: str) -> Iterator[Entry]:
        check_prefix(prefix)
        root = os.path.join(self._root, "")
        with suppress(NotFound):
            for path, found in list_files(root + prefix.rpartition("/")[0]):
                key = path.removeprefix(root)
                if key.startswith(prefix) and is_key(key):
                    yield Entry(key, found.size_bytes, int(found.version) / 1e9)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with local_write(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        path = self._path(key)
        with local_read(path):
            _regular_stat(path)
            if sha256 is not None:
                check_sha256(path, sha256, self._at(key))
        return path

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _write(self, key: str, source: BinaryIO, place: Callable[[Path, Path], None]) -> None:
        path = self._path(key)
        with local_write(path), temporary_beside(self._root) as temporary:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, COPY_CHUNK_BYTES)
            install(temporary, path, place)

    def _place_new(self, temporary: Path, path: Path) -> None:
        """Give the file its name unless the name is taken (`FileExistsError`): a hard link, unlike a rename, checks."""
        try:
            os.link(temporary, path)
        except OSError as error:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of other objects has that name", str(path)) from None
            if error.errno not in _NO_HARD_LINKS:  # exFAT and some network mounts have none
                raise
            with self._lock():
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
                os.replace(temporary, path)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._root / ".lock"
        with local_write(path):
            _make_folder(self._root)
            with path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield


# Files


@contextmanager
def local_read(path: Path | str) -> Iterator[None]:
    """Tell the errors of reading `path` in Vitrine's tree."""
    try:
        yield
    except PermissionError as error:
        raise Permanent(f"{path} may not be read by this user; change its permissions") from error
    except OSError as error:
        if error.errno in _OUTAGES:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror}; check the disk or mount") from error
        raise NotFound(f"no file {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL or a lone surrogate
        raise NotFound(f"no file {str(path)!r}: {error}") from error


@contextmanager
def local_write(path: Path) -> Iterator[None]:
    """Tell the errors of writing `path` in Vitrine's tree."""
    try:
        yield
    except FileExistsError:
        raise  # an answer to put_if_absent; every other one is told as NotADirectoryError
    except OSError as error:
        if error.errno in _OUTAGES:
            raise StoreUnavailable(f"{path} cannot be written: {error.strerror}; check the disk or mount") from error
        hint = _WRITE_HINTS.get(error.errno or 0, "its folder must be one this user may write to")
        raise StoreNotWritable(f"cannot write {path}: {error.strerror}; {hint}, or name another place") from error


@contextmanager
def temporary_beside(root: Path) -> Iterator[Path]:
    """The path of a file to be made, on the file system of `root`; removed at the end if it still has that name."""
    folder = root / ".tmp"
    _make_folder(folder)
    _remove_abandoned(folder)
    path = folder / uuid.uuid4().hex
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers left, once per process."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                path.unlink()


def install(temporary: Path, path: Path, place: Callable[[Path, Path], None]) -> None:
    """Let `place` give a finished file its name; both outlive a power failure."""
    _sync(temporary)
    _make_folder(path.parent)
    place(temporary, path)
    _sync(path.parent)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed", str(folder)) from None
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network mounts cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def read_file(path: str) -> bytes:
    """A file's bytes. Raises `NotFound` (also for what is no regular file), `Permanent` and `StoreUnavailable`."""
    with local_read(path):
        _regular_stat(path)  # a pipe would block for ever, a device would never end
        return Path(path).read_bytes()


def stat_file(path: str) -> UriStat:
    """A file's size and version; errors as for `read_file`."""
    with local_read(path):
        return _uri_stat(_regular_stat(path))


def _regular_stat(path: Path | str) -> os.stat_result:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return found


def _uri_stat(found: os.stat_result) -> UriStat:
    return UriStat(found.st_size, str(found.st_mtime_ns))


def list_files(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, UriStat]]:
    """Files at any depth ordered by their whole path, as S3 orders keys; `above` holds the folders on the way here."""
    with local_read(folder):
        here = os.stat(folder)
        with os.scandir(folder) as entries:
            present = [entry for entry in entries if not (entry.is_symlink() and _is_loop(entry))]
            ordered = sorted(present, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for entry in ordered:
        with suppress(NotFound, FileNotFoundError):  # deleted since it was listed
            if entry.is_dir():
                yield from list_files(entry.path, above | {identity})
            elif entry.is_file():
                yield entry.path, _uri_stat(entry.stat())


def _is_loop(link: os.DirEntry[str]) -> bool:
    """Whether a link leads to itself, over others or not."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def file_signature(path: Path) -> tuple[int, int, int]:
    """Inode, size and mtime in ns: what changes when a file is replaced or written to."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sha256_of(path: Path) -> str:
    return _digest(path, file_signature(path))


@lru_cache(maxsize=2**16)
def _digest(path: Path, signature: tuple[int, int, int]) -> str:
    return file_sha256(path)


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether there is such a file and these are its bytes; they are read once per process and signature."""
    with suppress(OSError):
        return _sha256_of(path) == sha256
    return False


def check_sha256(path: Path, expected: str, name: str) -> None:
    """Raises `ShardCorrupt`, which calls the object `name`, unless the file has that sha256 (hex)."""
    found = _sha256_of(path)
    if found != expected:
        raise ShardCorrupt(f"{name} has sha256 {found[:12]}…, was sealed as {expected[:12]}…; `vitrine repair`")
