"""One object on a folder and on S3: every promise of `Store` is tested on both."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core import store as store_module
from retrieval_core.errors import (
    BadConfig,
    NotFound,
    Permanent,
    ShardCorrupt,
    StoreNotWritable,
    StoreUnavailable,
    Transient,
)
from retrieval_core.store import Store, list_uris, open_store, read_uri, stat_uri

SECRET = "not-a-real-secret"
BUCKET = "vitrine-test"
CLOSED_PORT = "http://127.0.0.1:1"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FaultyS3(ThreadingHTTPServer):
    """Passes requests on to a real endpoint, except for the faults laid out for it."""

    daemon_threads = True

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _FaultyHandler)
        self.endpoint = urlsplit(endpoint_url).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, list[str | tuple[int, str]]] = {}
        self.n_requests = 0


class _FaultyHandler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.n_requests += 1
        faults = self.server.faults.get(self.command, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, tuple):
            self._answer(
                fault[0], {}, f"<Error><Code>{fault[1]}</Code><Message>said the server</Message></Error>".encode()
            )
            return
        onward = http.client.HTTPConnection(self.server.endpoint)
        onward.request(self.command, self.path, body, dict(self.headers))
        answer = onward.getresponse()
        data = answer.read()
        onward.close()
        if fault == "lose the answer":
            self.close_connection = True
            return
        self._answer(answer.status, dict(answer.headers), data, cut=fault == "cut the answer short")

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto on loopback, one request at a time: S3 checks and writes a conditional put in one step, moto in two."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def in_turn(environ: Any, start_response: Any) -> Any:
        with turn:
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, in_turn, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fake credentials, and nothing of the machine's own."""
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "VITRINE_S3_ENDPOINT_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def s3(s3_client: Any) -> Iterator[Any]:
    """A client of the server, outside the code under test, and an empty bucket."""
    client = s3_client
    client.create_bucket(Bucket=BUCKET)
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys}) if keys else None
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def s3_store(s3: Any, s3_endpoint: str, tmp_path: Path) -> Store:
    return open_store(f"s3://{BUCKET}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache")


