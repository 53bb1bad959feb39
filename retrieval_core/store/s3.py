"""A store in an S3 bucket, and the reading of any S3 object. Only this module uses boto3's S3 client.

S3 shows an object once its last byte is stored, and decides which writer was first by `If-None-Match` and `If-Match`.
The server must honour conditional puts, as AWS and Ceph do; some small servers ignore the condition and let every
writer win, which `check_conditions` finds out.

Parts of a multipart upload that was killed stay invisible but are billed: give the bucket a lifecycle rule that aborts
incomplete uploads.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import uuid
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from retrieval_core.errors import BadConfig, NotFound, Permanent, StoreNotWritable, StoreUnavailable, VitrineError
from retrieval_core.store.base import CHUNK_BYTES, Entry, Fetched, Store, UriStat, check_prefix, checked_key, is_key
from retrieval_core.store.cache import ReadCache
from retrieval_core.store.files import (
    ChunkReader,
    check_sha256,
    file_signature,
    has_sha256,
    install,
    read_errors,
    temporary_file,
    write_errors,
)
from retrieval_core.store.traffic import count

ENDPOINT_VARIABLE = "VITRINE_S3_ENDPOINT_URL"
ENDPOINT_EXPECTED = (
    f"the S3 endpoint must read http(s)://host[:port] (see {ENDPOINT_VARIABLE}); "
    "keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # hosts that are reached without a proxy
MULTIPART_THRESHOLD_BYTES = 16 * 2**20
READ_TIMEOUT_S = 60
PAGE_OBJECTS = 1000  # that one request lists

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
_BAD_CREDENTIALS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_CLIENT_LOCK = threading.Lock()


class S3Store(Store):
    """A store under a prefix of an S3 bucket, with local copies of the objects that `local_path` was called for."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, cache_dir: Path, cache_bytes: int) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._identity = (endpoint_url or "", self.url)
        name = hashlib.sha256(" ".join(self._identity).encode()).hexdigest()[:16]
        self._cache = cache_dir.expanduser().absolute() / name
        self._copies = ReadCache(self._cache, cache_bytes)

    def get(self, key: str) -> bytes:
        return self._get(key)[0]

    def get_range(self, key: str, start: int, n_bytes: int) -> bytes:
        return self._get(key, Range=f"bytes={start}-{start + n_bytes - 1}")[0]

    def chunks(self, key: str) -> Iterator[bytes]:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key)):
            yield from _client(self._endpoint_url).get_object(**target)["Body"].iter_chunks(CHUNK_BYTES)

    def _put(self, key: str, data: bytes) -> None:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key), writing=True):
            _client(self._endpoint_url).put_object(**target, **_body(data))

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        if self._put_on_condition(key, data, IfNoneMatch="*"):
            return True
        if not self.exists(key):
            raise StoreUnavailable(
                f"{self._address_of(key)} was being written or deleted by another process; try again"
            )
        return False

    def _put_file(self, key: str, path: Path) -> None:
        with read_errors(path):
            source = path.open("rb")
        with source:
            self._upload(key, source)

    def _put_chunks(self, key: str, chunks: Iterable[bytes]) -> None:
        self._upload(key, io.BufferedReader(ChunkReader(chunks), MULTIPART_THRESHOLD_BYTES))

    def _compare_and_swap(self, key: str, data: bytes, expected: bytes) -> bool:
        try:
            current, etag = self._get(key)
            # Ceph wants the ETag without quotes, AWS takes either.
            return current == expected and self._put_on_condition(key, data, IfMatch=etag)
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

    def entries(self, prefix: str) -> Iterator[Entry]:
        check_prefix(prefix)
        for item in _list_bucket(self._endpoint_url, self._bucket, self._folder + prefix):
            key = item["Key"].removeprefix(self._folder)
            if is_key(key):
                yield Entry(key, int(item["Size"]), item["LastModified"].timestamp())

    def _delete(self, key: str) -> None:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key), writing=True), suppress(NotFound):
            _client(self._endpoint_url).delete_object(**target)

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        copy = self._cache / checked_key(key)
        self._copies.touch(copy)
        if sha256 is not None and has_sha256(copy, sha256):
            return copy
        etag = _bare(self._head(key)["ETag"])
        if sha256 is not None or self._version_of(copy) != etag:
            self._download(key, copy, etag)
        if sha256 is not None:
            with read_errors(copy):
                check_sha256(copy, sha256, self._address_of(key))
        return copy

    def _ignored_conditions(self, key: str) -> tuple[str, ...]:
        self._put(key, b"1")
        _, old_etag = self._get(key)
        self._put(key, b"2")
        conditions = {"If-None-Match": {"IfNoneMatch": "*"}, "If-Match": {"IfMatch": old_etag}}
        return tuple(name for name in conditions if self._put_on_condition(key, b"3", **conditions[name]))

    def _bucket_and_key(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._folder + checked_key(key)}

    def _get(self, key: str, **options: str) -> tuple[bytes, str]:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key)):
            answer = _client(self._endpoint_url).get_object(**target, **options)
            return answer["Body"].read(), _bare(answer["ETag"])

    def _head(self, key: str) -> Any:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key)):
            return _client(self._endpoint_url).head_object(**target)

    def _upload(self, key: str, source: BinaryIO) -> None:
        target = self._bucket_and_key(key)
        with _s3_errors(self._address_of(key), writing=True):
            # upload_file would hide the ClientError of a failed call in the text of another error.
            _client(self._endpoint_url).upload_fileobj(source, *target.values(), Config=_transfer_config())

    def _put_on_condition(self, key: str, data: bytes, **condition: str) -> bool:
        """Put an object on a condition; return whether it was met.

        When the answer to a put is lost, boto3 repeats it and the repetition meets our own object. A mark in its
        metadata tells it from another writer's.
        """
        from botocore.exceptions import ClientError

        target, mark = self._bucket_and_key(key), uuid.uuid4().hex
        with _s3_errors(self._address_of(key), writing=True):
            try:
                client = _client(self._endpoint_url)
                client.put_object(**target, **_body(data), Metadata={"writer": mark}, **condition)
            except ClientError as error:
                if _status(error) not in {409, 412}:
                    raise
                with suppress(NotFound):
                    return bool(self._head(key)["Metadata"].get("writer") == mark)
                return False
        return True

    def _download(self, key: str, copy: Path, etag: str) -> None:
        target = self._bucket_and_key(key)
        with write_errors(copy), temporary_file(self._cache) as temporary:
            with _s3_errors(self._address_of(key)):
                _client(self._endpoint_url).download_file(*target.values(), str(temporary), Config=_transfer_config())
            signature = file_signature(temporary)  # kept by the rename; another download may replace it at any time
            install(temporary, copy, os.replace)
        note = self._note(copy)
        with write_errors(note), temporary_file(self._cache) as temporary:
            temporary.write_text(f"{etag} {signature}")
            install(temporary, note, os.replace)
        self._copies.make_room(copy)

    def _version_of(self, copy: Path) -> str | None:
        """Return the ETag a local copy was made from; None without a copy, or if it was replaced since the note."""
        with suppress(OSError, ValueError):
            etag, signature = self._note(copy).read_text().split(" ", 1)
            return etag if signature == str(file_signature(copy)) else None
        return None

    def _note(self, copy: Path) -> Path:
        return self._cache / ".etags" / copy.relative_to(self._cache)


