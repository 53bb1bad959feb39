"""Storage: one object for a local folder and for `s3://bucket/prefix`; nothing else in Vitrine touches either.

A write is whole or absent, on both: a folder gets a temporary file, fsync and a rename, and S3 makes an object visible
when its last byte is stored. Who was first is settled by the file system (hard link, lock) or by S3 (`If-None-Match`,
`If-Match`), so a bucket must live on a server that honours conditional puts, as AWS and Ceph do; some small servers
ignore the condition and let everybody win.

Parts of a multipart upload that was killed stay invisible but are billed: give the bucket a lifecycle rule that aborts
incomplete uploads. Temporary files a killed writer left in a folder are removed by a writer of the next day.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from retrieval_core.errors import (
    BadConfig,
    NotFound,
    Permanent,
    ShardCorrupt,
    StoreNotWritable,
    StoreUnavailable,
    VitrineError,
)

ENDPOINT_VARIABLE = "VITRINE_S3_ENDPOINT_URL"
MULTIPART_THRESHOLD_BYTES = 16 * 2**20
COPY_CHUNK_BYTES = 2**20
ABANDONED_AFTER_S = 24 * 3600
_ENDPOINT_EXPECTED = (
    f"the S3 endpoint must read http(s)://host[:port] (see {ENDPOINT_VARIABLE}); "
    "keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

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
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
_BAD_CREDENTIALS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


class UriStat(NamedTuple):
    """What a listing knows of a file without reading it; `version` (mtime in ns, or ETag) changes when the bytes do."""

    size_bytes: int
    version: str


class Store(ABC):
    """Whole objects by key, on a folder or on S3.

    A key is relative: names of letters, digits and `._=+-` joined by `/`, each starting with a letter, a digit or `_`;
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
    def list(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix` ("" for all), in byte order, fetched page by page."""

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


def open_store(url: str, *, s3_endpoint_url: str | None = None, cache_dir: Path | None = None) -> Store:
    """The store at a folder's path or `s3://bucket/prefix`; nothing is created or contacted before the first use.

    The S3 endpoint is the argument, else `VITRINE_S3_ENDPOINT_URL`, else what boto3 finds (`AWS_ENDPOINT_URL`, AWS).
    `cache_dir` holds local copies of S3 objects. Raises `BadConfig` for another scheme, a bad bucket or a bad endpoint.
    """
    if not url:
        raise BadConfig("the store's address is empty; expected a folder or s3://bucket/prefix")
    address = _split_s3(url)
    if address is None:
        return LocalStore(Path(url))
    bucket, prefix = address
    return S3Store(bucket, prefix.strip("/"), _endpoint_url(s3_endpoint_url), cache_dir or _default_cache_dir())


class LocalStore(Store):
    """A store in a folder, made by the first write; `.tmp/` and `.lock` in it are no objects."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with _local_read(path):
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
        with _local_read(path):
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
        with _local_read(path):
            return path.is_file()

    def size_bytes(self, key: str) -> int:
        path = self._path(key)
        with _local_read(path):
            return _stat_file(path).st_size

    def list(self, prefix: str) -> Iterator[str]:
        _check_prefix(prefix)
        root = os.path.join(self._root, "")
        with suppress(NotFound):
            for path, _ in _walk_files(root + prefix.rpartition("/")[0]):
                key = path.removeprefix(root)
                if key.startswith(prefix) and _KEY.fullmatch(key):
                    yield key

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_write(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        path = self._path(key)
        with _local_read(path):
            _stat_file(path)
            if sha256 is not None:
                _check_sha256(path, sha256, self._at(key))
        return path

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)

    def _write(self, key: str, source: BinaryIO, place: Callable[[Path, Path], None]) -> None:
        path = self._path(key)
        with _local_write(path), _temporary_beside(self._root) as temporary:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, COPY_CHUNK_BYTES)
            _install(temporary, path, place)

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
        with _local_write(path):
            _make_folder(self._root)
            with path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield


