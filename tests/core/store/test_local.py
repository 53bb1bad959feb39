"""What only a folder does to a store: links, locks, full or failing disks, foreign files in it."""

from __future__ import annotations

import os
import string
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.errors import StoreNotWritable, Transient
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

# Whole objects


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


_segments = st.text(string.ascii_lowercase + string.digits + "._=+@-", min_size=1, max_size=8).filter(
    lambda name: name[0] not in "._=+@-"
)
_keys = st.lists(_segments, min_size=1, max_size=4).map("/".join)


def _no_key_is_a_folder(objects: dict[str, bytes]) -> bool:
    return not any(other.startswith(f"{key}/") for key in objects for other in objects)


@settings(max_examples=30)
@given(objects=st.dictionaries(_keys, st.binary(max_size=64), max_size=6).filter(_no_key_is_a_folder), data=st.data())
def test_a_folder_behaves_like_a_sorted_dictionary(objects: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for key, value in objects.items():
            store.put(key, value)
        prefix = data.draw(st.sampled_from([key[:cut] for key in objects for cut in range(len(key) + 1)] or [""]))

        assert {key: store.get(key) for key in store.list("")} == objects
        assert list(store.list(prefix)) == sorted(key for key in objects if key.startswith(prefix))


# Listing


def test_foreign_files_in_the_folder_are_not_objects(local_store: Store) -> None:
    local_store.put("a", b"1")
    root = Path(local_store.url)
    (root / ".DS_Store").write_bytes(b"")
    (root / "my notes.txt").write_bytes(b"")

    assert list(local_store.list("")) == ["a"]


# The first writer


def test_of_eight_concurrent_writers_one_wins_without_hard_links(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, in_threads: Callable[..., list[Any]]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    assert in_threads(8, lambda i: local_store.put_if_absent("a", b"%d" % i)).count(True) == 1


# Never part of an object


def test_a_day_old_temporary_file_is_removed(local_store: Store) -> None:
    abandoned, recent = Path(local_store.url, ".tmp", "old"), Path(local_store.url, ".tmp", "recent")
    abandoned.parent.mkdir(parents=True)
    abandoned.write_bytes(b"half")
    recent.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 2 * 86_400,) * 2)

    local_store.put("a", b"1")

    assert not abandoned.exists()
    assert recent.exists()


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