@pytest.fixture(scope="session")
def faulty_server(s3_endpoint: str) -> Iterator[FaultyS3]:
    server = FaultyS3(s3_endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def faulty(s3: Any, faulty_server: FaultyS3) -> FaultyS3:
    faulty_server.faults = {}
    return faulty_server


@pytest.fixture
def faulty_store(faulty: FaultyS3, tmp_path: Path) -> Store:
    return open_store(f"s3://{BUCKET}/house", s3_endpoint_url=faulty.url, cache_dir=tmp_path / "cache")


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    opened: Store = request.getfixturevalue(f"{request.param}_store")
    return opened


@pytest.fixture(params=["local", "s3"])
def folder_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of pictures outside any store, on disk and on S3, holding what `fill` puts there."""
    if request.param == "local":
        return str(tmp_path / "pictures")
    request.getfixturevalue("s3")
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    return f"s3://{BUCKET}/pictures"


def fill(folder_uri: str, files: dict[str, bytes], client: Any) -> None:
    for name, data in files.items():
        if folder_uri.startswith("s3://"):
            client.put_object(Bucket=BUCKET, Key=f"pictures/{name}", Body=data)
        else:
            path = Path(folder_uri, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def in_threads(n: int, work: Callable[[int], Any]) -> list[Any]:
    """`work` of 0 … n-1, all let go at once."""
    gate = threading.Barrier(n)

    def run(i: int) -> Any:
        gate.wait()
        return work(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


# Whole objects


def test_what_was_put_is_read_back(store: Store) -> None:
    store.put("vectors/ab/part-1.parquet", b"\x00\xffdata")
    store.put("vectors/ab/empty", b"")

    assert store.get("vectors/ab/part-1.parquet") == b"\x00\xffdata"
    assert store.get("vectors/ab/empty") == b""
    assert store.size_bytes("vectors/ab/part-1.parquet") == 6
    assert store.exists("vectors/ab/empty")


def test_a_second_put_replaces_the_first(store: Store) -> None:
    store.put("a", b"old and long")
    store.put("a", b"new")

    assert store.get("a") == b"new"


def test_absent_objects_are_not_found(store: Store) -> None:
    store.put("folder/file", b"x")

    for key in ("nothing", "folder", "folder/file/below"):
        assert not store.exists(key)
        for read in (store.get, store.size_bytes, store.local_path):
            with pytest.raises(NotFound, match=key):
                read(key)


def test_a_store_nobody_wrote_to_is_empty(store: Store) -> None:
    assert list(store.list("")) == []
    assert not store.exists("aliases/production")
    store.delete("aliases/production")


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")

    assert not store.exists("a/b")
    assert list(store.list("")) == []


def test_put_file_stores_the_files_bytes(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "index.faiss"
    source.write_bytes(b"faiss" * 1000)

    store.put_file("indexes/1/index.faiss", source)

    assert store.get("indexes/1/index.faiss") == b"faiss" * 1000
    assert source.exists()


def test_put_file_of_an_absent_file_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.bin"):
        store.put_file("a", tmp_path / "absent.bin")


def test_put_file_does_not_hold_the_file_in_memory(local_store: Store, tmp_path: Path) -> None:
    source, file_bytes = tmp_path / "large", 64 * 2**20
    with source.open("wb") as file:
        file.truncate(file_bytes)
    tracemalloc.start()
    try:
        local_store.put_file("large", source)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < file_bytes / 4  # the copy takes 2 MiB; what else this process does is counted too


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        ".",
        ".tmp/a",
        "a/.hidden",
        "a b",
        "a\\b",
        "a\n",
        "å",
        "a\0b",
        "-a",
        "s3://x",
    ],
)
def test_bad_keys_are_refused_before_anything_happens(store: Store, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for use in (
        lambda: store.get(key),
        lambda: store.put(key, b"x"),
        lambda: store.put_if_absent(key, b"x"),
        lambda: store.put_file(key, source),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.size_bytes(key),
        lambda: store.local_path(key),
        lambda: store.compare_and_swap(key, b"x", b"y"),
    ):
        with pytest.raises(Permanent, match="is not a store key"):
            use()
    assert list(store.list("")) == []


_segments = st.text(string.ascii_lowercase + string.digits + "._=+-", min_size=1, max_size=8).filter(
    lambda name: name[0] not in "._=+-"
)
_keys = st.lists(_segments, min_size=1, max_size=4).map("/".join)


def _no_key_is_a_folder(objects: dict[str, bytes]) -> bool:
    return not any(other.startswith(f"{key}/") for key in objects for other in objects)


@settings(deadline=None, max_examples=30)
@given(objects=st.dictionaries(_keys, st.binary(max_size=64), max_size=6).filter(_no_key_is_a_folder), data=st.data())
def test_a_folder_behaves_as_a_sorted_dictionary(objects: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for key, value in objects.items():
            store.put(key, value)
        prefix = data.draw(st.sampled_from([key[:cut] for key in objects for cut in range(len(key) + 1)] or [""]))

        assert {key: store.get(key) for key in store.list("")} == objects
        assert list(store.list(prefix)) == sorted(key for key in objects if key.startswith(prefix))


# Listing


def test_a_listing_is_recursive_in_byte_order_and_by_prefix(store: Store) -> None:
    for key in ("b", "a/c", "a.b", "a/b/d", "ab", "a-b"):
        store.put(key, b"")

    assert list(store.list("")) == ["a-b", "a.b", "a/b/d", "a/c", "ab", "b"]
    assert list(store.list("a/")) == ["a/b/d", "a/c"]
    assert list(store.list("a/b")) == ["a/b/d"]
    assert list(store.list("absent/")) == []


@pytest.mark.parametrize("prefix", ["..", "../", "/", "a//", ".tmp/", "a b"])
def test_a_listing_outside_the_store_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(Permanent, match="cannot start a store key"):
        list(store.list(prefix))


def test_a_listing_goes_past_the_first_page_of_s3(s3_store: Store) -> None:
    from moto.s3.models import s3_backends

    keys = [f"part-{i:04}" for i in range(1005)]
    for key in keys:  # past the server's door, for speed
        s3_backends["123456789012"]["aws"].put_object(BUCKET, f"house/{key}", b"")

    assert list(s3_store.list("")) == keys


def test_stores_in_one_bucket_do_not_see_each_other(s3_store: Store, s3_endpoint: str) -> None:
    neighbour = open_store(f"s3://{BUCKET}/house2/", s3_endpoint_url=s3_endpoint)
    whole = open_store(f"s3://{BUCKET}", s3_endpoint_url=s3_endpoint)
    s3_store.put("a", b"1")
    neighbour.put("a", b"2")

    assert list(s3_store.list("")) == ["a"]
    assert s3_store.get("a") == b"1"
    assert list(whole.list("")) == ["house/a", "house2/a"]


def test_files_that_others_left_in_the_folder_are_no_objects(local_store: Store) -> None:
    local_store.put("a", b"1")
    root = Path(local_store.url)
    (root / ".DS_Store").write_bytes(b"")
    (root / "my notes.txt").write_bytes(b"")

    assert list(local_store.list("")) == ["a"]


# Who was first


def test_put_if_absent_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_of_eight_at_once_one_puts(store: Store) -> None:
    won = in_threads(8, lambda i: store.put_if_absent("manifest.json", b"%d" % i))

    assert won.count(True) == 1
    assert store.get("manifest.json") == b"%d" % won.index(True)


def test_of_eight_at_once_one_puts_where_there_are_no_hard_links(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    assert in_threads(8, lambda i: local_store.put_if_absent("a", b"%d" % i)).count(True) == 1


def test_compare_and_swap_moves_only_what_it_expected(store: Store) -> None:
    assert not store.compare_and_swap("aliases/production", b"2", b"1")
    assert store.compare_and_swap("aliases/production", b"1", None)
    assert not store.compare_and_swap("aliases/production", b"x", None)
    assert not store.compare_and_swap("aliases/production", b"x", b"0")
    assert store.compare_and_swap("aliases/production", b"2", b"1")
    assert store.get("aliases/production") == b"2"


def test_no_update_is_lost_between_racing_swaps(store: Store) -> None:
    store.put("counter", b"0")

    def add_five(_: int) -> None:
        for _ in range(5):
            while True:
                seen = store.get("counter")
                if store.compare_and_swap("counter", b"%d" % (int(seen) + 1), seen):
                    break

    in_threads(4, add_five)

    assert store.get("counter") == b"20"


def test_a_swap_between_the_read_and_the_write_of_another_is_noticed(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty_store.put("alias", b"1")
    faulty.faults["PUT"] = [(412, "PreconditionFailed")]

    assert not faulty_store.compare_and_swap("alias", b"2", b"1")
    assert faulty_store.get("alias") == b"1"


def test_a_put_whose_answer_was_lost_is_still_ours(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty.faults["PUT"] = ["lose the answer"]
    assert faulty_store.put_if_absent("manifest.json", b"mine")

    faulty.faults["PUT"] = ["lose the answer"]
    assert faulty_store.compare_and_swap("manifest.json", b"mine too", b"mine")
    assert faulty_store.get("manifest.json") == b"mine too"


def test_a_conflict_that_left_nothing_is_worth_a_retry(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty.faults["PUT"] = [(409, "ConditionalRequestConflict")]

    with pytest.raises(StoreUnavailable):
        faulty_store.put_if_absent("a", b"1")
    assert faulty_store.put_if_absent("a", b"1")


# Never half an object


def test_a_reader_sees_the_old_or_the_new_object(store: Store) -> None:
    versions = [bytes([letter]) * 300_000 for letter in b"ab"]
    store.put("a", versions[0])
    stop = threading.Event()

    def write() -> None:
        for i in range(200):
            if stop.is_set():
                break
            store.put("a", versions[i % 2])

    writer = threading.Thread(target=write)
    writer.start()
    seen = {store.get("a") for _ in range(30)}
    stop.set()
    writer.join()

    assert seen <= set(versions)


_PUT_A_PIPE = """
import sys
from pathlib import Path
from retrieval_core.store import open_store
open_store(sys.argv[1], s3_endpoint_url=sys.argv[2] or None).put_file("index.faiss", Path(sys.argv[3]))
"""


@pytest.mark.parametrize("before", [None, b"last night's"], ids=["nothing before", "replacing"])
def test_a_writer_killed_half_way_leaves_what_was_there(
    store: Store, before: bytes | None, s3_endpoint: str, tmp_path: Path
) -> None:
    if before is not None:
        store.put("index.faiss", before)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    endpoint = s3_endpoint if store.url.startswith("s3://") else ""
    writer = subprocess.Popen([sys.executable, "-c", _PUT_A_PIPE, store.url, endpoint, str(pipe)])
    with pipe.open("wb", buffering=0) as source:
        source.write(bytes(20 * 2**20))  # returns when the writer has taken nearly all of it
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    assert list(store.list("")) == ([] if before is None else ["index.faiss"])
    assert before is None or store.get("index.faiss") == before


def test_a_days_old_temporary_file_is_swept(local_store: Store) -> None:
    abandoned, recent = Path(local_store.url, ".tmp", "old"), Path(local_store.url, ".tmp", "recent")
    abandoned.parent.mkdir(parents=True)
    abandoned.write_bytes(b"half")
    recent.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 2 * 86_400,) * 2)

    local_store.put("a", b"1")

    assert not abandoned.exists()
    assert recent.exists()


def test_a_large_file_goes_up_in_parts_and_comes_down_whole(
    s3: Any, s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MULTIPART_THRESHOLD_BYTES", 2**20)
    source = tmp_path / "large"
    data = os.urandom(9 * 2**20)
    source.write_bytes(data)

    s3_store.put_file("large", source)

    assert s3.head_object(Bucket=BUCKET, Key="house/large")["ETag"].strip('"').endswith("-2")
    assert s3_store.local_path("large", sha256(data)).read_bytes() == data


# Local files


def test_a_local_path_holds_the_objects_bytes(store: Store) -> None:
    store.put("indexes/1/index.faiss", b"faiss")
    store.put("indexes/1/vectors.arrow", b"arrow")

    index, vectors = (
        store.local_path("indexes/1/index.faiss"),
        store.local_path("indexes/1/vectors.arrow", sha256(b"arrow")),
    )

    assert index.read_bytes() == b"faiss"
    assert vectors.read_bytes() == b"arrow"
    assert index.name == "index.faiss"
    assert index.parent == vectors.parent


def test_a_flipped_bit_in_the_store_is_found(store: Store) -> None:
    good = bytes(1000)
    store.put("part", b"\x01" + good[1:])

    with pytest.raises(ShardCorrupt, match="part"):
        store.local_path("part", sha256(good))


def test_a_flipped_bit_in_the_local_copy_is_mended(s3_store: Store) -> None:
    good = bytes(1000)
    s3_store.put("part", good)
    s3_store.local_path("part", sha256(good)).write_bytes(b"\x01" + good[1:])

    assert s3_store.local_path("part", sha256(good)).read_bytes() == good


def test_a_replaced_object_is_not_served_from_an_old_copy(store: Store) -> None:
    store.put("report.html", b"night 1")
    first = store.local_path("report.html").read_bytes()
    store.put("report.html", b"night 2")

    assert first == b"night 1"
    assert store.local_path("report.html").read_bytes() == b"night 2"
    store.put("report.html", b"night 3")
    assert store.local_path("report.html", sha256(b"night 3")).read_bytes() == b"night 3"


def test_a_deleted_object_is_not_served_from_an_old_copy(store: Store) -> None:
    store.put("report.html", b"night 1")
    store.local_path("report.html")
    store.delete("report.html")

    with pytest.raises(NotFound):
        store.local_path("report.html")


def test_an_immutable_object_is_fetched_once_and_then_needs_no_network(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty_store.put("part", b"x")
    faulty_store.local_path("part", sha256(b"x"))
    n_requests = faulty.n_requests

    assert faulty_store.local_path("part", sha256(b"x")).read_bytes() == b"x"
    assert faulty.n_requests == n_requests


def test_an_unchanged_object_is_asked_about_but_not_fetched_again(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty_store.put("part", b"x")
    faulty_store.local_path("part")
    faulty.faults["GET"] = [(403, "AccessDenied")]

    assert faulty_store.local_path("part").read_bytes() == b"x"


def test_copies_of_two_stores_are_kept_apart(s3: Any, s3_endpoint: str, tmp_path: Path) -> None:
    stores = [
        open_store(f"s3://{BUCKET}/{name}", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache") for name in "ab"
    ]
    for store, data in zip(stores, (b"1", b"2"), strict=True):
        store.put("part", data)

    assert [store.local_path("part").read_bytes() for store in stores] == [b"1", b"2"]


def test_many_threads_may_ask_for_one_object(store: Store) -> None:
    store.put("part", b"x" * 10_000)

    paths = in_threads(8, lambda _: store.local_path("part", sha256(b"x" * 10_000)))

    assert {path.read_bytes() for path in paths} == {b"x" * 10_000}


def test_a_cache_that_cannot_be_written_says_so(s3_store: Store, s3_endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(f"s3://{BUCKET}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "file" / "cache")
    store.put("part", b"x")

    with pytest.raises(StoreNotWritable, match="cache"):
        store.local_path("part")


# Stores that refuse or do not answer


@pytest.mark.parametrize("place", ["file/store", "/proc/vitrine"])
def test_a_folder_that_cannot_be_made_is_not_writable(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    store = open_store(str(tmp_path / place))

    assert not store.exists("a")
    for write in (
        lambda: store.put("a", b"1"),
        lambda: store.put_if_absent("a", b"1"),
        lambda: store.put_file("a", tmp_path / "file"),
        lambda: store.compare_and_swap("a", b"2", b"1"),
    ):
        with pytest.raises(StoreNotWritable, match="cannot write"):
            write()


def test_a_full_disk_is_named(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreNotWritable, match="free space"):
        local_store.put("a", b"1")
    assert not local_store.exists("a")
    assert list(Path(local_store.url).rglob("*/?*")) == []


def test_a_failing_disk_is_worth_a_retry(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(Transient):
        local_store.put("a", b"1")


def test_an_object_cannot_stand_where_a_folder_is(local_store: Store) -> None:
    local_store.put("a/b", b"1")

    for key in ("a", "a/b/c"):
        with pytest.raises(StoreNotWritable):
            local_store.put(key, b"2")
        with pytest.raises(StoreNotWritable):
            local_store.put_if_absent(key, b"2")


def test_an_endpoint_that_is_not_there_is_told_quickly(tmp_path: Path) -> None:
    store = open_store(f"s3://{BUCKET}/house", s3_endpoint_url=CLOSED_PORT, cache_dir=tmp_path)
    start = time.monotonic()

    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.get("a")
    assert time.monotonic() - start < 10


def test_an_absent_bucket_is_a_matter_of_configuration(s3: Any, s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket/house", s3_endpoint_url=s3_endpoint)

    for use in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: list(store.list(""))):
        with pytest.raises(BadConfig, match="create the bucket"):
            use()


@pytest.mark.parametrize("answer", [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken")])
def test_refused_credentials_are_told_by_what_was_tried(
    faulty: FaultyS3, faulty_store: Store, answer: tuple[int, str], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    faulty.faults = {"PUT": [answer] * 3, "GET": [answer] * 2, "DELETE": [answer]}

    for write in (
        lambda: faulty_store.put("a", b"1"),
        lambda: faulty_store.put_if_absent("a", b"1"),
        lambda: faulty_store.put_file("a", source),
        lambda: faulty_store.delete("a"),
    ):
        with pytest.raises(StoreNotWritable, match=answer[1]):
            write()
    for read in (lambda: faulty_store.get("a"), lambda: list(faulty_store.list(""))):
        with pytest.raises(Permanent, match="check the credentials") as caught:
            read()
        assert not isinstance(caught.value, NotFound | StoreNotWritable)
        assert SECRET not in str(caught.value)


def test_an_overloaded_server_is_tried_again_and_then_given_up(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty_store.put("a", b"1")
    faulty.faults["GET"] = [(503, "SlowDown")]
    assert faulty_store.get("a") == b"1"

    faulty.faults["GET"] = [(503, "SlowDown")] * 3
    with pytest.raises(StoreUnavailable, match="503 SlowDown"):
        faulty_store.get("a")


def test_an_answer_cut_short_is_never_taken_for_the_object(faulty: FaultyS3, faulty_store: Store) -> None:
    faulty_store.put("a", b"1" * 1000)
    faulty.faults["GET"] = ["cut the answer short"]
    with pytest.raises(StoreUnavailable):
        faulty_store.get("a")

    faulty.faults["GET"] = ["cut the answer short"]
    assert faulty_store.local_path("a").read_bytes() == b"1" * 1000


def test_absent_credentials_are_a_matter_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(BadConfig, match="AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{BUCKET}", s3_endpoint_url="http://127.0.0.1:2").get("a")


@pytest.mark.parametrize(
    "url", ["", "gs://bucket/x", "https://user:pw@host/x", "s3://", "s3:///x", "s3://key:pw@bucket/x"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://user:pw@host", "http://"])
def test_a_malformed_endpoint_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(BadConfig, match="http") as caught:
        open_store(f"s3://{BUCKET}", s3_endpoint_url=endpoint).get("a")
    assert "pw" not in str(caught.value)


def test_nothing_heavy_is_imported_before_s3_is_used() -> None:
    code = "import sys, retrieval_core.store as s; s.open_store('s3://bucket/p'); sys.exit('boto3' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files outside a store


def test_files_anywhere_are_listed_with_what_tells_a_change(folder_uri: str, s3_client: Any) -> None:
    files = {"dress/2 b.jpg": b"22", "dress/1.jpg": b"1", "été.jpg": b"333", "dress.jpg": b""}
    fill(folder_uri, files, s3_client)

    listed = dict(list_uris(folder_uri))

    expected = ["dress.jpg", "dress/1.jpg", "dress/2 b.jpg", "été.jpg"]
    assert list(listed) == [f"{folder_uri}/{name}" for name in expected]
    for name, data in files.items():
        uri = f"{folder_uri}/{name}"
        assert read_uri(uri) == data
        assert stat_uri(uri) == listed[uri]
        assert listed[uri].size_bytes == len(data)


def test_the_version_changes_with_the_bytes(folder_uri: str, s3_client: Any) -> None:
    fill(folder_uri, {"a.jpg": b"1"}, s3_client)
    before = stat_uri(f"{folder_uri}/a.jpg")
    time.sleep(0.02)
    fill(folder_uri, {"a.jpg": b"2"}, s3_client)
    after = stat_uri(f"{folder_uri}/a.jpg")

    assert (before.size_bytes, after.size_bytes) == (1, 1)
    assert before.version != after.version


def test_absent_files_are_not_found(folder_uri: str) -> None:
    for uri in (f"{folder_uri}/absent.jpg", f"{folder_uri}/{'x' * 300}.jpg"):
        for look in (read_uri, stat_uri):
            with pytest.raises(NotFound):
                look(uri)


def test_an_absent_folder_holds_no_files(folder_uri: str) -> None:
    if folder_uri.startswith("s3://"):
        assert list(list_uris(folder_uri)) == []
    else:
        with pytest.raises(NotFound, match="pictures"):
            list(list_uris(folder_uri))


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for uri in (str(tmp_path / "pipe"), str(tmp_path), "/dev/zero", "a\0b"):
        with pytest.raises(NotFound):
            read_uri(uri)


def test_a_file_one_may_not_read_is_not_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(b"1")
    monkeypatch.setattr(Path, "read_bytes", refuse)

    with pytest.raises(Permanent, match="permissions") as caught:
        read_uri(str(tmp_path / "a.jpg"))
    assert not isinstance(caught.value, NotFound)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_bytes(b"1")
    (tmp_path / "pictures" / "query").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "train" / "up").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "dangling.jpg").symlink_to(tmp_path / "nowhere")

    assert [uri for uri, _ in list_uris(str(tmp_path / "pictures"))] == [str(tmp_path / "pictures" / "query" / "1.jpg")]


def test_an_outage_is_no_absent_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", CLOSED_PORT)

    with pytest.raises(StoreUnavailable):
        read_uri(f"s3://{BUCKET}/a.jpg")


def test_a_web_address_is_refused() -> None:
    with pytest.raises(BadConfig, match="https:// is not supported"):
        read_uri("https://example.org/a.jpg")
