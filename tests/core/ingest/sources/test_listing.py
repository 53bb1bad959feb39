"""Every dataset passes over what systems leave behind and what no program can name, and says how much it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scipy.io

from retrieval_core.errors import Permanent
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.ccp import CcpSource
from retrieval_core.ingest.sources.folder import FolderSource
from retrieval_core.ingest.sources.imagenet import ImageNetSource
from retrieval_core.ingest.sources.listing import counted, list_dataset, passed_over_notes

NOT_UTF8 = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def folder_source(root: Path) -> Source:
    touch(root, "coat/1.jpg")
    return FolderSource(str(root))


def imagenet_source(root: Path) -> Source:
    touch(root, "train/n01440764/1.JPEG")
    return ImageNetSource(str(root))


def ccp_source(root: Path) -> Source:
    touch(root, "photos/0001.jpg")
    scipy.io.savemat(root / "label_list.mat", {"label_list": ["null"]})
    return CcpSource(str(root))


SOURCES = {folder_source: "coat", imagenet_source: "train/n01440764", ccp_source: "photos"}


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that any user may enter, while the test is not root, whom permissions do not bind."""
    root = Path(tempfile.mkdtemp(prefix="vitrine-test-"))
    root.chmod(0o777)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield root
    if is_root:
        os.seteuid(0)
    for folder in [root, *root.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o777)
    shutil.rmtree(root)


@pytest.mark.parametrize("source_at", SOURCES)
def test_litter_and_names_that_are_no_text_are_passed_over_and_counted(
    tmp_path: Path, source_at: Callable[[Path], Source]
) -> None:
    pictures = SOURCES[source_at]
    litter = ("@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg", "._1.jpg", "Thumbs.db")
    touch(tmp_path, *(f"{pictures}/{name}" for name in litter), f"{pictures}/bell\x07.jpg")
    try:
        touch(tmp_path, f"{pictures}/{NOT_UTF8}")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    source = source_at(tmp_path)
    assert source.rows().height == 1
    assert source.notes[0] == (
        "5 files passed over: 3 hidden, or left behind by a system or a NAS, "
        "2 with a name that is no plain UTF-8 text of at most 1,024 bytes"
    )


@pytest.mark.parametrize("litter", ["lost+found", "System Volume Information", ".Trash-1000"])
@pytest.mark.parametrize("source_at", SOURCES)
def test_litter_that_may_not_be_read_is_passed_over(
    root: Path, source_at: Callable[[Path], Source], litter: str
) -> None:
    locked = root / SOURCES[source_at] / litter
    locked.mkdir(parents=True)
    locked.chmod(0)
    source = source_at(root)
    assert source.rows().height == 1
    assert source.notes[0] == "1 file passed over: 1 hidden, or left behind by a system or a NAS"


@pytest.mark.parametrize("source_at", SOURCES)
def test_a_folder_of_pictures_that_may_not_be_read_is_refused_by_name(
    root: Path, source_at: Callable[[Path], Source]
) -> None:
    """Passed over, its products would be removed from the catalogue."""
    locked = root / SOURCES[source_at] / "private"
    locked.mkdir(parents=True)
    locked.chmod(0)
    with pytest.raises(Permanent, match=f"{locked} may not be read by this user; change its permissions"):
        source_at(root)


def test_the_user_may_pass_over_a_folder_that_may_not_be_read(root: Path) -> None:
    touch(root, "coat/1.jpg", "private/2.jpg")
    (root / "private").chmod(0)
    with pytest.raises(Permanent, match=rf"pass it over with folder:{root}\?skip=NAME/\*"):
        FolderSource(str(root))
    source = FolderSource(f"{root}?skip=private/*")
    assert source.rows()["item_id"].to_list() == ["coat/1.jpg"]
    assert source.notes[0] == "1 file passed over: 1 that match skip"


def test_a_file_in_a_folder_that_may_be_listed_but_not_entered_is_refused_by_name(root: Path) -> None:
    touch(root, "coat/1.jpg")
    (root / "coat").chmod(0o444)
    with pytest.raises(Permanent, match=r"coat/1\.jpg may not be read by this user"):
        list_dataset(str(root), "x")


def test_a_note_names_the_most_frequent_reasons() -> None:
    counts = Counter({f"of type .{n}": n for n in range(1, 8)})
    assert passed_over_notes(counts) == (
        "28 files passed over: 7 of type .7, 6 of type .6, 5 of type .5, 4 of type .4, 3 of type .3 and 2 more",
    )
    assert passed_over_notes(Counter()) == ()


@pytest.mark.parametrize(
    ("n", "noun", "text"), [(1, "file", "1 file"), (0, "file", "0 files"), (1234, "category", "1,234 categories")]
)
def test_one_thing_is_singular(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text
