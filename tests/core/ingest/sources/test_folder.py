"""A folder of pictures becomes a catalogue: path -> id, folder -> category, and perhaps split."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources.folder import FolderSource


def touch(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return str(root)


def rows_of(source: FolderSource) -> list[tuple[str, str | None, str | None]]:
    return source.rows().select("item_id", "split", "category").rows()


def test_a_flat_folder_has_neither_category_nor_split(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "b.jpg", "a.png"))
    assert rows_of(source) == [("a.png", None, None), ("b.jpg", None, None)]


def test_a_folder_is_a_category(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "coat/1.jpg", "coat/deep/er/2.jpg", "hat/1.jpg", "loose.jpg"))
    assert rows_of(source) == [
        ("coat/1.jpg", None, "coat"),
        ("coat/deep/er/2.jpg", None, "coat"),
        ("hat/1.jpg", None, "hat"),
        ("loose.jpg", None, None),
    ]


def test_split_folders_come_before_the_categories(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "train/coat/1.jpg", "query/coat/1.jpg", "gallery/2.jpg"))
    assert rows_of(source) == [
        ("gallery/2.jpg", "gallery", None),
        ("query/coat/1.jpg", "query", "coat"),
        ("train/coat/1.jpg", "train", "coat"),
    ]


def test_among_other_folders_train_is_a_category(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "train/1.jpg", "plane/1.jpg"))
    assert rows_of(source) == [("plane/1.jpg", None, "plane"), ("train/1.jpg", None, "train")]


def test_only_pictures_that_are_not_hidden_are_taken(tmp_path: Path) -> None:
    names = [
        "a.JPG",
        "b.jpeg",
        "c.tiff",
        "d.webp",
        "e.gif",
        "f.bmp",
        "notes.txt",
        ".hidden.jpg",
        ".thumbs/x.jpg",
        "g.svg",
    ]
    source = FolderSource(touch(tmp_path, *names, "coat/.git/y.jpg"))
    assert source.rows()["item_id"].to_list() == ["a.JPG", "b.jpeg", "c.tiff", "d.webp", "e.gif", "f.bmp"]


def test_uris_are_absolute_in_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "shop/coat/ä b.jpg")
    monkeypatch.chdir(tmp_path)
    expected = [str(tmp_path / "shop/coat/ä b.jpg")]
    for spelling in ("shop", "./shop", "shop/", str(tmp_path / "shop") + "/"):
        rows = FolderSource(spelling).rows()
        assert rows["image_uri"].to_list() == expected
        assert rows["item_id"].to_list() == ["coat/ä b.jpg"]


def test_a_folder_without_pictures_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="holds no picture"):
        FolderSource(touch(tmp_path, "readme.txt", ".hidden.jpg"))


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    try:
        touch(tmp_path, name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(CatalogInvalid, match="not UTF-8"):
        FolderSource(str(tmp_path))


def test_there_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no masks"):
        FolderSource(touch(tmp_path, "a.jpg")).read_mask("a.png")


def test_other_schemes_are_a_bad_config() -> None:
    with pytest.raises(BadConfig, match="gs://"):
        FolderSource("gs://bucket/pictures")


def test_a_bucket_reads_like_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("VITRINE_S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        for key in ("pics/train/coat/1.jpg", "pics/query/hat/2.png", "pics/.x.jpg", "pics2/3.jpg", "pics/readme.md"):
            client.put_object(Bucket="shop", Key=key, Body=b"")
        rows = FolderSource("s3://shop/pics/").rows()
        assert rows.select("item_id", "image_uri", "split", "category").rows() == [
            ("query/hat/2.png", "s3://shop/pics/query/hat/2.png", "query", "hat"),
            ("train/coat/1.jpg", "s3://shop/pics/train/coat/1.jpg", "train", "coat"),
        ]
        with pytest.raises(SourceMissing, match="holds no picture"):
            FolderSource("s3://shop/elsewhere")
