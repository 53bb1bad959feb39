"""Datasets that pack their pictures into big files: each becomes a file of its own, once.

By default the files lie in `DIR/pictures`, or where the source says: `mnist:DIR?pictures=FOLDER`.
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
from retrieval_core.ingest.sources.dataset_files import dataset_root, split_query, write_whole
from retrieval_core.store.files import file_sha256

RECORD = "unpacked.json"

log = logging.getLogger(__name__)


class PackedQuery(Value):
    """What the URI asks for behind the question mark."""

    pictures: str | None = Field(None, min_length=1)


class Record(Value):
    """`unpacked.json`: the packed files (name to sha256) that a folder's pictures come from."""

    about: str = "Pictures unpacked by Vitrine; delete the folder, and they are unpacked again."
    files: dict[str, str]


class Packed(NamedTuple):
    """One picture: its path below the pictures' folder, its file's size, and what makes that file's bytes."""

    path: str
    size_bytes: int
    data: Callable[[], bytes]


class PackedFolder:
    """A local folder of big files, and the folder of the pictures in them.

    Raises `BadConfig` for a folder on S3 or an unknown query key, `SourceMissing` when the folder is not there.
    """

    def __init__(self, uri: str, spec: str) -> None:
        self._spec = spec
        folder, query = split_query(uri, PackedQuery, spec)
        pictures = query.pictures or f"{folder}/pictures"
        for place in (folder, pictures):
            if "://" in place:
                raise BadConfig(
                    f"{spec}: {place} is not a local folder; packed files are unpacked from and into local ones"
                )
        self.root = Path(dataset_root(folder, spec))
        self._pictures = Path(pictures).expanduser().absolute()

    def uri(self, path: str) -> str:
        """Where a picture lies once it is unpacked."""
        return str(self._pictures / path)

    def unpack(self, files: Sequence[Path], pictures: Iterable[Packed]) -> None:
        """Write the pictures of `files` that are not there yet, each whole or not at all, so a killed run goes on.

        Raises `BadConfig` when the folder cannot be written or holds anything but pictures of these very files.
        """
        self._claim(Record(files={file.name: file_sha256(file) for file in files}))
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

    def _claim(self, wanted: Record) -> None:
        """Only a folder that is empty or was unpacked from the same files: others' pictures are never written over."""
        record = self._pictures / RECORD
        with self._writing():
            self._pictures.mkdir(parents=True, exist_ok=True)
            if not record.exists():
                if found := sorted(name for name in os.listdir(self._pictures) if name[0] != "." and name != RECORD):
                    raise self._taken(f"{found[0]}, which was not unpacked here")
                write_whole(record, wanted.model_dump_json(indent=2).encode())
        try:
            files = Record.model_validate_json(record.read_bytes()).files
        except ValidationError as error:
            raise self._taken(f"a damaged {RECORD}") from error
        if files != wanted.files:
            raise self._taken(f"pictures of other files ({', '.join(sorted(files))}, at the time of unpacking)")

    def _taken(self, what: str) -> BadConfig:
        return BadConfig(
            f"{self._spec}: {self._pictures} holds {what}; delete it if nothing else needs it, "
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
    """A picture of (h, w) or (h, w, 3) uint8 as an uncompressed PNG, so that its size is known before it is made."""
    return Packed(path, _png_size_bytes(pixels.shape), partial(_png, pixels))


def class_names(numbers: UInt8, names: Sequence[str], where: str) -> list[str]:
    """The name of each class number. Raises `CatalogInvalid` for a number without name."""
    if len(unnamed := np.flatnonzero(numbers >= len(names))):
        raise CatalogInvalid(
            f"{where}: picture {unnamed[0]} has label {numbers[unnamed[0]]}, but {len(names)} classes have names; "
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
