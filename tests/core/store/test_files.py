"""Local files are read and written safely: whole, durable, checked, and with errors that say what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from retrieval_core.errors import NotFound, Permanent, ShardCorrupt, StoreNotWritable, StoreUnavailable
from retrieval_core.store import files
from retrieval_core.store.base import UriStat
from retrieval_core.store.files import (
    check_sha256,
    file_sha256,
    has_sha256,
    install,
    list_files,
    read_errors,
    read_file,
    stat_file,
    temporary_file,
    write_errors,
)

# Reading


def test_a_file_is_read_and_described(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"123")

    assert read_file(str(path)) == b"123"
    assert stat_file(str(path)) == UriStat(3, str(path.stat().st_mtime_ns))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for uri in (str(tmp_path / "pipe"), str(tmp_path), "/dev/zero", "a\0b"):
        with pytest.raises(NotFound):
            read_file(uri)


def test_a_forbidden_file_is_not_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(b"1")
    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(Permanent, match="permissions") as caught:
        read_file(str(tmp_path / "a.jpg"))
    assert not isinstance(caught.value, NotFound)


def test_linked_folders_are_followed_but_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_bytes(b"1")
    (tmp_path / "pictures" / "query").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "train" / "up").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "dangling.jpg").symlink_to(tmp_path / "nowhere")

    assert [path for path, _ in list_files(str(tmp_path / "pictures"))] == [
        str(tmp_path / "pictures" / "query" / "1.jpg")
    ]


# Errors


@pytest.mark.parametrize(("number", "error"), [(5, StoreUnavailable), (13, Permanent), (2, NotFound)])
def test_an_error_of_reading_is_translated_and_names_the_file(number: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"a\.jpg"), read_errors("a.jpg"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (5, StoreUnavailable, "check the disk or mount"),
        (28, StoreNotWritable, "free space on that disk"),
        (30, StoreNotWritable, "mounted read-only"),
        (13, StoreNotWritable, "may write to"),
    ],
)
def test_an_error_of_writing_is_translated_and_says_what_to_do(
    number: int, error: type[Exception], advice: str
) -> None:
    with pytest.raises(error, match=advice), write_errors(Path("a.jpg")):
        raise OSError(number, os.strerror(number))


# Writing


def test_a_temporary_file_is_installed_or_removed(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as temporary:
        temporary.write_bytes(b"whole")
        install(temporary, tmp_path / "folder" / "a", os.replace)
    with temporary_file(tmp_path) as temporary:
        temporary.write_bytes(b"half")

    assert (tmp_path / "folder" / "a").read_bytes() == b"whole"
    assert list((tmp_path / ".tmp").iterdir()) == []


# Checksums


def test_a_checksum_is_computed_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, n_read = tmp_path / "part", []
    path.write_bytes(b"1")
    monkeypatch.setattr(files, "file_sha256", lambda path: n_read.append(path) or file_sha256(path))
    sha256 = hashlib.sha256(b"1").hexdigest()

    assert has_sha256(path, sha256)
    check_sha256(path, sha256, "the part")
    assert len(n_read) == 1
    path.write_bytes(b"22")
    assert not has_sha256(path, sha256)
    with pytest.raises(ShardCorrupt, match=f"the part has sha256 .*, was sealed as {sha256[:12]}"):
        check_sha256(path, sha256, "the part")
    assert len(n_read) == 2
    assert not has_sha256(tmp_path / "absent", sha256)
