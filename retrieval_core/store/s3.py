"""A store in an S3 bucket, and the reading of any S3 object; all of Vitrine's use of boto3.

S3 makes an object visible when its last byte is stored, and settles who was first by `If-None-Match` and `If-Match`: a
bucket must live on a server that honours conditional puts, as AWS and Ceph do; some small servers ignore the condition
and let everybody win.

Parts of a multipart upload that was killed stay invisible but are billed: give the bucket a lifecycle rule that aborts
incomplete uploads.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from retrieval_core.errors import BadConfig, NotFound, Permanent, StoreNotWritable, StoreUnavailable, VitrineError
from retrieval_core.store.base import ENDPOINT_EXPECTED, Entry, Store, UriStat, check_prefix, checked_key, is_key
from retrieval_core.store.cache import ReadCache
from retrieval_core.store.local import (
    check_sha256,
    file_signature,
    has_sha256,
    install,
    local_read,
    local_write,
    temporary_beside,
)

MULTIPART_THRESHOLD_BYTES = 16 * 2**20
READ_TIMEOUT_S = 60

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
_BAD_CREDENTIALS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_CLIENT_LOCK = threading.Lock()


class S3Store(Store):
    """A store under a prefix of an S3 bucket, with local copies of what `local_path` was asked for."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, cache_dir: Path, cache_bytes: int) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        place = hashlib.sha256(f"{endpoint_url or ''} {self.url}".encode()).hexdigest()[:16]
        self._cache = cache_dir.expanduser().absolute() / place
        self._copies = ReadCache(self._cache, cache_bytes)

    def get(self, key: str) -> bytes:
        return self._get(key)[0]

    def put(self, key: str, data: bytes) -> None:
        address = self._address(key)
        with _s3_errors(self._at(key), writing=True):
            _client(self._endpoint_url).put_object(**address, **_body(data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._put_on_condition(key, data, IfNoneMatch="*"):
            return True
        if not self.exists(key):
            raise StoreUnavailable(f"{self._at(key)} was being written or deleted by somebody else; try again")
        return False

    def put_file(self, key: str, path: Path) -> None:
        address = self._address(key)
        with local_read(path):
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

    def entries(self, prefix: str) -> Iterator[Entry]:
        check_prefix(prefix)
        for found in _list_bucket(self._endpoint_url, self._bucket, self._folder + prefix):
            key = found["Key"].removeprefix(self._folder)
            if is_key(key):
                yield Entry(key, int(found["Size"]), found["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        address = self._address(key)
        with _s3_errors(self._at(key), writing=True), suppress(NotFound):
            _client(self._endpoint_url).delete_object(**address)

    def local_path(self, key: str, sha256: str | None = None) -> Path:
        copy = self._cache / checked_key(key)
        self._copies.use(copy)
        if sha256 is not None and has_sha256(copy, sha256):
            return copy
        etag = _bare(self._head(key)["ETag"])
        if sha256 is not None or self._version_of(copy) != etag:
            self._download(key, copy, etag)
        if sha256 is not None:
            with local_read(copy):
                check_sha256(copy, sha256, self._at(key))
        return copy

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._folder + checked_key(key)}

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
                client = _client(self._endpoint_url)
                client.put_object(**address, **_body(data), Metadata={"writer": mark}, **condition)
            except ClientError as error:
                if _status(error) not in {409, 412}:
                    raise
                with suppress(NotFound):
                    return bool(self._head(key)["Metadata"].get("writer") == mark)
                return False
        return True

    def _download(self, key: str, copy: Path, etag: str) -> None:
        address = self._address(key)
        with local_write(copy), temporary_beside(self._cache) as temporary:
            with _s3_errors(self._at(key)):
                _client(self._endpoint_url).download_file(*address.values(), str(temporary), Config=_transfer_config())
            signature = file_signature(temporary)  # a rename keeps it; another download may take the name at any time
            install(temporary, copy, os.replace)
        note = self._note(copy)
        with local_write(note), temporary_beside(self._cache) as temporary:
            temporary.write_text(f"{etag} {signature}")
            install(temporary, note, os.replace)
        self._copies.make_room(copy)

    def _version_of(self, copy: Path) -> str | None:
        """The ETag a local copy was made from; None when there is none, or it was replaced since that was noted."""
        with suppress(OSError, ValueError):
            etag, signature = self._note(copy).read_text().split(" ", 1)
            return etag if signature == str(file_signature(copy)) else None
        return None

    def _note(self, copy: Path) -> Path:
        return self._cache / ".etags" / copy.relative_to(self._cache)


# Any object


def read_object(endpoint_url: str | None, bucket: str, key: str) -> bytes:
    """The bytes of any object of any bucket, whatever its name."""
    with _s3_errors(f"s3://{bucket}/{key}"):
        answer = _client(endpoint_url).get_object(Bucket=bucket, Key=key)
        return bytes(answer["Body"].read())


def stat_object(endpoint_url: str | None, bucket: str, key: str) -> UriStat:
    """Size and ETag of any object."""
    with _s3_errors(f"s3://{bucket}/{key}"):
        head = _client(endpoint_url).head_object(Bucket=bucket, Key=key)
        return UriStat(int(head["ContentLength"]), _bare(head["ETag"]))


def list_objects(endpoint_url: str | None, bucket: str, prefix: str) -> Iterator[tuple[str, UriStat]]:
    """Names, sizes and ETags of the objects that start with `prefix`, in byte order, fetched page by page."""
    for found in _list_bucket(endpoint_url, bucket, prefix):
        yield found["Key"], UriStat(int(found["Size"]), _bare(found["ETag"]))


def _list_bucket(endpoint_url: str | None, bucket: str, prefix: str) -> Iterator[Any]:
    """What S3 tells of each object: Key, Size, ETag and LastModified."""
    with _s3_errors(f"s3://{bucket}/{prefix}"):
        pages = _client(endpoint_url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            yield from page.get("Contents", ())


# boto3


def _client(endpoint_url: str | None) -> Any:
    """The process's client of an endpoint. Using it is thread-safe, making it is not; a fork must not share sockets."""
    with _CLIENT_LOCK:
        return _make_client(endpoint_url, os.getpid())


@lru_cache(maxsize=16)
def _make_client(endpoint_url: str | None, pid: int) -> Any:
    import boto3
    from botocore.config import Config

    # Over https boto3 sends a checksum after the bytes, which S3 servers such as Ceph 16 refuse (411). TLS guards the
    # bytes of a file on their way, and `_body` names its checksum before them.
    encrypted = not (endpoint_url or "").startswith("http://")
    config = Config(
        request_checksum_calculation="when_required" if encrypted else "when_supported",
        connect_timeout=5,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=64,
    )
    try:
        return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError as error:
        raise BadConfig(ENDPOINT_EXPECTED) from error


def _body(data: bytes) -> dict[str, Any]:
    """An object's bytes with the checksum by which the server refuses altered ones, and boto3 after it on download."""
    crc32 = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    return {"Body": data, "ChecksumAlgorithm": "CRC32", "ChecksumCRC32": crc32}


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_THRESHOLD_BYTES, preferred_transfer_client="classic")


def _bare(etag: str) -> str:
    return etag.strip('"')


@contextmanager
def _s3_errors(where: str, *, writing: bool = False) -> Iterator[None]:
    """Tell boto3's errors in Vitrine's tree. Messages name the object and S3's code, never what boto3 was given."""
    from boto3.exceptions import RetriesExceededError
    from botocore import exceptions as boto
    from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

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
    except (S3DownloadFailedError, S3ValidationError) as error:
        raise StoreUnavailable(f"{where} was replaced while it was being read; try again") from error
    except boto.BotoCoreError as error:
        raise Permanent(f"{where}: {error}") from error


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _from_answer(error: Any, where: str, writing: bool) -> VitrineError:
    """The error that an S3 answer means."""
    status, code = _status(error), error.response.get("Error", {}).get("Code", "")
    said = f"{where}: S3 answered {status}" + f" {code}" * (code != str(status))  # HEAD has no code
    if code == "NoSuchBucket":
        return BadConfig(f"{said}; create the bucket (aws s3 mb s3://BUCKET) or name another")
    if code == "NoSuchUpload":  # its end was told, the answer lost, and the telling repeated
        return StoreUnavailable(f"{said}: the upload was ended or aborted before; try again")
    if status == 404:
        return NotFound(f"no object {where}")
    if status >= 500 or status in {408, 409, 412, 429} or code in _THROTTLED:
        return StoreUnavailable(f"{said}; try again")
    if code in _WRONG_CLOCK:
        return Permanent(f"{said}; set this machine's clock, which is minutes away from the server's")
    if status in {401, 403} or code in _BAD_CREDENTIALS:
        if writing:
            return StoreNotWritable(f"{said}; check the credentials, which want s3:PutObject and s3:DeleteObject there")
        return Permanent(f"{said}; check the credentials, which want s3:GetObject and s3:ListBucket there")
    return Permanent(said)
