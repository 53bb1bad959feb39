"""`mnist:DIR` and `fashion-mnist:DIR`: the idx files (LeCun, Cortes, Burges 1998; Xiao, Rasul, Vollgraf 2017)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import polars as pl

from retrieval_core.arrays import UInt8
from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.base import Maskless, conform
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder, class_names, png

PREFIXES = {"train": "train", "test": "t10k"}
LABELS_MAGIC = 0x0801  # unsigned bytes in one dimension
IMAGES_MAGIC = 0x0803  # unsigned bytes in three dimensions
MAX_PICTURES, MAX_SIDE_PX = 10_000_000, 4096  # a header with larger numbers is damaged


class Part(NamedTuple):
    """The two files of a split."""

    split: str
    images: Path
    labels: Path


class MnistSource(Maskless):
    """Digits in `train-images-idx3-ubyte` and `t10k-…`, plain or `.gz`, unpacked by the first `rows()`.

    The splits are train and test, the category is the digit, and the item_id is `SPLIT/NUMBER`.
    """

    _kind = "mnist"
    _categories: tuple[str, ...] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

    def __init__(self, uri: str) -> None:
        self.spec = f"{self._kind}:{uri}"
        self._packed = PackedFolder(uri, self.spec)
        self._parts = [
            Part(split, self._file(f"{prefix}-images-idx3-ubyte"), self._file(f"{prefix}-labels-idx1-ubyte"))
            for split, prefix in PREFIXES.items()
        ]

    def rows(self) -> pl.DataFrame:
        rows = conform(pl.concat([self._rows_of(part) for part in self._parts]), self.spec)
        self._packed.unpack([part.images for part in self._parts], self._pictures())
        return rows

    def _file(self, name: str) -> Path:
        for path in (self._packed.root / name, self._packed.root / f"{name}.gz"):
            if path.is_file():
                return path
        raise SourceMissing(f"{self.spec} lacks {name} (or {name}.gz); copy the dataset's four files there")

    def _rows_of(self, part: Part) -> pl.DataFrame:
        labels = _read_labels(part.labels)
        # Read the whole file, so that a damaged one is reported before anything is unpacked.
        n_pictures = sum(1 for _ in _read_images(part.images))
        if n_pictures != len(labels):
            raise CatalogInvalid(
                f"{part.images} holds {n_pictures} pictures, but {part.labels.name} {len(labels)} labels; "
                "restore both from the same dataset"
            )
        item_ids = [_item_id(part.split, number) for number in range(len(labels))]
        return pl.DataFrame(
            {
                "item_id": pl.Series(item_ids, dtype=pl.String),
                "image_uri": pl.Series([self._packed.uri(f"{name}.png") for name in item_ids], dtype=pl.String),
                "category": pl.Series(class_names(labels, self._categories, str(part.labels)), dtype=pl.String),
                "split": pl.Series([part.split] * len(labels), dtype=pl.String),
            }
        )

    def _pictures(self) -> Iterator[Packed]:
        for part in self._parts:
            for number, pixels in enumerate(_read_images(part.images)):
                yield png(f"{_item_id(part.split, number)}.png", pixels)


class FashionMnistSource(MnistSource):
    """As `MnistSource`; the category is the name of the garment."""

    _kind = "fashion-mnist"
    _categories = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip


def _item_id(split: str, number: int) -> str:
    return f"{split}/{number:05d}"


def _read_labels(path: Path) -> UInt8:
    with _idx(path, LABELS_MAGIC, n_dims=1) as (file, (n,)):
        labels = _read(file, n, path)
        _check_end(file, path)
        return labels


def _read_images(path: Path) -> Iterator[UInt8]:
    with _idx(path, IMAGES_MAGIC, n_dims=3) as (file, (n, height, width)):
        for _ in range(n):
            yield _read(file, height * width, path).reshape(height, width)
        _check_end(file, path)


@contextmanager
def _idx(path: Path, magic: int, n_dims: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open an idx file after its header; yield it and the sizes in the header. Raises `CatalogInvalid` if damaged."""
    try:
        with cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            seen_magic, *shape = _read(file, 4 * (1 + n_dims), path).view(">u4").tolist()
            if seen_magic != magic:
                raise CatalogInvalid(
                    f"{path} starts with {seen_magic:#06x}; an idx file of its name starts with {magic:#06x}"
                )
            if shape[0] > MAX_PICTURES or not all(0 < side_px <= MAX_SIDE_PX for side_px in shape[1:]):
                sizes = " x ".join(str(size) for size in shape)
                raise CatalogInvalid(
                    f"{path} promises {sizes} bytes, which no such file has; restore it from the dataset"
                )
            yield file, tuple(shape)
    except (EOFError, OSError, zlib.error) as error:
        raise CatalogInvalid(f"{path} cannot be read ({error}); restore it from the dataset") from error


def _read(file: IO[bytes], n_bytes: int, path: Path) -> UInt8:
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise CatalogInvalid(
            f"{path} ends {n_bytes - len(data)} bytes before what its header promises; restore it from the dataset"
        )
    return np.frombuffer(data, np.uint8)


def _check_end(file: IO[bytes], path: Path) -> None:
    if file.read(1):
        raise CatalogInvalid(f"{path} goes on after what its header promises; restore it from the dataset")
