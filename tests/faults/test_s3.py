"""Faults of an S3 server and of the network before it, produced by a proxy in front of moto."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.artifacts.shards import Target, plan_work
from retrieval_core.errors import Permanent, StoreUnavailable
from retrieval_core.store import s3
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.faults.s3_proxy import Fault, Proxy, running_proxy, write_certificate

TIMEOUT_S = 0.4
MAX_TRIES = 3
OLD, NEW = b"old" * 1000, b"new" * 1000

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture
def proxy(bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A new proxy for each test, and so a new client, which retries without delay."""
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    with running_proxy(s3_endpoint) as running:
        yield running


@pytest.fixture
def store(proxy: Proxy, bucket: str, tmp_path: Path) -> Store:
    return open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url, cache_dir=tmp_path / "cache")


@pytest.fixture
def truth(bucket: str, s3_endpoint: str, tmp_path: Path) -> Store:
    """The same store without the proxy; it holds `a`."""
    direct = open_store(f"s3://{bucket}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "another cache")
    direct.put("a", OLD)
    return direct


class Operation(NamedTuple):
    method: str  # of its request
    run: Callable[[Store, Path], Any]
    result: Any  # without a fault
    after: dict[str, bytes]  # the store's contents then


def _put_file(store: Store, folder: Path) -> None:
    (folder / "file").write_bytes(NEW)
    store.put_file("a", folder / "file")


OPERATIONS = {
    "get": Operation("GET", lambda store, _: store.get("a"), OLD, {"a": OLD}),
    "put": Operation("PUT", lambda store, _: store.put("a", NEW), None, {"a": NEW}),
    "put_if_absent": Operation("PUT", lambda store, _: store.put_if_absent("b", NEW), True, {"a": OLD, "b": NEW}),
    "put_file": Operation("PUT", _put_file, None, {"a": NEW}),
    "compare_and_swap": Operation("PUT", lambda store, _: store.compare_and_swap("a", NEW, OLD), True, {"a": NEW}),
    "exists": Operation("HEAD", lambda store, _: store.exists("a"), True, {"a": OLD}),
    "size_bytes": Operation("HEAD", lambda store, _: store.size_bytes("a"), len(OLD), {"a": OLD}),
    "list": Operation("GET", lambda store, _: list(store.list("")), ["a"], {"a": OLD}),
    "delete": Operation("DELETE", lambda store, _: store.delete("a"), None, {}),
    "local_path": Operation("GET", lambda store, _: store.local_path("a").read_bytes(), OLD, {"a": OLD}),
}
FAULTS = (
    "refuse 503 SlowDown", "refuse 400 RequestTimeout", "lose the answer", "do it and say 500 InternalError",
    "cut the request",
)  # fmt: skip


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fails_once_is_retried(
    name: str, what: str, proxy: Proxy, store: Store, truth: Store, tmp_path: Path
) -> None:
    operation = OPERATIONS[name]
    if operation.method == "HEAD" and what == "refuse 400 RequestTimeout":
        what = "refuse 503 SlowDown"  # an answer without a body has no code
    proxy.fault = Fault(operation.method, what)

    assert operation.run(store, tmp_path) == operation.result
    assert proxy.n_met >= 2
    assert contents(truth) == operation.after


@pytest.mark.parametrize("what", ["refuse 503 SlowDown", "lose the answer", "cut the request"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fails_every_time_is_given_up_and_changes_all_or_nothing(
    name: str, what: str, proxy: Proxy, store: Store, truth: Store, tmp_path: Path
) -> None:
    operation = OPERATIONS[name]
    proxy.fault = Fault(operation.method, what, times=1000)

    with pytest.raises(StoreUnavailable, match=r"s3://.*/house"):
        operation.run(store, tmp_path)
    assert 1 < proxy.n_met <= MAX_TRIES
    assert contents(truth) in ({"a": OLD}, operation.after)
    if what.startswith("refuse") or (operation.method == "PUT" and what == "cut the request"):
        assert contents(truth) == {"a": OLD}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["get", "put", "list"])
def test_a_server_that_does_not_answer_is_tried_three_times(
    name: str, proxy: Proxy, store: Store, truth: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", TIMEOUT_S)
    operation = OPERATIONS[name]
    proxy.fault = Fault(operation.method, "hang", times=1000)

    with pytest.raises(StoreUnavailable, match="does not answer"):
        operation.run(store, tmp_path)
    assert proxy.n_met == MAX_TRIES
    assert contents(truth) == {"a": OLD}


def test_a_wrong_clock_is_named(proxy: Proxy, store: Store, truth: Store) -> None:
    proxy.fault = Fault("GET", "refuse 403 RequestTimeTooSkewed", times=1000)
    with pytest.raises(Permanent, match="set this machine's clock"):
        store.get("a")


def test_uploads_over_https_are_not_chunked(
    s3_endpoint: str, bucket: str, truth: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "both.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with running_proxy(s3_endpoint, certificate) as proxy:
        store = open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url)
        _put_file(store, tmp_path)
        assert truth.get("a") == NEW
        store.put("a", OLD)
        assert store.compare_and_swap("a", NEW, OLD)
        assert store.put_if_absent("b", OLD)
    assert contents(truth) == {"a": NEW, "b": OLD}


@pytest.mark.parametrize("secure", [False, True])
def test_bytes_altered_in_transit_are_not_taken_for_the_object(
    secure: bool, s3_endpoint: str, bucket: str, truth: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "both.pem") if secure else None
    if certificate:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with running_proxy(s3_endpoint, certificate) as proxy:
        store = open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url)
        store.put("a", NEW)
        proxy.fault = Fault("GET", "flip a bit", times=1000)
        with pytest.raises(StoreUnavailable):
            store.get("a")
    assert truth.get("a") == NEW


class TestMultipart:
    """Large files are uploaded and downloaded in several requests."""

    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "MULTIPART_THRESHOLD_BYTES", 2**20)

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "large"
        path.write_bytes(os.urandom(9 * 2**20))
        return path

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("PUT", "cut the request", 1, "partNumber=2"),
            Fault("PUT", "refuse 503 SlowDown", 2, "partNumber=1"),
            Fault("POST", "lose the answer", 1, "uploads"),
            Fault("POST", "lose the answer", 1, "uploadId"),
            Fault("POST", "refuse 200 InternalError", 1, "uploadId"),
            Fault("POST", "refuse 500 InternalError", 1, "uploadId"),
        ],
        ids=lambda fault: f"{fault.what} {fault.where}",
    )
    def test_a_part_that_was_lost_is_sent_again(
        self, fault: Fault, proxy: Proxy, store: Store, truth: Store, file: Path
    ) -> None:
        proxy.fault = fault
        store.put_file("a", file)
        assert truth.get("a") == file.read_bytes()

    @pytest.mark.parametrize("where", ["partNumber=2", "uploadId"])
    @pytest.mark.parametrize("what", ["refuse 503 SlowDown", "lose the answer"])
    def test_an_upload_that_cannot_be_completed_leaves_nothing_behind(
        self, what: str, where: str, proxy: Proxy, store: Store, truth: Store, file: Path, bucket: str, s3_client: Any
    ) -> None:
        method = "PUT" if "part" in where else "POST"
        proxy.fault = Fault(method, what, 1000, where)

        with pytest.raises(StoreUnavailable):
            store.put_file("a", file)
        was_ended = what == "lose the answer" and where == "uploadId"
        assert truth.get("a") == (file.read_bytes() if was_ended else OLD)
        assert not s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads")

    def test_an_upload_that_the_server_forgot_may_be_retried(
        self, proxy: Proxy, store: Store, truth: Store, file: Path
    ) -> None:
        proxy.fault = Fault("POST", "refuse 404 NoSuchUpload", 1, "uploadId")
        with pytest.raises(StoreUnavailable, match="NoSuchUpload"):
            store.put_file("a", file)
        store.put_file("a", file)
        assert truth.get("a") == file.read_bytes()

    @pytest.mark.parametrize("times", [1, 3])
    def test_a_download_that_was_cut_is_resumed(
        self, times: int, proxy: Proxy, store: Store, truth: Store, file: Path
    ) -> None:
        truth.put_file("a", file)
        proxy.fault = Fault("GET", "cut the answer", times)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert store.local_path("a", sha256).read_bytes() == file.read_bytes()

    def test_a_download_that_is_cut_every_time_leaves_the_previous_copy(
        self, proxy: Proxy, store: Store, truth: Store, file: Path
    ) -> None:
        copy = store.local_path("a")
        truth.put_file("a", file)
        proxy.fault = Fault("GET", "cut the answer", 1000)

        with pytest.raises(StoreUnavailable):
            store.local_path("a")
        assert copy.read_bytes() == OLD

    def test_an_object_replaced_between_the_parts_of_its_download_is_never_a_mixture(
        self, proxy: Proxy, store: Store, truth: Store, file: Path
    ) -> None:
        truth.put_file("a", file)
        other = bytes(9 * 2**20)
        proxy.fault, proxy.between = Fault("GET", "wait, then", after=1), lambda: truth.put("a", other)

        with suppress(StoreUnavailable):
            assert store.local_path("a").read_bytes() in (file.read_bytes(), other)
        assert proxy.n_met > 1
        assert store.local_path("a").read_bytes() == other