class S3Store(Store):
    """A store under a prefix of an S3 bucket, with local copies of what `local_path` was asked for."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, cache_dir: Path) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        place = hashlib.sha256(f"{endpoint_url or ''} {self.url}".encode()).hexdigest()[:16]
        self._cache = cache_dir.expanduser().absolute() / place

    def get(self, key: str) -> bytes:
        return self._get(key)[0]

    def put(self, key: str, data: bytes) -> None:
        address = self._address(key)
        with _s3_errors(self._at(key), writing=True):
            _client(self._endpoint_url).put_object(**address, Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._put_on_condition(key, data, IfNoneMatch="*"):
            return True
        if not self.exists(key):
            raise StoreUnavailable(f"{self._at(key)} was being written or deleted by somebody else; try again")
        return False

    def put_file(self, key: str, path: Path) -> None:
        address = self._address(key)
        with _local_read(path):
            source = path.open("rb")
        with source, _s3_errors(self._at(key), writing=True):
            # A call that fails does so as a ClientError here, and as text inside another error in upload_file.
            _client(self._endpoint_url).upload_fileobj(source, *address.values(), Config=_transfer_config())

    def compare_and_swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        if expected is None:
            return self.put_if_absent(key, data)
        try:
            found, etag = self._get(key)
            # Ceph wants the ETag bare, AWS takes it either way.
            return found == expected and self._put_on_condition(key, data, IfMatch=etag)
        except NotFound:
            return False

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except NotFound:
            return False
        return True

    def size_bytes(self, key: str) -> int:
        return int(self._head(key)["ContentLength"])

    def list(self, prefix: str) -> Iterator[str]:
        _check_prefix(prefix)
        for name, _ in _s3_objects(self._endpoint_url, self._bucket, self._folder + prefix):
            key = name.removeprefix(self._folder)
            if _KEY.fullmatch(key):
                yield key

    def delete(self, key: str) -> None:
        address = self._address(key)
        with _s3_errors(self._at(key), writing=True), suppress(NotFound):
            _client(self._endpoint_url).delete_object(**address)

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        copy = self._cache / _checked(key)
        if sha256 is not None and _holds(copy, sha256):
            return copy
        etag = _bare(self._head(key)["ETag"])
        if sha256 is not None or self._version_of(copy) != etag:
            self._download(key, copy, etag)
        if sha256 is not None:
            with _local_read(copy):
                _check_sha256(copy, sha256, self._at(key))
        return copy

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._folder + _checked(key)}

    def _get(self, key: str) -> tuple[bytes, str]:
        address = self._address(key)
        with _s3_errors(self._at(key)):
            answer = _client(self._endpoint_url).get_object(**address)
            return answer["Body"].read(), _bare(answer["ETag"])

    def _head(self, key: str) -> Any:
        address = self._address(key)
        with _s3_errors(self._at(key)):
            return _client(self._endpoint_url).head_object(**address)

    def _put_on_condition(self, key: str, data: bytes, **condition: str) -> bool:
        """Whether the put was accepted.

        When the answer to a put is lost, boto3 repeats it and the repetition meets our own object: the mark in its
        metadata tells that apart from somebody else's.
        """
        from botocore.exceptions import ClientError

        address, mark = self._address(key), uuid.uuid4().hex
        with _s3_errors(self._at(key), writing=True):
            try:
                _client(self._endpoint_url).put_object(**address, Body=data, Metadata={"writer": mark}, **condition)
            except ClientError as error:
                if _status(error) not in {409, 412}:
                    raise
                with suppress(NotFound):
                    return bool(self._head(key)["Metadata"].get("writer") == mark)
                return False
        return True

    def _download(self, key: str, copy: Path, etag: str) -> None:
        address = self._address(key)
        with _local_write(copy), _temporary_beside(self._cache) as temporary:
            with _s3_errors(self._at(key)):
                _client(self._endpoint_url).download_file(*address.values(), str(temporary), Config=_transfer_config())
            signature = _signature(temporary)  # a rename keeps it; another download may take the name at any time
            _install(temporary, copy, os.replace)
        note = self._note(copy)
        with _local_write(note), _temporary_beside(self._cache) as temporary:
            temporary.write_text(f"{etag} {signature}")
            _install(temporary, note, os.replace)

    def _version_of(self, copy: Path) -> str | None:
        """The ETag a local copy was made from; None when there is none, or it was replaced since that was noted."""
        with suppress(OSError, ValueError):
            etag, signature = self._note(copy).read_text().split(" ", 1)
            return etag if signature == str(_signature(copy)) else None
        return None

    def _note(self, copy: Path) -> Path:
        return self._cache / ".etags" / copy.relative_to(self._cache)


def read_uri(uri: str) -> bytes:
    """The bytes of a local path or of `s3://bucket/key`, at the endpoint that `VITRINE_S3_ENDPOINT_URL` names.

    Raises `NotFound` (also for what is no regular file), `Permanent` where reading is forbidden, `StoreUnavailable`,
    and `BadConfig` for another scheme.
    """
    address = _split_s3(uri)
    if address is None:
        with _local_read(uri):
            _stat_file(uri)  # a pipe would block for ever, a device would never end
            return Path(uri).read_bytes()
    with _s3_errors(uri):
        answer = _client(_endpoint_url(None)).get_object(Bucket=address[0], Key=address[1])
        return bytes(answer["Body"].read())


def stat_uri(uri: str) -> UriStat:
    """Size and version of a local path or of `s3://bucket/key`; errors as for `read_uri`."""
    address = _split_s3(uri)
    if address is None:
        with _local_read(uri):
            return _uri_stat(_stat_file(uri))
    with _s3_errors(uri):
        head = _client(_endpoint_url(None)).head_object(Bucket=address[0], Key=address[1])
        return UriStat(int(head["ContentLength"]), _bare(head["ETag"]))


def list_uris(folder_uri: str) -> Iterator[tuple[str, UriStat]]:
    """The files under a folder at any depth, in byte order of their URIs; linked folders are followed, loops are not.

    `folder_uri` is a local path or `s3://bucket/folder`. Raises `NotFound` where a local folder is absent (an S3 folder
    without objects is merely empty), and otherwise as `read_uri`.
    """
    address = _split_s3(folder_uri)
    if address is None:
        yield from _walk_files(folder_uri)
        return
    bucket, folder = address[0], address[1].rstrip("/")
    for name, found in _s3_objects(_endpoint_url(None), bucket, f"{folder}/" if folder else ""):
        if not name.endswith("/"):  # consoles mark folders by empty objects
            yield f"s3://{bucket}/{name}", found


# Addresses


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise Permanent(
            f"{key!r} is not a store key; expected names of letters, digits and ._=+- joined by '/', "
            "each starting with a letter, a digit or _"
        )
    return key


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise Permanent(f"{prefix!r} cannot start a store key; expected names of letters, digits, ._=+- joined by '/'")


def _split_s3(uri: str) -> tuple[str, str] | None:
    """(bucket, key) of an s3:// address, None for a local path. A message never repeats what may hold a password."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return None
    if scheme[1] != "s3":
        raise BadConfig(f"{scheme[1]}:// is not supported; expected a local path or s3://bucket/…")
    bucket, _, key = uri[scheme.end() :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadConfig(f"{bucket.rpartition('@')[2]!r} is not a bucket name; expected s3://bucket/…")
    return bucket, key


def _endpoint_url(given: str | None) -> str | None:
    url = given or os.environ.get(ENDPOINT_VARIABLE) or None
    if url is not None and ("@" in url or not url.startswith(("http://", "https://"))):
        raise BadConfig(_ENDPOINT_EXPECTED)
    return url


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"


# Files


@contextmanager
def _local_read(path: Path | str) -> Iterator[None]:
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
def _local_write(path: Path) -> Iterator[None]:
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
def _temporary_beside(root: Path) -> Iterator[Path]:
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


def _install(temporary: Path, path: Path, place: Callable[[Path, Path], None]) -> None:
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


def _stat_file(path: Path | str) -> os.stat_result:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return found


def _uri_stat(found: os.stat_result) -> UriStat:
    return UriStat(found.st_size, str(found.st_mtime_ns))


def _walk_files(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, UriStat]]:
    """Files at any depth ordered by their whole path, as S3 orders keys; `above` holds the folders on the way here."""
    with _local_read(folder):
        here = os.stat(folder)
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for entry in ordered:
        with suppress(NotFound, FileNotFoundError):  # deleted since it was listed
            if entry.is_dir():
                yield from _walk_files(entry.path, above | {identity})
            elif entry.is_file():
                yield entry.path, _uri_stat(entry.stat())


