"""`cifar10:DIR` and `cifar100:DIR`: the binary version (Krizhevsky 2009)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.files import read_lines
from retrieval_core.ingest.sources.labels import attributes_of
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder, class_names, png

SIDE_PX = 32
N_PIXEL_BYTES = 3 * SIDE_PX * SIDE_PX


class Layout(NamedTuple):
    """The files of one dataset. A record is one byte per file of class names, then the pixels."""

    kind: str
    splits: dict[str, tuple[str, ...]]
    names: tuple[str, ...]  # the last one names the category
    python_file: str  # of the python version, which is refused
    archive: str


class Cifar10Source(Maskless):
    """Pictures of 32 x 32 px, unpacked by the first `rows()`.

    The splits are train and test, the category is the class, and the item_id is `SPLIT/NUMBER`.
    """

    _layout = Layout(
        kind="cifar10",
        splits={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        names=("batches.meta.txt",),
        python_file="test_batch",
        archive="cifar-10-binary.tar.gz",
    )

    def __init__(self, uri: str) -> None:
        self.spec = f"{self._layout.kind}:{uri}"
        self._packed = PackedFolder(uri, self.spec)
        self._splits = {split: [self._file(name) for name in names] for split, names in self._layout.splits.items()}
        self._names = [[line.strip() for line in read_lines(str(self._file(name)))] for name in self._layout.names]

    def rows(self) -> pl.DataFrame:
        rows = conform(pl.concat([self._rows_of(split) for split in self._splits]), self.spec)
        self._packed.unpack([file for files in self._splits.values() for file in files], self._pictures())
        return rows

    def _file(self, name: str) -> Path:
        path = self._packed.root / name
        if path.is_file():
            return path
        if (self._packed.root / self._layout.python_file).is_file():
            raise CatalogInvalid(
                f"{self.spec} is the python version, whose pickles may run any code; expected the binary version, "
                f"{self._layout.archive}: unpack that and name its folder"
            )
        raise SourceMissing(f"{self.spec} lacks {name}; expected the files of {self._layout.archive}")

    def _rows_of(self, split: str) -> pl.DataFrame:
        columns: list[list[str]] = [[] for _ in self._names]
        for file in self._splits[split]:
            labels = self._records(file)[:, : len(self._names)]
            for column, numbers, names in zip(columns, labels.T, self._names, strict=True):
                column += class_names(numbers, names, str(file))
        *coarse, categories = columns
        item_ids = [_item_id(split, number) for number in range(len(categories))]
        attributes = [attributes_of({"coarse": name}) for name in coarse[0]] if coarse else [[]] * len(item_ids)
        return pl.DataFrame(
            {
                "item_id": item_ids,
                "image_uri": [self._packed.uri(f"{item_id}.png") for item_id in item_ids],
                "category": categories,
                "split": [split] * len(item_ids),
                "attributes": pl.Series(attributes, dtype=SOURCE_SCHEMA["attributes"]),
            }
        )

    def _pictures(self) -> Iterator[Packed]:
        for split, files in self._splits.items():
            number = 0
            for file in files:
                for planes in self._records(file)[:, len(self._names) :]:
                    pixels = planes.reshape(3, SIDE_PX, SIDE_PX).transpose(1, 2, 0)
                    yield png(f"{_item_id(split, number)}.png", np.ascontiguousarray(pixels))
                    number += 1

    def _records(self, file: Path) -> UInt8:
        """(n, bytes of labels and pixels) uint8, memory-mapped."""
        n_bytes, record_bytes = file.stat().st_size, len(self._names) + N_PIXEL_BYTES
        if not n_bytes or n_bytes % record_bytes:
            raise CatalogInvalid(
                f"{file} has {n_bytes} bytes; expected a multiple of {record_bytes}, the size of a picture; "
                f"restore it from {self._layout.archive}"
            )
        return np.memmap(file, np.uint8, "r", shape=(n_bytes // record_bytes, record_bytes))


class Cifar100Source(Cifar10Source):
    """As `Cifar10Source`; the category is the fine class, and the coarse one is the attribute `coarse`."""

    _layout = Layout(
        kind="cifar100",
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        names=("coarse_label_names.txt", "fine_label_names.txt"),
        python_file="test",
        archive="cifar-100-binary.tar.gz",
    )


def _item_id(split: str, number: int) -> str:
    return f"{split}/{number:05d}"