# Any object


def read_object(
    url: str | None, bucket: str, key: str, n_bytes: int = -1, start: int = 0, max_bytes: float = math.inf
) -> Fetched:
    """Return `n_bytes` bytes from `start` on, -1 for all. Raises `Permanent` where these are more than `max_bytes`."""
    from botocore.exceptions import ClientError

    part = {} if n_bytes < 0 else {"Range": f"bytes={start}-{start + n_bytes - 1}"}
    count(requests=1)
    with _s3_errors(f"s3://{bucket}/{key}"):
        try:
            answer = _client(url).get_object(Bucket=bucket, Key=key, **part)
        except ClientError as error:
            if part and _status(error) == 416:  # the object ends before
                return Fetched(b"", UriStat(0, ""))
            raise
        if answer["ContentLength"] > max_bytes:
            answer["Body"].close()
            raise Permanent(f"s3://{bucket}/{key} has {answer['ContentLength']:,} bytes, more than {max_bytes:,}")
        data = bytes(answer["Body"].read())
    count(n_bytes=len(data))
    return Fetched(data, UriStat(len(data), _bare(answer["ETag"])))


def stat_object(endpoint_url: str | None, bucket: str, key: str, known: UriStat | None = None) -> UriStat:
    """Return the size and ETag of any object; `known` are those that it had before."""
    with _s3_errors(f"s3://{bucket}/{key}"):
        head = _client(endpoint_url).head_object(Bucket=bucket, Key=key)
    stat = UriStat(int(head["ContentLength"]), _bare(head["ETag"]))
    count(requests=1, not_modified=int(stat == known))
    return stat


