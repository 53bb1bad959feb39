"""What sources share: a query behind the folder, and text files with the line ends of any system."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.files import dataset_root, first_present, read_lines, split_query


class Query(Value):
    sort: str = "none"
    size_px: int = Field(8, ge=1)


def test_without_a_query_the_defaults_hold() -> None:
    assert split_query("some/folder", Query, "x") == ("some/folder", Query())
    assert split_query("some/folder?", Query, "x") == ("some/folder", Query())


def test_a_query_stands_behind_the_folder() -> None:
    assert split_query("d?sort=a b&size_px=3", Query, "x") == ("d", Query(sort="a b", size_px=3))


def test_a_path_in_a_query_keeps_its_plus() -> None:
    assert split_query("d?sort=/c++/x", Query, "x")[1].sort == "/c++/x"


@pytest.mark.parametrize("uri", ["", "?sort=a", "d?colour=red", "d?size_px=0", "d?size_px=wide", "d?sort"])
def test_a_wrong_query_is_a_bad_config(uri: str) -> None:
    with pytest.raises(BadConfig, match="x"):
        split_query(uri, Query, "x")


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"colour.*the keys are sort, size_px"):
        split_query("d?colour=red", Query, "x")


def test_an_absent_folder_and_a_file_are_missing_sources(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nowhere"):
        with pytest.raises(SourceMissing, match=f"{name} is not a folder"):
            dataset_root(str(tmp_path / name), "x")
    assert dataset_root(f"{tmp_path}/", "x") == str(tmp_path)


def test_the_first_file_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    assert first_present(str(tmp_path), "a", "b", "c") == str(tmp_path / "b")
    assert first_present(str(tmp_path), "a") is None


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb", ["a", "b"]),
        (b"a\n\nb\n\n \n", ["a", "", "b"]),
        ("a\x85b\u2028c\nd".encode(), ["a\x85b\u2028c", "d"]),
        (b"\n\n", []),
        (b"", []),
    ],
)
def test_lines_end_where_the_file_says(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    (tmp_path / "t").write_bytes(data)
    assert read_lines(str(tmp_path / "t")) == lines


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"caf\xe9")
    with pytest.raises(CatalogInvalid, match="t is not UTF-8 text"):
        read_lines(str(tmp_path / "t"))
