"""Unpack datasets that store many pictures in one file: each picture becomes a file of its own, once.

The files go to `DIR/pictures`, or to the folder that the source names: `mnist:DIR?pictures=FOLDER`.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid
from retrieval_core.ingest.sources.files import dataset_root, split_query, write_whole
from retrieval_core.store.files import file_sha256

RECORD = "unpacked.json"

log = logging.getLogger(__name__)


class PackedQuery(Value):
    """The query of the URI: the folder to unpack into."""

    pictures: str | None = Field(None, min_length=1)


class UnpackRecord(Value):
    """The content of `unpacked.json`: the packed files (name to SHA-256) that a folder's pictures come from."""

    about: str = "Pictures unpacked by Vitrine; delete the folder, and they are unpacked again."
    files: dict[str, str]


class Packed(NamedTuple):
    """A packed picture: its path below the pictures' folder, its file's size, and a function returning its bytes."""

    path: str
    size_bytes: int
    data: Callable[[], bytes]


class PackedFolder:
    """A local folder of packed files, and the folder that their pictures are unpacked into.

    Raises `BadConfig` for a folder on S3 or an unknown query key, `SourceMissing` when the folder does not exist.
    """

    def __init__(self, uri: str, spec: str) -> None:
        self._spec = spec
        folder, query = split_query(uri, PackedQuery, spec)
        pictures = query.pictures or f"{folder}/pictures"
        for path in (folder, pictures):
            if "://" in path:
                raise BadConfig(
                    f"{spec}: {path} is not a local folder; packed files are unpacked from and into local ones"
                )
        self.root = Path(dataset_root(folder, spec))
        self._pictures = Path(pictures).expanduser().absolute()

    def uri(self, path: str) -> str:
        """Return the path that a picture is unpacked to."""
        return str(self._pictures / path)

    def unpack(self, files: Sequence[Path], pictures: Iterable[Packed]) -> None:
        """Write the pictures of `files` that do not exist yet, each in one step, so that a killed run can resume.

        Raises `BadConfig` when the folder cannot be written, or holds anything but the pictures of these files.
        """
        self._claim(UnpackRecord(files={file.name: file_sha256(file) for file in files}))
        n_written = 0
        for picture in pictures:
            with self._writing():
                path = self._pictures / picture.path
                if _size_bytes(path) == picture.size_bytes:
                    continue
                if not n_written:
                    log.info("%s: unpacking pictures into %s", self._spec, self._pictures)
                write_whole(path, picture.data())
                n_written += 1
        if n_written:
            log.info("%s: unpacked %d pictures", self._spec, n_written)

    def _claim(self, expected: UnpackRecord) -> None:
        """Record `expected` in an empty folder. Raises `BadConfig` unless the folder's pictures come from these files.

        So pictures from elsewhere are never overwritten.
        """
        record = self._pictures / RECORD
        with self._writing():
            self._pictures.mkdir(parents=True, exist_ok=True)
            if not record.exists():
                if names := sorted(name for name in os.listdir(self._pictures) if name[0] != "." and name != RECORD):
                    raise self._not_ours(f"{names[0]}, which was not unpacked here")
                write_whole(record, expected.model_dump_json(indent=2).encode())
        try:
            files = UnpackRecord.model_validate_json(record.read_bytes()).files
        except ValidationError as error:
            raise self._not_ours(f"a damaged {RECORD}") from error
        if files != expected.files:
            raise self._not_ours(f"pictures of other files ({', '.join(sorted(files))}, at the time of unpacking)")

    def _not_ours(self, content: str) -> BadConfig:
        return BadConfig(
            f"{self._spec}: {self._pictures} holds {content}; delete it if nothing else needs it, "
            "or name another folder with ?pictures=FOLDER"
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadConfig(
                f"{self._spec}: cannot unpack into {self._pictures} ({error}); "
                "name a folder that can be written with ?pictures=FOLDER"
            ) from error


def png(path: str, pixels: UInt8) -> Packed:
    """Return (h, w) or (h, w, 3) uint8 pixels as an uncompressed PNG, whose size is known before it is encoded."""
    return Packed(path, _png_size_bytes(pixels.shape), partial(_png, pixels))


def class_names(numbers: UInt8, names: Sequence[str], file: str) -> list[str]:
    """Return the name of each class number in `file`. Raises `CatalogInvalid` for a number without a name."""
    if len(unnamed := np.flatnonzero(numbers >= len(names))):
        raise CatalogInvalid(
            f"{file}: picture {unnamed[0]} has label {numbers[unnamed[0]]}, but {len(names)} classes have names; "
            "restore the dataset's files"
        )
    return [names[number] for number in numbers.tolist()]


def _png(pixels: UInt8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@lru_cache(maxsize=8)
def _png_size_bytes(shape: tuple[int, ...]) -> int:
    return len(_png(np.zeros(shape, np.uint8)))


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
