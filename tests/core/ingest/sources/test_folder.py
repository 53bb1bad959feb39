"""A folder of pictures becomes a catalogue: path -> id, folder -> category, and perhaps split."""

from __future__ import annotations

import io
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws
from PIL import Image

from retrieval_core.errors import BadConfig, CatalogInvalid, NotFound, SourceMissing
from retrieval_core.ingest.sources import folder
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


def test_names_that_are_not_text_are_passed_over_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "bell\x07.jpg", "turned\u202e.jpg")
    try:
        touch(tmp_path, b"caf\xe9/b.jpg".decode("utf-8", "surrogateescape"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    source = FolderSource(str(tmp_path))
    assert source.rows()["item_id"].to_list() == ["a.jpg"]
    assert "3 files passed over: 3 with a name that is no plain UTF-8 text" in source.notes[0]


LITTER = (
    "@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "$RECYCLE.BIN/$R8A.jpg", "coat/@eaDir/x/SYNOPHOTO_THUMB_XL.jpg",
    "#recycle/old.png", "__MACOSX/coat/._1.jpg", "coat/._1.jpg", ".DS_Store", "coat/Thumbs.db", "Desktop.ini",
    "System Volume Information/y.jpg", "lost+found/z.jpg", ".Trashes/501/q.jpg", "@Recycle/t.webp", "RECYCLER/u.gif",
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    litter=st.sets(st.sampled_from(LITTER), min_size=1),
    folder=st.sampled_from(["", "hat", "hat/deep"]),
    change_case=st.sampled_from([str, str.lower, str.upper]),
)
def test_what_systems_leave_behind_is_counted_and_is_no_item(tmp_path_factory, litter, folder, change_case) -> None:
    root = tmp_path_factory.mktemp("shop")
    names = [f"{folder}/{change_case(name)}".strip("/") for name in litter]
    source = FolderSource(touch(root, "coat/1.jpg", "hat/2.jpg", *names))
    assert rows_of(source) == [("coat/1.jpg", None, "coat"), ("hat/2.jpg", None, "hat")]
    n_files = sum(path.is_file() for path in root.rglob("*")) - 2
    files = "1 file" if n_files == 1 else f"{n_files} files"
    assert f"{files} passed over: {n_files} hidden, or left behind by a system or a NAS" in source.notes


def test_names_that_only_resemble_those_of_systems_are_items(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "recycled bags/1.jpg", "thumbs/2.jpg", "tmp/3.jpg", "eaDir/4.jpg"))
    assert len(source.rows()) == 4


def test_every_file_is_an_item_or_counted_by_its_type(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "a.jpg", "b.txt", "c.TXT", "d.svg", "e.jxl", "f"))
    assert source.notes[0] == (
        "5 files passed over: 2 of type .txt, 1 of type .svg, 1 of type .jxl, 1 without a suffix that are no pictures"
    )
    assert source.n_passed_over + len(source.rows()) == 6


def test_an_id_is_in_normal_form_and_its_address_is_that_of_the_file(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "E\u0301te\u0301/Bild\u202f1\u00ad.jpg", "\u200b.jpg"))
    assert FolderSource(f"{tmp_path}?skip=Été/*").rows()["item_id"].to_list() == [".jpg"]
    rows = source.rows().select("item_id", "category", "image_uri").rows()
    assert [row[:2] for row in rows] == [(".jpg", None), ("Été/Bild 1.jpg", "Été")]
    assert all(Path(address).exists() for *_, address in rows)


def test_two_files_with_one_id_are_refused_with_both_names(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=r"spelled 'a/e\\u0301\.jpg' and 'a/\\xe9\.jpg'; rename one"):
        FolderSource(touch(tmp_path, "a/\u00e9.jpg", "a/e\u0301.jpg"))


def picture(name: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, name)
    return stream.getvalue()


BARE = {
    "coat/1": picture("JPEG"), "coat/2": picture("PNG"), "hat/3": picture("WEBP"), "4": picture("AVIF"),
    "coat/LICENSE": b"MIT", "hat/empty": b"", "hat/page": b"<html>", "hat/half": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_picture_without_a_suffix_is_known_by_its_first_bytes(
    tmp_path: Path, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    if place == "s3":
        request.getfixturevalue("aws_environment")
        monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
        root = f"s3://{request.getfixturevalue('bucket')}/pics"
    for path, data in BARE.items():
        if place == "s3":
            bucket, folder = root.removeprefix("s3://").split("/")
            request.getfixturevalue("s3_client").put_object(Bucket=bucket, Key=f"{folder}/{path}", Body=data)
        else:
            touch(tmp_path, path)
            (tmp_path / path).write_bytes(data)
    source = FolderSource(root)
    assert source.rows()["item_id"].to_list() == ["4", "coat/1", "coat/2", "hat/3"]
    assert source.notes[0] == "4 files passed over: 4 without a suffix that are no pictures"


def test_too_many_files_without_a_suffix_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_WITHOUT_SUFFIX", 2)
    root = touch(tmp_path, "1.jpg", "logs/a", "logs/b", "c")
    with pytest.raises(CatalogInvalid, match=r"3 files without a suffix, e.g. 'c'; at most 2 .*\?skip="):
        FolderSource(root)
    assert FolderSource(f"{root}?skip=logs/*").rows()["item_id"].to_list() == ["1.jpg"]


def test_the_user_adds_patterns(tmp_path: Path) -> None:
    root = touch(tmp_path, "coat/1.jpg", "coat/1_thumb.jpg", "drafts/deep/2.jpg", "hat/3.jpg")
    source = FolderSource(root + "?skip=*_thumb.jpg|drafts/*")
    assert source.rows()["item_id"].to_list() == ["coat/1.jpg", "hat/3.jpg"]
    assert source.rows()["image_uri"].to_list()[0] == f"{root}/coat/1.jpg"
    assert "2 files passed over: 2 that match skip" in source.notes
    with pytest.raises(BadConfig, match="the keys are skip"):
        FolderSource(root + "?skip=a&keep=b")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "validation", "test"), ["test", "train", "val"]),
        (("Training", "Valid", "TESTING"), ["test", "train", "val"]),
        (("train", "dev", "eval"), ["train", "val", "val"]),
    ],
)
def test_splits_are_known_in_any_spelling(tmp_path: Path, folders: tuple[str, ...], splits: list[str]) -> None:
    source = FolderSource(touch(tmp_path, *(f"{folder}/{name}/1.jpg" for folder in folders for name in ("cat", "dog"))))
    assert sorted({(split, folder) for _, split, folder in rows_of(source)}) == sorted(
        {(split, name) for split in splits for name in ("cat", "dog")}
    )
    assert source.notes[-1] == "2 categories: 3 cat, 3 dog"
    assert source.notes[-2].startswith("splits: ")


def test_categories_that_look_like_splits_are_warned_about(tmp_path: Path) -> None:
    source = FolderSource(touch(tmp_path, "train/cat/1.jpg", "test/cat/2.jpg", "misc/3.jpg"))
    assert source.notes[0] == "3 categories: 1 misc, 1 test, 1 train"
    assert source.notes[1].startswith("warning: the categories test, train look like splits")


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
