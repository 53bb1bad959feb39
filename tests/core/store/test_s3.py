"""What only S3 does to a store: pages, multipart uploads, lost and false answers, credentials, local copies."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import BadConfig, NotFound, Permanent, StoreNotWritable, StoreUnavailable
from retrieval_core.store import s3
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.faults.s3_proxy import NO_FAULT, Fault, Proxy, running_proxy

CLOSED_PORT = "http://127.0.0.1:1"

pytestmark = pytest.mark.usefixtures("aws_environment")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="session")
def shared_proxy(s3_endpoint: str) -> Iterator[Proxy]:
    with running_proxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    shared_proxy.fault = NO_FAULT
    return shared_proxy


@pytest.fixture
def proxied_store(bucket: str, proxy: Proxy, tmp_path: Path) -> Store:
    return open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url, cache_dir=tmp_path / "cache")


# Listing


def test_a_listing_goes_past_the_first_page_of_s3(bucket: str, s3_store: Store) -> None:
    from moto.s3.models import s3_backends

    keys = [f"part-{i:04}" for i in range(1005)]
    for key in keys:  # past the server's door, for speed
        s3_backends["123456789012"]["aws"].put_object(bucket, f"house/{key}", b"")

    assert list(s3_store.list("")) == keys


def test_stores_in_one_bucket_do_not_see_each_other(bucket: str, s3_store: Store, s3_endpoint: str) -> None:
    neighbour = open_store(f"s3://{bucket}/house2/", s3_endpoint_url=s3_endpoint)
    whole = open_store(f"s3://{bucket}", s3_endpoint_url=s3_endpoint)
    s3_store.put("a", b"1")
    neighbour.put("a", b"2")

    assert list(s3_store.list("")) == ["a"]
    assert s3_store.get("a") == b"1"
    assert list(whole.list("")) == ["house/a", "house2/a"]


# The first writer


def test_a_concurrent_swap_is_noticed(proxy: Proxy, proxied_store: Store) -> None:
    proxied_store.put("alias", b"1")
    proxy.fault = Fault("PUT", "refuse 412 PreconditionFailed")

    assert not proxied_store.compare_and_swap("alias", b"2", b"1")
    assert proxied_store.get("alias") == b"1"


def test_a_put_whose_answer_was_lost_is_still_ours(proxy: Proxy, proxied_store: Store) -> None:
    proxy.fault = Fault("PUT", "lose the answer")
    assert proxied_store.put_if_absent("manifest.json", b"mine")

    proxy.fault = Fault("PUT", "lose the answer")
    assert proxied_store.compare_and_swap("manifest.json", b"mine too", b"mine")
    assert proxied_store.get("manifest.json") == b"mine too"


def test_a_conflict_that_left_no_object_may_be_retried(proxy: Proxy, proxied_store: Store) -> None:
    proxy.fault = Fault("PUT", "refuse 409 ConditionalRequestConflict")

    with pytest.raises(StoreUnavailable):
        proxied_store.put_if_absent("a", b"1")
    assert proxied_store.put_if_absent("a", b"1")


# Never part of an object


def test_a_large_file_is_uploaded_in_parts_and_downloaded_whole(
    bucket: str, s3_client: Any, s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MULTIPART_THRESHOLD_BYTES", 2**20)
    source = tmp_path / "large"
    data = os.urandom(9 * 2**20)
    source.write_bytes(data)

    s3_store.put_file("large", source)

    assert s3_client.head_object(Bucket=bucket, Key="house/large")["ETag"].strip('"').endswith("-2")
    assert s3_store.local_path("large", sha256(data)).read_bytes() == data


# Local files


def test_a_flipped_bit_in_the_local_copy_is_repaired(s3_store: Store) -> None:
    good = bytes(1000)
    s3_store.put("part", good)
    s3_store.local_path("part", sha256(good)).write_bytes(b"\x01" + good[1:])

    assert s3_store.local_path("part", sha256(good)).read_bytes() == good


def test_an_immutable_object_is_fetched_once_and_then_needs_no_network(proxy: Proxy, proxied_store: Store) -> None:
    proxied_store.put("part", b"x")
    proxied_store.local_path("part", sha256(b"x"))
    proxy.fault = NO_FAULT  # count from here

    assert proxied_store.local_path("part", sha256(b"x")).read_bytes() == b"x"
    assert proxy.n_met == 0


def test_an_unchanged_object_is_checked_but_not_fetched_again(proxy: Proxy, proxied_store: Store) -> None:
    proxied_store.put("part", b"x")
    proxied_store.local_path("part")
    proxy.fault = Fault("GET", "refuse 403 AccessDenied", times=1000)

    assert proxied_store.local_path("part").read_bytes() == b"x"


def test_copies_of_two_stores_are_kept_apart(bucket: str, s3_endpoint: str, tmp_path: Path) -> None:
    stores = [
        open_store(f"s3://{bucket}/{name}", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache") for name in "ab"
    ]
    for store, data in zip(stores, (b"1", b"2"), strict=True):
        store.put("part", data)

    assert [store.local_path("part").read_bytes() for store in stores] == [b"1", b"2"]


def test_a_cache_that_cannot_be_written_says_so(bucket: str, s3_endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(f"s3://{bucket}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "file" / "cache")
    store.put("part", b"x")

    with pytest.raises(StoreNotWritable, match="cache"):
        store.local_path("part")


# Stores that refuse or do not answer


def test_an_absent_endpoint_is_reported_quickly(tmp_path: Path) -> None:
    store = open_store("s3://bucket/house", s3_endpoint_url=CLOSED_PORT, cache_dir=tmp_path)
    start = time.monotonic()

    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.get("a")
    assert time.monotonic() - start < 10


def test_a_store_on_this_machine_is_reached_without_a_proxy(
    bucket: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    endpoint = s3_endpoint.replace("127.0.0.1", "localhost")  # of which there is no client yet
    store = open_store(f"s3://{bucket}/house", s3_endpoint_url=endpoint, cache_dir=tmp_path)
    store.put("a", b"1")
    assert store.get("a") == b"1"


def test_an_absent_bucket_is_a_matter_of_configuration(s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket/house", s3_endpoint_url=s3_endpoint)

    for use in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: list(store.list(""))):
        with pytest.raises(BadConfig, match="create the bucket"):
            use()


@pytest.mark.parametrize("answer", ["403 AccessDenied", "403 SignatureDoesNotMatch", "400 ExpiredToken"])
def test_refused_credentials_are_reported_by_what_was_tried(
    proxy: Proxy, proxied_store: Store, answer: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    proxy.fault = Fault("", f"refuse {answer}", times=1000)

    for write in (
        lambda: proxied_store.put("a", b"1"),
        lambda: proxied_store.put_if_absent("a", b"1"),
        lambda: proxied_store.put_file("a", source),
        lambda: proxied_store.delete("a"),
    ):
        with pytest.raises(StoreNotWritable, match=answer):
            write()
    for read in (lambda: proxied_store.get("a"), lambda: list(proxied_store.list(""))):
        with pytest.raises(Permanent, match="check the credentials") as caught:
            read()
        assert not isinstance(caught.value, NotFound | StoreNotWritable)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_an_overloaded_server_is_retried_and_then_given_up(proxy: Proxy, proxied_store: Store) -> None:
    proxied_store.put("a", b"1")
    proxy.fault = Fault("GET", "refuse 503 SlowDown")
    assert proxied_store.get("a") == b"1"

    proxy.fault = Fault("GET", "refuse 503 SlowDown", times=3)
    with pytest.raises(StoreUnavailable, match="503 SlowDown"):
        proxied_store.get("a")


def test_a_truncated_answer_is_never_taken_for_the_object(proxy: Proxy, proxied_store: Store) -> None:
    proxied_store.put("a", b"1" * 1000)
    proxy.fault = Fault("GET", "cut the answer")
    with pytest.raises(StoreUnavailable):
        proxied_store.get("a")

    proxy.fault = Fault("GET", "cut the answer")
    assert proxied_store.local_path("a").read_bytes() == b"1" * 1000


def test_absent_credentials_are_a_matter_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(BadConfig, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket", s3_endpoint_url="http://127.0.0.1:2").get("a")


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://user:pw@host", "http://"])
def test_a_malformed_endpoint_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(BadConfig, match="http") as caught:
        open_store("s3://bucket", s3_endpoint_url=endpoint).get("a")
    assert "pw" not in str(caught.value)


def test_nothing_heavy_is_imported_before_s3_is_used() -> None:
    code = (
        "import sys; from retrieval_core.store.uris import open_store; open_store('s3://bucket/p'); "
        "sys.exit('boto3' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
