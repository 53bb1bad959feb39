"""Compare ways to keep the bytes of pictures: tar files with a table of places, as the product does, and Parquet.

    python -m benchmarks.ingest.kept_pictures FOLDER

FOLDER holds JPEGs. Prints, as medians of rounds in which each way is timed in turn, the seconds to write all pictures,
to read all in order, and to read some at random, and the bytes on the disk.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring.interleaved_timing import Run, interleaved
from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import Picture, PictureReader, PictureWriter, kept_places, with_local_files
from retrieval_core.artifacts.pictures import picture_bytes as read_bytes
from retrieval_core.store.uris import open_store

N_SINGLE = 200
ROUNDS = 5


class _Tar:
    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    def write(self, pictures: Sequence[bytes]) -> None:
        self._number += 1
        self._store = open_store(str(self._folder / str(self._number)))
        with PictureWriter(self._store, "shard") as writer:
            for data in pictures:
                writer.add(content_id(data), data, ".jpg")
            writer.finish()

    def read_all(self) -> int:
        places = kept_places(self._store)
        pictures = [Picture(image_uri="", item_id="", **place) for place in places.iter_rows(named=True)]
        return sum(len(read_bytes(picture)) for picture in with_local_files(self._store, pictures))

    def read_some(self, content_ids: Sequence[str]) -> int:
        reader = PictureReader(self._store)
        return sum(len(reader.read({"content_id": key, "image_uri": "", "item_id": ""})) for key in content_ids)

    def n_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self._store.entries(""))


class _Parquet:
    """One file, uncompressed, whose groups of `rows` are what a reader of one picture has to read."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._path, self._rows = folder / f"{rows}.parquet", rows

    def write(self, pictures: Sequence[bytes]) -> None:
        ids = [content_id(data) for data in pictures]
        table = pa.table({"content_id": ids, "image": pa.array(pictures, pa.large_binary())})
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(table, self._path, row_group_size=self._rows, **options)

    def read_all(self) -> int:
        batches = pq.ParquetFile(self._path).iter_batches(self._rows)
        return sum(len(_checked(*row)) for batch in batches for row in zip(*batch.to_pydict().values(), strict=True))

    def read_some(self, content_ids: Sequence[str]) -> int:
        file = pq.ParquetFile(self._path)
        row_of = {key: row for row, key in enumerate(file.read(["content_id"])["content_id"].to_pylist())}
        total = 0
        for key in content_ids:
            group, row = divmod(row_of[key], self._rows)
            total += len(_checked(key, file.read_row_group(group, ["image"])["image"][row].as_py()))
        return total

    def n_bytes(self) -> int:
        return self._path.stat().st_size


def _checked(key: str, data: bytes) -> bytes:
    if content_id(data) != key:
        raise ValueError(key)
    return data


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    files = sorted(parser.parse_args().folder.glob("*.jpg"))
    pictures = list({content_id(data): data for data in (file.read_bytes() for file in files)}.values())
    some = random.Random(0).sample([content_id(data) for data in pictures], N_SINGLE)
    print(f"{len(pictures)} pictures, {sum(map(len, pictures)):,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, _Tar | _Parquet] = {"tar": _Tar(Path(folder))}
        ways |= {f"Parquet, groups of {rows}": _Parquet(Path(folder), rows) for rows in (64, 1)}
        actions: dict[str, Callable[[_Tar | _Parquet], Run]] = {
            "write": lambda way: lambda: way.write(pictures),
            "read all": lambda way: way.read_all,
            f"read {N_SINGLE}": lambda way: lambda: way.read_some(some),
        }
        for action, run_of in actions.items():
            seconds = interleaved({name: run_of(way) for name, way in ways.items()}, ROUNDS)
            medians = ", ".join(f"{name} {statistics.median(values):.3f} s" for name, values in seconds.items())
            print(f"{action}: {medians}")
        print("bytes: " + ", ".join(f"{name} {way.n_bytes():,}" for name, way in ways.items()))


if __name__ == "__main__":
    main()
