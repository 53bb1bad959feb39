"""The pictures of a catalogue: which there are, their kept bytes, and their pixels.

A store keeps pictures in one family: in tar files that any tool reads, where each is named after its content id, and in
parts that say where in these files it lies. So a picture is fetched from its source once, and looking one up reads no
other. A picture that is not kept, or whose kept bytes are damaged, is read from its source.
"""

from __future__ import annotations

import logging
import os
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import (
    named_sha256,
    parts_covering,
    parts_prefix,
    put_growing_part,
    stored_parts_of,
    view_fingerprint,
)
from retrieval_core.artifacts.manifests import Part, PictureSet, Ref, Value, content_id, fingerprint
from retrieval_core.artifacts.mapped_rows import KeyIndex, in_batches, mapped, rows_or_null, unique_by
from retrieval_core.artifacts.parts import encode_part, read_table
from retrieval_core.errors import ImageRefused, NotFound, Permanent
from retrieval_core.images import RGB, decode
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256
from retrieval_core.store.uris import read_uri

log = logging.getLogger(__name__)

FILE_BYTES = 128 << 20  # a tar file is closed once it is larger
PLACE_SCHEMA: dict[str, pl.DataType] = {
    "content_id": pl.String(),
    "file": pl.String(),
    "offset": pl.Int64(),
    "n_bytes": pl.Int64(),
}
KEPT = fingerprint("pictures", 1, {}, [])  # the family of all kept pictures
_PARTS = parts_prefix(PictureSet.folder, KEPT)


class Picture(Value):
    """A picture of the catalogue: the id of its bytes, where its file is, and an item that shows it.

    Where its bytes are kept, `file` is the store's key of the tar file that holds them, `n_bytes` from `offset`.
    `local_file` is a local copy of the tar file, "" where there is none.
    """

    content_id: str
    image_uri: str
    item_id: str
    file: str | None = None
    offset: int | None = None
    n_bytes: int | None = None
    local_file: str = ""


def usable_pictures(store: Store, catalog: Ref) -> pl.DataFrame:
    """Return content_id, image_uri and item_id of every catalogue row that is not in quarantine, mapped."""
    columns = ["content_id", "image_uri", "item_id"]
    items = load_items(store, catalog.name, [*columns, "status"])
    return mapped(batch.filter(pl.col("status") == "ok").select(columns) for batch in in_batches(items))


def with_places(store: Store, pictures: pl.DataFrame) -> pl.DataFrame:
    """Add to pictures where each is kept, the columns of `PLACE_SCHEMA`, null where it is not; mapped."""
    places = kept_places(store)
    known, columns = KeyIndex(places.select("content_id")), places.drop("content_id")
    found = (rows_or_null(columns, known.first(batch.select("content_id"))) for batch in in_batches(pictures))
    return mapped(batch.hstack(place) for batch, place in zip(in_batches(pictures), found, strict=True))


def kept_places(store: Store) -> pl.DataFrame:
    """Return where each picture is kept (`PLACE_SCHEMA`, one row a picture), mapped."""
    files = {entry.key for entry in store.entries(_PARTS)}
    places = [read_table(store, stored.part) for stored in stored_parts_of(store, PictureSet.folder, KEPT)]
    table = pl.concat([pl.DataFrame(schema=PLACE_SCHEMA), *places])
    present = mapped(batch.filter(pl.col("file").is_in(list(files))) for batch in in_batches(table))
    return unique_by(present, "content_id")


def with_local_files(store: Store, pictures: Iterable[Picture]) -> list[Picture]:
    """Return the pictures with local copies of the files that keep them, for work on all of them.

    A file that the store lost is left out, with a warning.
    """
    local: dict[str, str] = {"": ""}
    for file in {picture.file for picture in pictures if picture.file}:
        try:
            local[file] = str(store.local_path(file))
        except NotFound as error:
            log.warning("%s; its pictures are read from their source", error)
            local[file] = ""
    return [picture.model_copy(update={"local_file": local[picture.file or ""]}) for picture in pictures]


class KeptPlaces:
    """Where pictures are kept, found by their content ids; about 40 bytes of memory each."""

    def __init__(self, store: Store) -> None:
        self._places = kept_places(store).with_columns(pl.col("file").cast(pl.Categorical))
        hashes = self._places["content_id"].hash().to_numpy()
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]

    def find(self, picture: str) -> dict[str, Any]:
        """Return the row of `PLACE_SCHEMA` of a content id; only the id where it is not kept."""
        position = int(np.searchsorted(self._hashes, pl.Series([picture]).hash()[0]))
        row = self._places.row(int(self._order[position]), named=True) if position < len(self._hashes) else {}
        return row if row.get("content_id") == picture else {"content_id": picture}