def _signature(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sha256_of(path: Path) -> str:
    return _digest(path, _signature(path))


@lru_cache(maxsize=2**16)
def _digest(path: Path, signature: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, sha256: str) -> bool:
    with suppress(OSError):
        return _sha256_of(path) == sha256
    return False


def _check_sha256(path: Path, expected: str, name: str) -> None:
    found = _sha256_of(path)
    if found != expected:
        raise ShardCorrupt(f"{name} has sha256 {found[:12]}…, was sealed as {expected[:12]}…; delete it and run again")


# S3

_CLIENT_LOCK = threading.Lock()


def _client(endpoint_url: str | None) -> Any:
    """The process's client of an endpoint. Using it is thread-safe, making it is not; a fork must not share sockets."""
    with _CLIENT_LOCK:
        return _make_client(endpoint_url, os.getpid())


@lru_cache(maxsize=16)
def _make_client(endpoint_url: str | None, pid: int) -> Any:
    import boto3
    from botocore.config import Config

    # boto3 adds a checksum to every upload and checks it on download by default.
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=64,
    )
    try:
        return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError as error:
        raise BadConfig(_ENDPOINT_EXPECTED) from error


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_THRESHOLD_BYTES, preferred_transfer_client="classic")


def _s3_objects(endpoint_url: str | None, bucket: str, prefix: str) -> Iterator[tuple[str, UriStat]]:
    with _s3_errors(f"s3://{bucket}/{prefix}"):
        pages = _client(endpoint_url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for found in page.get("Contents", ()):
                yield found["Key"], UriStat(int(found["Size"]), _bare(found["ETag"]))


def _bare(etag: str) -> str:
    return etag.strip('"')


@contextmanager
def _s3_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """Tell boto3's errors in Vitrine's tree. Messages name the object and S3's code, never what boto3 was given."""
    from boto3.exceptions import RetriesExceededError
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        raise _from_answer(error, where, writing) from error
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.NoAuthTokenError,
        boto.SSOError,
        boto.ProfileNotFound,
    ) as error:
        raise BadConfig(
            f"{where}: no S3 credentials ({type(error).__name__}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or give the machine a role"
        ) from error
    except (
        boto.ConnectionError,
        boto.HTTPClientError,
        boto.IncompleteReadError,
        boto.FlexibleChecksumError,
        RetriesExceededError,
    ) as error:
        raise StoreUnavailable(
            f"{where} does not answer ({type(error).__name__}); check the network and the endpoint, then try again"
        ) from error
    except boto.BotoCoreError as error:
        raise Permanent(f"{where}: {error}") from error


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _from_answer(error: Any, where: str, writing: bool) -> VitrineError:
    """The error that an S3 answer means."""
    status, code = _status(error), error.response.get("Error", {}).get("Code", "")
    said = f"{where}: S3 answered {status} {code}"
    if code == "NoSuchBucket":
        return BadConfig(f"{said}; create the bucket (aws s3 mb s3://BUCKET) or name another")
    if status == 404:
        return NotFound(f"no object {where}")
    if status >= 500 or status in {408, 409, 412, 429} or code in _THROTTLED:
        return StoreUnavailable(f"{said}; try again")
    if status in {401, 403} or code in _BAD_CREDENTIALS:
        if writing:
            return StoreNotWritable(f"{said}; check the credentials, which want s3:PutObject and s3:DeleteObject there")
        return Permanent(f"{said}; check the credentials, which want s3:GetObject and s3:ListBucket there")
    return Permanent(said)
