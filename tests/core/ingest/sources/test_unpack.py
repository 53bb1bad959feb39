"""Packed pictures are unpacked once, in one step each, and never over other pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval_core import images
from retrieval_core.errors import BadConfig, SourceMissing
from retrieval_core.ingest.sources.unpack import Packed, PackedFolder, png

PIXELS = {f"train/{n}.png": np.full((2, 3), n, np.uint8) for n in range(4)}


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "dataset/pictures.bin"
    path.parent.mkdir()
    path.write_bytes(b"all the pictures")
    return path


def unpack(big_file: Path, query: str = "", pictures: Iterator[Packed] | None = None) -> PackedFolder:
    folder = PackedFolder(f"{big_file.parent}{query}", "test:dataset")
    folder.unpack([big_file], pictures or (png(path, pixels) for path, pixels in PIXELS.items()))
    return folder


def changed_ns(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_pictures_lie_beside_the_big_file(big_file: Path) -> None:
    folder = unpack(big_file)
    for path, pixels in PIXELS.items():
        assert folder.uri(path) == str(big_file.parent / "pictures" / path)
        assert np.array_equal(images.decode(Path(folder.uri(path)).read_bytes())[..., 0], pixels)


def test_pictures_lie_where_the_source_says(big_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = unpack(big_file, "?pictures=deep/er")
    assert folder.uri("a.png") == str(tmp_path / "deep/er/a.png")
    assert (tmp_path / "deep/er/train/3.png").exists()
    assert not (big_file.parent / "pictures").exists()


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (32, 32, 3), (70, 90, 3)])
def test_the_size_of_a_picture_is_known_before_it_is_made(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert png("a", pixels).size_bytes == len(png("a", pixels).data())


def test_nothing_is_written_twice(big_file: Path) -> None:
    unpack(big_file)
    before = changed_ns(big_file.parent)
    unpack(big_file)
    assert changed_ns(big_file.parent) == before


def test_a_killed_unpacking_is_resumed(big_file: Path) -> None:
    def killed() -> Iterator[Packed]:
        paths = list(PIXELS)
        yield png(paths[0], PIXELS[paths[0]])
        yield png(paths[1], PIXELS[paths[1]])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(big_file, pictures=killed())
    pictures = big_file.parent / "pictures"
    before = changed_ns(pictures)
    assert sorted(before) == ["0.png", "1.png", "unpacked.json"]
    folder = unpack(big_file)
    assert {name: changed_ns(pictures)[name] for name in before} == before
    assert all(Path(folder.uri(path)).exists() for path in PIXELS)


def test_a_torn_or_lost_picture_is_unpacked_again(big_file: Path) -> None:
    folder = unpack(big_file)
    torn, lost = Path(folder.uri("train/1.png")), Path(folder.uri("train/2.png"))
    whole = torn.read_bytes()
    torn.write_bytes(b"")
    lost.unlink()
    unpack(big_file)
    assert torn.read_bytes() == whole
    assert lost.exists()


def test_a_picture_is_whole_or_absent(big_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    (big_file.parent / "pictures").mkdir()
    unpack(big_file, pictures=iter(()))
    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        unpack(big_file)
    left = [path for path in (big_file.parent / "pictures/train").iterdir() if not path.name.startswith(".")]
    assert left == []


def test_pictures_from_elsewhere_are_never_overwritten(big_file: Path) -> None:
    theirs = big_file.parent / "pictures/train/0.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(BadConfig, match=r"holds train, which was not unpacked here.*\?pictures=FOLDER"):
        unpack(big_file)
    assert theirs.read_bytes() == b"theirs"


def test_a_folder_of_other_files_is_refused(big_file: Path) -> None:
    """Two datasets with pictures of one size, numbered alike, must not be taken for one another."""
    unpack(big_file)
    big_file.write_bytes(b"all OTHER pictures")
    with pytest.raises(BadConfig, match=r"pictures of other files \(pictures\.bin, .*name another folder"):
        unpack(big_file)


def test_a_damaged_record_says_what_to_do(big_file: Path) -> None:
    unpack(big_file)
    (big_file.parent / "pictures/unpacked.json").write_text("{")
    with pytest.raises(BadConfig, match=r"holds a damaged unpacked\.json; delete it"):
        unpack(big_file)


def test_a_folder_that_cannot_be_written_is_answered_with_what_to_do(big_file: Path) -> None:
    (big_file.parent / "pictures").write_text("a file")
    with pytest.raises(BadConfig, match=r"cannot unpack into .*/pictures .*\?pictures=FOLDER"):
        unpack(big_file)


def test_a_full_disk_is_answered_with_what_to_do(big_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BadConfig, match=r"No space left on device.*\?pictures=FOLDER"):
        unpack(big_file)


def test_an_unpacked_folder_need_not_be_writable(big_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    unpack(big_file)
    for name in ("write_bytes", "replace"):
        monkeypatch.setattr(Path, name, read_only)
    monkeypatch.setattr(os, "mkdir", read_only)
    unpack(big_file)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/mnist", "{}?pictures=s3://bucket/p", "{}?pictures=", "{}?folder=x", "?pictures=x"]
)
def test_a_wrong_uri_is_a_bad_config(tmp_path: Path, uri: str) -> None:
    with pytest.raises(BadConfig, match="test:x"):
        PackedFolder(uri.format(tmp_path), "test:x")


def test_an_absent_folder_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere is not a folder"):
        PackedFolder(str(tmp_path / "nowhere"), "test:x")