class PictureReader:
    """Reads single pictures, from where a store keeps them, else and without a store from their source."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store

    def read(self, item: Mapping[str, Any]) -> bytes:
        """Return the bytes of the picture of an item (content_id, image_uri, item_id).

        A source is not checked: the picture may have changed. Raises as `read_uri` does.
        """
        if self._store is not None and item.get("content_id"):
            place = self._places.find(item["content_id"])
            picture = Picture(image_uri=item["image_uri"], item_id=item["item_id"], **place)
            if kept := _kept_bytes(picture, self._store):
                return kept
        return read_uri(item["image_uri"])

    def locate(self, items: pl.DataFrame) -> list[Picture]:
        """Return the pictures of items (content_id, image_uri, item_id), those that are kept with local files."""
        rows = items.select("content_id", "image_uri", "item_id")
        if self._store is None:
            return [Picture(**row) for row in rows.iter_rows(named=True)]
        located = [Picture(**row) for row in with_places(self._store, rows).iter_rows(named=True)]
        return with_local_files(self._store, located)

    @cached_property
    def _places(self) -> KeptPlaces:
        if self._store is None:
            raise TypeError("a reader without a store has no places")
        return KeptPlaces(self._store)


def read_picture(picture: Picture, max_pixels: int) -> RGB:
    """Read, check and decode a picture: upright (h, w, 3) uint8.

    Raises `ImageRefused` where its bytes changed or cannot be decoded, `NotFound` without its file, and
    `StoreUnavailable`.
    """
    return decode(picture_bytes(picture), max_pixels=max_pixels)


def picture_bytes(picture: Picture) -> bytes:
    """Return the bytes of a picture in its local file, else those of its source. Raises as `read_picture` does."""
    if kept := _kept_bytes(picture):
        return kept
    data = read_uri(picture.image_uri)
    actual = content_id(data)
    if actual != picture.content_id:
        raise ImageRefused(f"the file changed during the run: its bytes are {actual}, expected {picture.content_id}")
    return data


def _kept_bytes(picture: Picture, store: Store | None = None) -> bytes | None:
    """Return the bytes of a picture in its local file, else in the store; None where they are lost or damaged."""
    if picture.file is None or picture.offset is None or picture.n_bytes is None:
        return None
    try:
        if picture.local_file:
            with open(picture.local_file, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), picture.n_bytes, picture.offset)
        elif store is not None:
            data = store.get_range(picture.file, picture.offset, picture.n_bytes)
        else:
            return None
    except (OSError, Permanent) as error:
        log.warning("the kept picture %s cannot be read (%s); reading its source", picture.content_id, error)
        return None
    if content_id(data) != picture.content_id:
        log.warning("%s is damaged at the picture %s; reading its source", picture.file, picture.content_id)
        return None
    return data


class PictureWriter:
    """Writes the bytes of pictures into tar files, and where each lies into one part, for the shard called `name`.

    Equal pictures in equal order give equal files.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._folder = tempfile.TemporaryDirectory(prefix="vitrine-pictures-")
        self._path = Path(self._folder.name, "pictures.tar")
        self._places: dict[str, tuple[str, int, int]] = {}
        self._written: dict[str, tuple[int, int]] = {}

    @cached_property
    def _kept(self) -> KeptPlaces:
        return KeptPlaces(self._store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def add(self, picture: str, data: bytes, suffix: str) -> None:
        """Write the bytes of the picture with this content id, unless they are kept; `suffix` ends the name, ".jpg"."""
        if picture in self._places or picture in self._written or "file" in self._kept.find(picture):
            return
        info = tarfile.TarInfo(f"{picture}{suffix}")
        info.size = len(data)
        with self._path.open("ab") as file:
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            self._written[picture] = (file.tell(), len(data))
            file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
            is_full = file.tell() >= FILE_BYTES
        if is_full:
            self._store_file()

    def finish(self) -> int:
        """Store what was added; return how many pictures that is."""
        if self._written:
            self._store_file()
        if self._places:
            rows = [(picture, *place) for picture, place in self._places.items()]
            table = pl.DataFrame(rows, schema=PLACE_SCHEMA, orient="row").to_arrow()
            put_growing_part(self._store, PictureSet.folder, KEPT, self._name, encode_part(table), len(rows))
        return len(self._places)

    def _store_file(self) -> None:
        with self._path.open("ab") as file:
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of an archive
        sha256 = file_sha256(self._path)
        key = f"{_PARTS}{self._name}-{sha256}.tar"
        # A run that was killed may have stored the same file.
        if not self._store.exists(key) or self._store.size_bytes(key) != self._path.stat().st_size:
            self._store.put_file(key, self._path)
        self._path.unlink()
        self._places |= {picture: (key, *place) for picture, place in self._written.items()}
        self._written = {}


def seal_kept(store: Store, catalog: Ref) -> PictureSet:
    """Seal the kept pictures of a catalogue as one set: the parts that say where each is, and the files they name."""
    parts, n_rows = parts_covering(store, PictureSet, KEPT, usable_pictures(store, catalog)["content_id"])
    tables = [read_table(store, part, ["file"])["file"] for part in parts]
    counts = pl.concat([pl.Series("file", [], pl.String), *tables]).value_counts(sort=False)
    n_pictures = dict(counts.rows())
    sizes = {entry.key: entry.size_bytes for entry in store.entries(_PARTS)}
    files = tuple(
        Part(key=key, sha256=sha256, n_rows=n_pictures[key], n_bytes=sizes[key])
        for key in sorted(n_pictures)
        if key in sizes and (sha256 := named_sha256(key))
    )
    return PictureSet(
        fingerprint=view_fingerprint(KEPT, catalog.name, (*parts, *files)),
        family=KEPT,
        parts=(*parts, *files),
        parents={"catalog": catalog.name},
        counts={"rows": n_rows},
    ).seal(store)
