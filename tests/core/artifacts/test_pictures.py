"""Kept pictures: one tar file that any tool reads, where each picture lies, and the source where that fails."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import pictures as module
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import PictureSet, content_id
from retrieval_core.artifacts.pictures import (
    Picture,
    PictureReader,
    PictureWriter,
    kept_places,
    picture_bytes,
    seal_kept,
    with_local_files,
)
from retrieval_core.errors import ImageRefused, NotFound
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    opened: Store = request.getfixturevalue(f"{request.param}_store")
    return opened


def keep(store: Store, *pictures: bytes, name: str = "shard") -> None:
    with PictureWriter(store, name) as writer:
        for data in pictures:
            writer.add(content_id(data), data, ".jpg")
        writer.finish()


def kept(store: Store, data: bytes, source: str = "/nowhere.jpg") -> Picture:
    place = kept_places(store).filter(content_id=content_id(data)).row(0, named=True)
    return Picture(image_uri=source, item_id="item", **place)


@settings(max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=8), st.integers(1, 4000))
def test_every_picture_is_read_back_from_files_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes], file_bytes: int
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FILE_BYTES", file_bytes)
        keep(store, *pictures)
    for data in pictures:
        assert PictureReader(store).read(kept(store, data).model_dump()) == data
        assert picture_bytes(with_local_files(store, [kept(store, data)])[0]) == data


def test_a_file_is_an_archive_of_pictures_named_by_their_content(store: Store) -> None:
    keep(store, b"one", b"two", b"one")
    (key,) = [key for key in store.list("pictures/") if key.endswith(".tar")]
    with tarfile.open(fileobj=io.BytesIO(store.get(key))) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert members == {f"{content_id(data)}.jpg": data for data in (b"one", b"two")}


def test_what_is_kept_is_not_stored_again(store: Store) -> None:
    keep(store, b"one", b"two")
    before = list(store.list("pictures/"))
    keep(store, b"two", b"one", name="another")
    assert list(store.list("pictures/")) == before
    keep(store, b"two", b"three", name="another")
    assert len(list(store.list("pictures/"))) == len(before) + 2
    assert len(kept_places(store)) == 3


@pytest.mark.parametrize("fault", ["lost", "cut off", "another byte"])
def test_a_damaged_file_is_replaced_by_the_source(
    store: Store, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source.jpg"
    source.write_bytes(b"picture")
    keep(store, b"picture")
    picture = kept(store, b"picture", str(source))
    assert picture.file is not None
    data, reader = store.get(picture.file), PictureReader(store)
    assert reader.read(picture.model_dump()) == b"picture"
    if fault == "lost":
        store.delete(picture.file)
    else:
        store.put(picture.file, data[:510] if fault == "cut off" else data.replace(b"picture", b"pictuRe"))
    with caplog.at_level(logging.WARNING):
        assert reader.read(picture.model_dump()) == b"picture"
        assert picture_bytes(with_local_files(store, [picture])[0]) == b"picture"
    assert "source" in caplog.text


def test_without_kept_bytes_a_changed_or_absent_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.jpg"
    picture = Picture(content_id=content_id(b"old"), image_uri=str(source), item_id="item")
    with pytest.raises(NotFound):
        picture_bytes(picture)
    source.write_bytes(b"new")
    with pytest.raises(ImageRefused, match="changed during the run"):
        picture_bytes(picture)


def test_a_sealed_set_lists_the_files_of_its_catalogue_and_no_other(store: Store) -> None:
    runs = SealedRuns(store)
    release = runs.seal(["a", "b"])
    content_ids = load_items(store, release.catalog.name)["content_id"].to_list()
    for name, pictures in {"wanted": content_ids, "other": ["0" * 32]}.items():
        with PictureWriter(store, name) as writer:
            for picture in pictures:
                writer.add(picture, picture.encode(), ".jpg")
            writer.finish()
    sealed = seal_kept(store, release.catalog)
    assert {os.path.basename(part.key).split("-")[0] for part in sealed.parts} == {"wanted"}
    assert sorted(part.key.rpartition(".")[2] for part in sealed.parts) == ["parquet", "tar"]
    assert sum(part.n_bytes for part in sealed.parts) == sum(store.size_bytes(part.key) for part in sealed.parts)
    assert PictureSet.open(store, sealed.ref) == sealed
    assert sealed.counts == {"rows": 2}
