"""Every promise of `Store` holds in a folder and on S3."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import BadConfig, NotFound, Permanent, ShardCorrupt
from retrieval_core.store.base import CHUNK_BYTES, Store
from retrieval_core.store.uris import open_store

pytestmark = pytest.mark.usefixtures("aws_environment")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    opened: Store = request.getfixturevalue(f"{request.param}_store")
    return opened


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


def test_a_store_without_writes_is_empty(store: Store) -> None:
    assert list(store.list("")) == []
    assert not store.exists("aliases/production")
    store.delete("aliases/production")


def test_a_deleted_object_is_absent_and_may_be_deleted_again(store: Store) -> None:
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


# Listing


def test_a_listing_is_recursive_in_byte_order_and_by_prefix(store: Store) -> None:
    for key in ("b", "a/c", "a.b", "a/b/d", "ab", "a-b"):
        store.put(key, b"")

    assert list(store.list("")) == ["a-b", "a.b", "a/b/d", "a/c", "ab", "b"]
    assert list(store.list("a/")) == ["a/b/d", "a/c"]
    assert list(store.list("a/b")) == ["a/b/d"]
    assert list(store.list("absent/")) == []


def test_a_listing_gives_size_and_time_of_each_object(store: Store) -> None:
    store.put("a/empty", b"")
    store.put("a/four", b"four")
    store.put("b", b"x")

    entries = list(store.entries("a/"))

    assert [(entry.key, entry.size_bytes) for entry in entries] == [("a/empty", 0), ("a/four", 4)]
    assert all(abs(entry.modified_s - time.time()) < 60 for entry in entries)


@pytest.mark.parametrize("prefix", ["..", "../", "/", "a//", ".tmp/", "a b"])
def test_a_listing_outside_the_store_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(Permanent, match="cannot start a store key"):
        list(store.list(prefix))


# The first writer


def test_put_if_absent_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_of_eight_concurrent_writers_one_wins(store: Store, in_threads: Callable[..., list[Any]]) -> None:
    won = in_threads(8, lambda i: store.put_if_absent("manifest.json", b"%d" % i))

    assert won.count(True) == 1
    assert store.get("manifest.json") == b"%d" % won.index(True)


def test_compare_and_swap_moves_only_what_it_expected(store: Store) -> None:
    assert not store.compare_and_swap("aliases/production", b"2", b"1")
    assert store.compare_and_swap("aliases/production", b"1", None)
    assert not store.compare_and_swap("aliases/production", b"x", None)
    assert not store.compare_and_swap("aliases/production", b"x", b"0")
    assert store.compare_and_swap("aliases/production", b"2", b"1")
    assert store.get("aliases/production") == b"2"


def test_no_update_is_lost_between_racing_swaps(store: Store, in_threads: Callable[..., list[Any]]) -> None:
    store.put("counter", b"0")

    def add_five(_: int) -> None:
        for _ in range(5):
            while True:
                seen = store.get("counter")
                if store.compare_and_swap("counter", b"%d" % (int(seen) + 1), seen):
                    break

    in_threads(4, add_five)

    assert store.get("counter") == b"20"


# Never part of an object


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
from retrieval_core.store.uris import open_store
open_store(sys.argv[1], s3_endpoint_url=sys.argv[2] or None).put_file("index.faiss", Path(sys.argv[3]))
"""


@pytest.mark.parametrize("before", [None, b"last night's"], ids=["nothing before", "replacing"])
def test_a_writer_killed_half_way_leaves_the_previous_object(
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


def test_many_threads_may_ask_for_one_object(store: Store, in_threads: Callable[..., list[Any]]) -> None:
    store.put("part", b"x" * 10_000)

    paths = in_threads(8, lambda _: store.local_path("part", sha256(b"x" * 10_000)))

    assert {path.read_bytes() for path in paths} == {b"x" * 10_000}


def test_a_large_object_is_read_in_pieces(store: Store) -> None:
    data = bytes(range(256)) * 10_000
    store.put("part", data)
    store.put("empty", b"")

    pieces = list(store.chunks("part"))

    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= CHUNK_BYTES < len(data)
    assert b"".join(store.chunks("empty")) == b""
    with pytest.raises(NotFound):
        list(store.chunks("absent"))


@pytest.mark.parametrize("n_chunks", [0, 1, 3, 20], ids=lambda n: f"{n}-MiB")
def test_an_object_is_stored_in_pieces(store: Store, n_chunks: int) -> None:
    data = hashlib.sha256(b"drawn").digest() * (CHUNK_BYTES * n_chunks // 32) + b"the end"

    store.put_chunks("part", (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)))

    assert store.get("part") == data


@pytest.mark.parametrize("n_chunks", [0, 1, 20], ids=lambda n: f"{n}-MiB")
def test_pieces_that_end_in_an_error_change_nothing(store: Store, n_chunks: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"x" * CHUNK_BYTES] * n_chunks
        raise ShardCorrupt("the source is damaged")

    store.put("part", b"previous")
    for key in ("part", "other"):
        with pytest.raises(ShardCorrupt, match="the source is damaged"):
            store.put_chunks(key, pieces())

    assert store.get("part") == b"previous"
    assert [*store.list("")] == ["part"]


# Addresses


@pytest.mark.parametrize(
    "url", ["", "gs://bucket/x", "https://user:pw@host/x", "s3://", "s3:///x", "s3://key:pw@bucket/x"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(url)
    assert "pw" not in str(caught.value)
