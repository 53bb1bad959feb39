"""Local files, read and written safely: atomic and durable writes, checksums, and errors in Vitrine's tree."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from retrieval_core.errors import NotFound, Permanent, ShardCorrupt, StoreNotWritable, StoreUnavailable
from retrieval_core.store.base import UriStat

ABANDONED_AFTER_S = 24 * 3600

# Errors of a network mount or a busy machine that may pass.
_OUTAGES = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EHOSTUNREACH, errno.ENETUNREACH,
    errno.EHOSTDOWN, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_WRITE_HINTS = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "this user's disk quota is used up: free space",
    errno.EROFS: "the file system is mounted read-only",
}


# Errors


@contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Translate the errors of reading `path` to `NotFound`, `Permanent` or `StoreUnavailable`."""
    try:
        yield
    except PermissionError as error:
        raise Permanent(f"{path} may not be read by this user; change its permissions") from error
    except OSError as error:
        if error.errno in _OUTAGES:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror}; check the disk or mount") from error
        raise NotFound(f"no file {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise NotFound(f"no file {str(path)!r}: {error}") from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Translate the errors of writing `path` to `StoreNotWritable` or `StoreUnavailable`."""
    try:
        yield
    except FileExistsError:
        raise  # means that `put_if_absent` lost; every other one is raised as NotADirectoryError
    except OSError as error:
        if error.errno in _OUTAGES:
            raise StoreUnavailable(f"{path} cannot be written: {error.strerror}; check the disk or mount") from error
        hint = _WRITE_HINTS.get(error.errno or 0, "its folder must be one this user may write to")
        raise StoreNotWritable(f"cannot write {path}: {error.strerror}; {hint}, or name another place") from error


# Writing


@contextmanager
def temporary_file(root: Path) -> Iterator[Path]:
    """Yield an unused path on the file system of `root`; a file that still has it at the end is removed."""
    folder = root / ".tmp"
    make_folder(folder)
    _remove_abandoned(folder)
    path = folder / uuid.uuid4().hex
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _remove_abandoned(folder: Path) -> None:
    """Remove the files of killed writers, once per process."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                path.unlink()


def install(temporary: Path, path: Path, move: Callable[[Path, Path], None]) -> None:
    """Sync a finished file and `move` it to `path`, so that both its bytes and its name survive a power failure."""
    _sync(temporary)
    make_folder(path.parent)
    move(temporary, path)
    _sync(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file durably, if it exists. Raises `OSError`."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()
        _sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably. Raises `OSError`."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
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


# Reading


def read_file(path: str, n_bytes: int = -1, start: int = 0) -> bytes:
    """Return `n_bytes` bytes of a file from `start` on, -1 for all.

    Raises `NotFound` (also if it is not a regular file), `Permanent`, `StoreUnavailable`.
    """
    with read_errors(path):
        regular_stat(path)  # a pipe would block for ever, a device would never end
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read(n_bytes)


def stat_file(path: str) -> UriStat:
    """Return a file's size and version. Raises as `read_file` does."""
    with read_errors(path):
        return _uri_stat(regular_stat(path))


def regular_stat(path: Path | str) -> os.stat_result:
    """Return the status of a regular file. Raises `OSError`, also if `path` is something else."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return status


def _uri_stat(status: os.stat_result) -> UriStat:
    return UriStat(status.st_size, str(status.st_mtime_ns))


def list_files(
    folder: str,
    is_passed_over: Callable[[str], bool] = lambda path: False,
    ancestors: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, UriStat]]:
    """Yield the files at any depth, ordered by their whole path, as S3 orders keys.

    Linked folders are followed, loops are not: `ancestors` holds device and inode of the folders above this one. For a
    folder that may not be read, its path with a slash is yielded if `is_passed_over` says so of it. Otherwise raises
    `Permanent`, and as `read_file` does.
    """
    with read_errors(folder):
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            present = [entry for entry in entries if not (entry.is_symlink() and _is_loop(entry))]
            ordered = sorted(present, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    for entry in ordered:
        with suppress(NotFound), read_errors(entry.path):  # deleted since it was listed
            if entry.is_dir():
                try:
                    yield from list_files(entry.path, is_passed_over, ancestors | {identity})
                except Permanent:
                    if not is_passed_over(f"{entry.path}/"):
                        raise
                    yield f"{entry.path}/", UriStat(0, "")
            elif entry.is_file():
                yield entry.path, _uri_stat(entry.stat())


def _is_loop(link: os.DirEntry[str]) -> bool:
    """Return whether a link leads back to itself, directly or over other links."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


# Checksums


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a local file, read without loading it whole. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_signature(path: Path) -> tuple[int, int, int]:
    """Return inode, size and mtime in ns, which change when a file is replaced or written to."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether the file exists and has that sha256 (hex); it is read once per process and signature."""
    with suppress(OSError):
        return _cached_sha256(path, file_signature(path)) == sha256
    return False


def check_sha256(path: Path, expected: str, name: str) -> None:
    """Raise `ShardCorrupt`, which calls the object `name`, unless the file has the `expected` sha256 (hex)."""
    actual = _cached_sha256(path, file_signature(path))
    if actual != expected:
        raise ShardCorrupt(f"{name} has sha256 {actual[:12]}…, was sealed as {expected[:12]}…; `vitrine repair`")


@lru_cache(maxsize=2**16)
def _cached_sha256(path: Path, signature: tuple[int, int, int]) -> str:
    return file_sha256(path)


class ChunkReader(io.RawIOBase):
    """A file that is read from an iteration, for a library that reads files."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes], self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return n_bytes
