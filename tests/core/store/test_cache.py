"""Local copies of remote objects stay below their bound, and the least recently used are removed first."""

from __future__ import annotations

import hashlib
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

pytestmark = pytest.mark.usefixtures("aws_environment")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def small_cache(bucket: str, s3_endpoint: str, tmp_path: Path) -> Store:
    """A store with ten parts of 100 bytes, whose local copies may take 500."""
    url = f"s3://{bucket}/house"
    store = open_store(url, s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache", cache_bytes=500)
    for number in range(10):
        store.put(f"parts/{number}", bytes([number]) * 100)
    return store


def unused_since(path: Path, hours: float) -> None:
    os.utime(path, (time.time() - 3600 * hours, path.stat().st_mtime))


def test_the_least_recently_used_copies_are_removed_first(small_cache: Store) -> None:
    copies = [small_cache.local_path(f"parts/{number}") for number in range(5)]
    for number, copy in enumerate(copies):
        unused_since(copy, 10 - number)
    small_cache.local_path("parts/0", sha256(bytes(100)))  # used again

    small_cache.local_path("parts/5")

    assert [copy.exists() for copy in copies] == [True, False, False, True, True]
    assert small_cache.local_path("parts/1").read_bytes() == b"\x01" * 100


def test_many_processes_that_each_download_little_keep_the_bound(tmp_path: Path) -> None:
    """Each downloads too little to scan the folder again."""
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from retrieval_core.store.cache import ReadCache

        copy = Path(sys.argv[1]) / sys.argv[2]
        copy.write_bytes(bytes(10))
        os.utime(copy, (time.time() - 3600, time.time()))
        ReadCache(copy.parent, 1000).make_room(copy)
    """
    for number in range(3):
        (tmp_path / f"large-{number}").write_bytes(bytes(400))
        unused_since(tmp_path / f"large-{number}", 10 - number)
    subprocess.run([sys.executable, "-c", code, tmp_path, "small"], check=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["large-1", "large-2", "small"]


def test_copies_last_used_in_a_future_of_the_clock_are_removed_and_later_used_ones_stay(small_cache: Store) -> None:
    copies = [small_cache.local_path(f"parts/{number}") for number in range(5)]
    for copy in copies:
        unused_since(copy, -1000)
    small_cache.local_path("parts/3", sha256(bytes([3]) * 100))

    small_cache.local_path("parts/5")

    assert copies[3].exists()
    assert sum(copy.exists() for copy in copies) == 3


def test_copies_in_use_stay_even_above_the_bound(small_cache: Store, caplog: pytest.LogCaptureFixture) -> None:
    copies = [small_cache.local_path(f"parts/{number}") for number in range(10)]

    assert all(copy.exists() for copy in copies)
    assert "VITRINE_CACHE_GB" in caplog.text


def test_a_removed_copy_stays_readable_while_it_is_mapped(small_cache: Store) -> None:
    first = small_cache.local_path("parts/0")
    with first.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        unused_since(first, 1)
        for number in range(1, 6):
            small_cache.local_path(f"parts/{number}")

        assert not first.exists()
        assert mapped[:] == bytes(100)


def test_a_cache_without_a_bound_keeps_every_copy(s3_store: Store) -> None:
    for number in range(5):
        s3_store.put(f"parts/{number}", bytes(100))
        unused_since(s3_store.local_path(f"parts/{number}"), 1000)

    assert all((s3_store.local_path(f"parts/{number}")).stat().st_size == 100 for number in range(5))