def list_objects(endpoint_url: str | None, bucket: str, prefix: str) -> Iterator[tuple[str, UriStat]]:
    """Yield name, size and ETag of the objects that start with `prefix`, in byte order of names, page by page."""
    for number, item in enumerate(_list_bucket(endpoint_url, bucket, prefix)):
        count(requests=int(number % PAGE_OBJECTS == 0))
        yield item["Key"], UriStat(int(item["Size"]), _bare(item["ETag"]))


def _list_bucket(endpoint_url: str | None, bucket: str, prefix: str) -> Iterator[Any]:
    """Yield S3's description of each object: Key, Size, ETag and LastModified."""
    with _s3_errors(f"s3://{bucket}/{prefix}"):
        pages = _client(endpoint_url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            yield from page.get("Contents", ())


# boto3


def _client(endpoint_url: str | None) -> Any:
    """Return this process's client of an endpoint: making one is not thread-safe, and a fork needs its own sockets."""
    with _CLIENT_LOCK:
        return _make_client(endpoint_url, os.getpid())


@lru_cache(maxsize=16)
def _make_client(endpoint_url: str | None, pid: int) -> Any:
    import boto3
    from botocore.config import Config

    # Over https boto3 sends a checksum after the bytes, which S3 servers such as Ceph 16 refuse (411). There TLS
    # protects the bytes of a file, and `_body` sends its own checksum before the bytes.
    is_plain = (endpoint_url or "").startswith("http://")
    config = Config(
        request_checksum_calculation="when_supported" if is_plain else "when_required",
        connect_timeout=5,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=64,
        proxies={} if _is_loopback(endpoint_url) else None,  # None: those of the environment
    )
    try:
        return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError as error:
        raise BadConfig(ENDPOINT_EXPECTED) from error


def _is_loopback(endpoint_url: str | None) -> bool:
    with suppress(ValueError):  # the client says what is wrong with it
        return urlsplit(endpoint_url or "").hostname in LOOPBACK
    return False


def _body(data: bytes) -> dict[str, Any]:
    """Return the put arguments for `data`, with a checksum that the server checks now and boto3 on every download."""
    crc32 = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    return {"Body": data, "ChecksumAlgorithm": "CRC32", "ChecksumCRC32": crc32}


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_THRESHOLD_BYTES, preferred_transfer_client="classic")


def _bare(etag: str) -> str:
    return etag.strip('"')


@contextmanager
def _s3_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """Translate boto3's errors to Vitrine's. Messages name the object and S3's code, never boto3's arguments."""
    from boto3.exceptions import RetriesExceededError
    from botocore import exceptions as boto
    from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

    try:
        yield
    except boto.ClientError as error:
        raise _from_client_error(error, where, writing) from error
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
    except (S3DownloadFailedError, S3ValidationError) as error:
        raise StoreUnavailable(f"{where} was replaced while it was being read; try again") from error
    except boto.BotoCoreError as error:
        raise Permanent(f"{where}: {error}") from error


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _from_client_error(error: Any, where: str, writing: bool) -> VitrineError:
    """Return the error that an S3 error response means."""
    status, code = _status(error), error.response.get("Error", {}).get("Code", "")
    answer = f"{where}: S3 answered {status}" + f" {code}" * (code != str(status))  # HEAD has no code
    if code == "NoSuchBucket":
        return BadConfig(f"{answer}; create the bucket (aws s3 mb s3://BUCKET) or name another")
    if code == "NoSuchUpload":  # boto3 repeated the request to complete it, whose answer was lost
        return StoreUnavailable(f"{answer}: the upload was ended or aborted before; try again")
    if status == 404:
        return NotFound(f"no object {where}")
    if status == 501:
        return Permanent(f"{answer}: the server lacks what a store needs, such as conditional puts")
    if status >= 500 or status in {408, 409, 412, 429} or code in _THROTTLED:
        return StoreUnavailable(f"{answer}; try again")
    if code in _WRONG_CLOCK:
        return Permanent(f"{answer}; set this machine's clock, which is minutes away from the server's")
    if status in {401, 403} or code in _BAD_CREDENTIALS:
        if writing:
            return StoreNotWritable(f"{answer}; check the credentials: they need s3:PutObject and s3:DeleteObject")
        return Permanent(f"{answer}; check the credentials: they need s3:GetObject and s3:ListBucket")
    return Permanent(answer)
