"""How fast `vitrine verify --all` reads a store, beside reading the same files and doing nothing with them.

python -m benchmarks.verify_store [--gb 10]

Both read the same files in turn, from the disk: what the page cache holds of them is dropped before each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measuring.interleaved_timing import interleaved, ratio
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

PART_BYTES = 64_000_000
REPEATS = 3
FAMILY = "f" * 32


def main() -> None:
    """Draw a store, read it both ways in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gb", type=float, default=10.0, help="size of the store")
    parser.add_argument("--dir", type=Path, help="folder to draw the store in; default: the temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        store = open_store(folder)
        n_bytes = _draw(store, arguments.gb * 1e9)
        seconds = interleaved({"read": lambda: _read(Path(folder)), "verify --all": lambda: _verify(store)}, REPEATS)
    for name, times in seconds.items():
        print(f"{name:<14} {statistics.median(times):7.2f} s  {n_bytes / statistics.median(times) / 1e6:7.0f} MB/s")
    print(f"verify --all reads at {ratio(seconds, 'read', 'verify --all'):.0%} of the speed of reading alone")


def _draw(store: Store, wanted_bytes: float) -> int:
    from retrieval_core.artifacts.growing_sets import put_growing_part

    n_parts = max(1, round(wanted_bytes / PART_BYTES))
    for number in range(n_parts):
        put_growing_part(store, "vectors", FAMILY, f"{number:016x}", os.urandom(PART_BYTES), 1)
    return n_parts * PART_BYTES


def _read(folder: Path) -> None:
    """Read every file with as many threads as `verify --all` does."""
    from retrieval_core.maintenance.verify_objects import THREADS

    _drop_cached(folder)

    def read(path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, [path for path in folder.rglob("*") if path.is_file()]))


def _verify(store: Store) -> None:
    from retrieval_core.maintenance.verify_objects import verify_all

    _drop_cached(Path(store.url))
    if not verify_all(store).ok:
        raise RuntimeError("the store that was just drawn is not intact")


def _drop_cached(folder: Path) -> None:
    """Drop what the page cache holds of the files; they were synced when they were written."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    main()
