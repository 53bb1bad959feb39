"""List the files in an uncompressed tar at any URI; each is a part of the tar that can be read by itself."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from retrieval_core.errors import NotFound
from retrieval_core.store.base import Span
from retrieval_core.store.files import read_errors
from retrieval_core.store.uris import read_uri, stat_uri

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
REMOTE_BUFFER_BYTES = 8 * 2**20  # fetched in one request


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    span: Span
    tar: tarfile.TarFile
    info: tarfile.TarInfo

    def read(self) -> bytes:
        """Return the content, while the members are iterated over."""
        file = self.tar.extractfile(self.info)
        return file.read() if file else b""


def members(uri: str) -> Iterator[Member]:
    """Yield the files in a tar, in their order; folders, links and devices are left out.

    Raises `ValueError` for a file that is packed, damaged or cut off, and as `read_uri` does.
    """
    with open_uri(uri) as file:
        head = file.read(6)
        if packed := next((name for magic, name in PACKED.items() if head.startswith(magic)), ""):
            raise ValueError(f"it is packed with {packed}; unpack it, because its pictures are read in place")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # which it keeps for random access
                    if info.isreg() and not info.issparse():
                        yield Member(info.name, Span(uri, info.offset_data, info.size), tar, info)
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0") or file.tell() < tar.offset + tarfile.BLOCKSIZE:
                    raise ValueError(f"it is cut off or damaged after {tar.offset:,} bytes; copy it again")
        except tarfile.TarError as error:
            raise ValueError(f"it is no tar, or cut off: {error}; copy it again") from error


def open_uri(uri: str) -> BinaryIO:
    """Open a file at any URI for reading at any position. Raises as `read_uri` does."""
    if "://" not in uri:
        stat_uri(uri)  # refuses what is no regular file
        with read_errors(uri):
            return Path(uri).open("rb")
    return cast(BinaryIO, io.BufferedReader(_RemoteFile(uri), REMOTE_BUFFER_BYTES))


class _RemoteFile(io.RawIOBase):
    """A file on S3 or a web server, of which parts are requested."""

    def __init__(self, uri: str) -> None:
        self._uri, self._n_bytes, self._position = uri, stat_uri(uri).size_bytes, 0
        if not self._n_bytes:
            raise NotFound("it is empty, or its server does not tell its size")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n_bytes = min(len(buffer), self._n_bytes - self._position)
        if n_bytes <= 0:
            return 0
        buffer[:n_bytes] = read_uri(Span(self._uri, self._position, n_bytes).uri)
        self._position += n_bytes
        return n_bytes