class TestLaggingListings:
    def test_a_part_that_a_listing_omits_counts_as_missing(self, proxy: Proxy, store: Store) -> None:
        import polars as pl

        for name in ("p1", "p2"):
            put_growing_part(store, "vectors", "f", name, vectors_bytes([f"id-{name}"], np.ones((1, 2), np.float32)), 1)
        wanted = pl.DataFrame({"content_id": ["id-p1", "id-p2"], "image_uri": "u", "item_id": ["1", "2"]})
        proxy.hidden = "p2"

        assert plan_work(store, [Target(folder=VectorSet.folder, family="f")], wanted, 10).n_missing == 1
        lagging = seal_vectors(store, "f", "raw", 2, "c", wanted["content_id"])
        assert lagging.counts["rows"] == 1

        proxy.hidden = ""
        whole = seal_vectors(store, "f", "raw", 2, "c", wanted["content_id"])
        assert whole.counts["rows"] == 2
        assert (
            whole.fingerprint != lagging.fingerprint
        )  # the set sealed too early does not stand in for the complete one

    def test_the_first_writer_is_decided_by_the_object_and_not_by_a_listing(self, proxy: Proxy, store: Store) -> None:
        assert store.put_if_absent("manifest.json", OLD)
        proxy.hidden = "manifest.json"

        assert list(store.list("")) == []
        assert store.exists("manifest.json")
        assert not store.put_if_absent("manifest.json", NEW)
        assert not store.compare_and_swap("manifest.json", NEW, None)
        assert store.get("manifest.json") == OLD
