"""A store in a local folder.

A write goes to a temporary file, which is synced and renamed; a hard link or a lock decides which writer was first.
Temporary files of killed writers are removed by the first writer a day later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from retrieval_core.errors import NotFound, StoreUnavailable
from retrieval_core.store.base import CHUNK_BYTES, Entry, Store, check_prefix, checked_key, is_key
from retrieval_core.store.files import (
    check_sha256,
    install,
    list_files,
    make_folder,
    read_errors,
    regular_stat,
    remove_file,
    temporary_file,
    write_errors,
)

LOCK_TIMEOUT_S = 60.0
LOCK_POLL_S = 0.002
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


class LocalStore(Store):
    """A store in a folder, which the first write creates; `.tmp/` and `.lock` in it are not objects."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)
        self._identity = (self.url,)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with read_errors(path):
            return path.read_bytes()

    def get_range(self, key: str, start: int, n_bytes: int) -> bytes:
        path = self._path(key)
        with read_errors(path), path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), n_bytes, start)

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with read_errors(path):
            regular_stat(path)
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

    def _put(self, key: str, data: bytes) -> None:
        self._write(key, [data], os.replace)

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        try:
            self._write(key, [data], self._move_if_absent)
        except FileExistsError:
            return False
        return True

    def _put_file(self, key: str, path: Path) -> None:
        with read_errors(path):
            source = path.open("rb")
        with source:
            self._put_chunks(key, iter(lambda: source.read(CHUNK_BYTES), b""))

    def _put_chunks(self, key: str, chunks: Iterable[bytes]) -> None:
        self._write(key, chunks, os.replace)

    def _compare_and_swap(self, key: str, data: bytes, expected: bytes) -> bool:
        with self._lock():
            with suppress(NotFound):
                if self.get(key) == expected:
                    self._put(key, data)
                    return True
            return False

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with read_errors(path):
            return path.is_file()

    def size_bytes(self, key: str) -> int:
        path = self._path(key)
        with read_errors(path):
            return regular_stat(path).st_size

    def entries(self, prefix: str) -> Iterator[Entry]:
        check_prefix(prefix)
        root = os.path.join(self._root, "")
        with suppress(NotFound):
            for path, stat in list_files(root + prefix.rpartition("/")[0]):
                key = path.removeprefix(root)
                if key.startswith(prefix) and is_key(key):
                    yield Entry(key, stat.size_bytes, int(stat.version) / 1e9)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        with write_errors(path):
            remove_file(path)

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        path = self._path(key)
        with read_errors(path):
            regular_stat(path)
            if sha256 is not None:
                check_sha256(path, sha256, self._address_of(key))
        return path

    def _ignored_conditions(self, key: str) -> tuple[str, ...]:
        self._put(key, b"1")
        ignored = []
        with suppress(FileExistsError):
            self._write(key, [b"2"], self._move_if_absent)
            ignored.append("the absence of a file that a hard link needs")
        with self._lock(), suppress(BlockingIOError), self._lock_path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ignored.append("the lock of another process")
        return tuple(ignored)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _write(self, key: str, chunks: Iterable[bytes], move: Callable[[Path, Path], None]) -> None:
        path = self._path(key)
        with write_errors(path), temporary_file(self._root) as temporary:
            with temporary.open("xb") as file:
                file.writelines(chunks)
            install(temporary, path, move)

    def _move_if_absent(self, temporary: Path, path: Path) -> None:
        """Move the file, or raise `FileExistsError` if the name is taken: a hard link, unlike a rename, checks that."""
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

    @property
    def _lock_path(self) -> Path:
        return self._root / ".lock"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of the store. Raises `StoreUnavailable` if a process has it for longer than a swap can take."""
        with write_errors(self._lock_path):
            make_folder(self._root)
            with self._lock_path.open("ab") as file:
                self._acquire(file)
                yield

    def _acquire(self, file: BinaryIO) -> None:
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise StoreUnavailable(
                        f"{self._lock_path} is held by another process, which may be suspended; end it, then try again"
                    ) from None
                time.sleep(LOCK_POLL_S)
