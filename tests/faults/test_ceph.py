"""What moto does not check: signatures, permissions, conditions and uploads, against Ceph. `make test-ceph` runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from retrieval_core.artifacts import releases
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, Permanent, StoreNotWritable, StoreUnavailable
from retrieval_core.maintenance.vacuum import DAY_S, Policy, apply, plan_vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import s3
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
from tests.faults.ceph import Gateway, running_ceph
from tests.faults.s3_proxy import Fault, running_proxy, write_certificate

pytestmark = pytest.mark.skipif(
    os.environ.get("TEST_CEPH") != "1", reason="needs Ceph's programs: `make test-ceph` installs and runs them"
)

ACCESS_KEY, SECRET_KEY = "VITRINEKEY", "swordfish/of+vitrine"
WRITERS, ROUNDS = 8, 20
BUCKET = "vitrine-test"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate") / "both.pem")


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Gateway]:
    with running_ceph(tmp_path_factory.mktemp("ceph"), certificate) as gateway:
        gateway.add_user("vitrine", ACCESS_KEY, SECRET_KEY)
        gateway.add_user("stranger", "STRANGERSKEY", "marlin")
        yield gateway


@pytest.fixture
def client(ceph: Gateway) -> Any:
    import boto3

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    return boto3.client("s3", endpoint_url=ceph.url, region_name="us-east-1", **keys)


@pytest.fixture(autouse=True)
def _keys(aws_environment: None, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))


@pytest.fixture
def prefix(client: Any) -> Iterator[str]:
    """The address of an empty store in a new bucket."""
    client.create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/house"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys}) if keys else None
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def store(ceph: Gateway, prefix: str, tmp_path: Path) -> Store:
    return open_store(prefix, s3_endpoint_url=ceph.url, cache_dir=tmp_path / "cache")


InThreads = Callable[[int, Callable[[int], Any]], list[Any]]


class TestFirstWriter:
    def test_of_eight_that_put_at_once_one_wins(self, store: Store, in_threads: InThreads) -> None:
        for number in range(ROUNDS):
            key, data = f"manifest-{number}", [b"%d" % writer for writer in range(WRITERS)]
            won = in_threads(WRITERS, lambda writer, key=key, data=data: store.put_if_absent(key, data[writer]))
            assert won.count(True) == 1
            assert store.get(key) == data[won.index(True)]

    def test_of_eight_that_swap_at_once_one_wins(self, store: Store, in_threads: InThreads) -> None:
        current = b"start"
        store.put_if_absent("alias", current)
        for number in range(ROUNDS):
            data = [b"%d by %d" % (number, writer) for writer in range(WRITERS)]
            won = in_threads(
                WRITERS,
                lambda writer, data=data, current=current: store.compare_and_swap("alias", data[writer], current),
            )
            assert won.count(True) == 1
            current = data[won.index(True)]
            assert store.get("alias") == current

    def test_no_move_of_an_alias_is_lost(self, store: Store, in_threads: InThreads) -> None:
        def move(writer: int) -> int:
            moved = 0
            for number in range(3):
                with suppress(AliasConflict):
                    releases.point_alias(store, "latest", f"{writer}-{number}")
                    moved += 1
            return moved

        moved = sum(in_threads(WRITERS, move))
        alias = releases.read_alias(store, "latest")
        assert alias
        assert moved >= WRITERS
        assert len({alias.release, *alias.history}) == moved

    def test_a_swap_of_something_else_changes_nothing(self, store: Store) -> None:
        assert not store.compare_and_swap("alias", b"2", b"1")
        assert store.compare_and_swap("alias", b"1", None)
        assert not store.compare_and_swap("alias", b"2", None)
        assert not store.compare_and_swap("alias", b"2", b"another")
        assert store.get("alias") == b"1"

    @pytest.mark.parametrize("what", ["lose the answer", "do it and say 500 InternalError", "cut the request"])
    def test_a_winner_whose_answer_was_lost_still_knows(
        self, what: str, ceph: Gateway, prefix: str, store: Store, tmp_path: Path
    ) -> None:
        with running_proxy(ceph.url) as proxy:
            troubled = open_store(prefix, s3_endpoint_url=proxy.url, cache_dir=tmp_path)
            proxy.fault = Fault("PUT", what)
            assert troubled.put_if_absent("alias", b"1")
            proxy.fault = Fault("PUT", what)
            assert troubled.compare_and_swap("alias", b"2", b"1")
        assert store.get("alias") == b"2"


class TestPermissions:
    @pytest.mark.parametrize("name", ["wrong secret", "unknown key", "a stranger"])
    def test_without_permission_nothing_is_read_or_written_and_the_error_says_why(
        self,
        name: str,
        ceph: Gateway,
        prefix: str,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        store.put("a", b"1")
        keys = {
            "wrong secret": (ACCESS_KEY, "marlin"),
            "unknown key": ("NOBODY", "marlin"),
            "a stranger": ("STRANGERSKEY", "marlin"),
        }
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[name][0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[name][1])
        s3._make_client.cache_clear()
        barred = open_store(prefix, s3_endpoint_url=ceph.url, cache_dir=tmp_path / "another cache")
        reads = (
            lambda: barred.get("a"),
            lambda: barred.exists("a"),
            lambda: list(barred.list("")),
            lambda: barred.local_path("a"),
        )
        writes = (lambda: barred.put("a", b"2"), lambda: barred.put_if_absent("b", b"2"), lambda: barred.delete("a"))
        for use, error in [*((use, Permanent) for use in reads), *((use, StoreNotWritable) for use in writes)]:
            with pytest.raises(error, match=r"403.*check the credentials") as caught:
                use()
            assert "marlin" not in str(caught.value)

        monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", ceph.url)
        assert main(["status", "--store", prefix]) == 1
        output = "".join(capfd.readouterr())
        assert "check the credentials" in output
        assert "marlin" not in output

        s3._make_client.cache_clear()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        assert {key: store.get(key) for key in store.list("")} == {"a": b"1"}

    def test_a_clock_that_is_an_hour_off_is_named(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore import auth

        right = auth.get_current_datetime
        with monkeypatch.context() as changed:
            changed.setattr(auth, "get_current_datetime", lambda *args: right(*args) - timedelta(hours=1))
            with pytest.raises(Permanent, match="set this machine's clock"):
                store.get("a")

    def test_an_absent_bucket_is_a_matter_of_configuration(self, ceph: Gateway, tmp_path: Path) -> None:
        absent = open_store("s3://no-such-bucket/house", s3_endpoint_url=ceph.url, cache_dir=tmp_path)
        for use in (lambda: absent.get("a"), lambda: absent.put("a", b""), lambda: list(absent.list(""))):
            with pytest.raises(BadConfig, match="create the bucket"):
                use()


class TestObjects:
    @pytest.fixture(params=["http", "https"])
    def either(self, request: pytest.FixtureRequest, ceph: Gateway, prefix: str, tmp_path: Path) -> Store:
        url = ceph.url if request.param == "http" else ceph.secure_url
        return open_store(prefix, s3_endpoint_url=url, cache_dir=tmp_path / "cache")

    def test_what_is_put_is_got_and_what_is_deleted_is_gone(self, either: Store) -> None:
        either.put("a/b@1=2+3._-", b"1")
        either.put("a/b@1=2+3._-", b"22")
        assert either.get("a/b@1=2+3._-") == b"22"
        assert either.size_bytes("a/b@1=2+3._-") == 2
        assert [entry.size_bytes for entry in either.entries("a/b")] == [2]
        assert all(abs(entry.modified_s - time.time()) < 60 for entry in either.entries(""))
        either.delete("a/b@1=2+3._-")
        either.delete("a/b@1=2+3._-")
        assert not either.exists("a/b@1=2+3._-")
        with pytest.raises(NotFound):
            either.get("a/b@1=2+3._-")

    def test_a_large_file_goes_up_in_parts_and_comes_down_whole(
        self, either: Store, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "MULTIPART_THRESHOLD_BYTES", 2**20)
        source = tmp_path / "large"
        source.write_bytes(os.urandom(9 * 2**20))
        either.put_file("large", source)
        assert client.head_object(Bucket=BUCKET, Key="house/large")["ETag"].strip('"').endswith("-2")
        assert either.local_path("large", file_sha256(source)).read_bytes() == source.read_bytes()
        assert either.local_path("large").read_bytes() == source.read_bytes()

    @pytest.mark.parametrize(
        "fault",
        [Fault("PUT", "cut the request", 1, "partNumber=2"), Fault("POST", "lose the answer", 1, "uploadId")],
        ids=lambda fault: fault.what,
    )
    def test_an_upload_whose_connection_broke_is_complete_or_may_be_retried(
        self,
        fault: Fault,
        ceph: Gateway,
        prefix: str,
        store: Store,
        client: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(s3, "MULTIPART_THRESHOLD_BYTES", 2**20)
        source = tmp_path / "large"
        source.write_bytes(os.urandom(9 * 2**20))
        with running_proxy(ceph.url) as proxy:
            proxy.fault = fault
            with suppress(StoreUnavailable):
                open_store(prefix, s3_endpoint_url=proxy.url, cache_dir=tmp_path).put_file("large", source)
            assert proxy.n_met >= 1
        if store.exists("large"):
            assert store.get("large") == source.read_bytes()
        assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
        store.put_file("large", source)
        assert store.local_path("large", file_sha256(source)).read_bytes() == source.read_bytes()

    def test_a_listing_goes_past_the_first_page(self, store: Store, in_threads: InThreads) -> None:
        keys = [f"part-{number:04}" for number in range(1005)]
        in_threads(WRITERS, lambda writer: [store.put(key, b"") for key in keys[writer::WRITERS]])
        assert list(store.list("part-")) == keys


def test_runs_and_a_vacuum_leave_the_same_objects_as_in_a_folder(store: Store, local_store: Store) -> None:
    items = [f"item-{number}" for number in range(14)]
    for where in (store, local_store):
        SealedRuns(where).seal(items)
        SealedRuns(where).seal([*items[2:], "item-0@changed", "item-99"])
    assert list(store.list("")) == list(local_store.list(""))
    assert verify(store).ok

    policy = Policy(keep=0, older_than_days=7, safe_hours=24)
    plan = plan_vacuum(store, policy, time.time() + 30 * DAY_S)
    assert plan.keys == plan_vacuum(local_store, policy, time.time() + 30 * DAY_S).keys
    assert apply(store, plan).n_removed == len(plan.keys) > 0
    assert verify(store).ok


def test_a_damaged_object_is_found(store: Store) -> None:
    release = SealedRuns(store).seal([f"item-{number}" for number in range(14)])
    part = next(key for key in store.list(f"{release.index.key}/") if key.endswith("manifest.json"))
    store.put(part, store.get(part)[:-10])
    assert not verify(store).ok
