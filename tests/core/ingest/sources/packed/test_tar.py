"""Files in a tar are found without unpacking it; a damaged tar is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.errors import NotFound
from retrieval_core.ingest.sources.packed import tar
from retrieval_core.ingest.sources.packed.tar import members
from retrieval_core.store.uris import read_uri
from tests.web_server import WebServer


def pack(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {"a.jpg": b"1" * 700, "b/c.json": b"{}", "d" * 180 + ".jpg": b"", "é.jpg": b"2" * 512}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_file_is_a_part_of_the_tar(form: int, tmp_path: Path) -> None:
    files = {name: data for name, data in FILES.items() if len(name) < 100 or form != tarfile.USTAR_FORMAT}
    (tmp_path / "a.tar").write_bytes(pack(files, form))
    listed = {}
    for member in members(str(tmp_path / "a.tar")):
        assert member.read() == files[member.name]
        listed[member.name] = read_uri(member.span.uri) if member.span.n_bytes else b""
    assert listed == files


def test_folders_and_links_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"12")
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "real.jpg", "folder/real.jpg")
        archive.add(tmp_path / "link.jpg", "link.jpg")
        archive.add(tmp_path, "folder", recursive=False)
    assert [member.name for member in members(str(tmp_path / "a.tar"))] == ["folder/real.jpg"]


WHOLE = pack({name: FILES[name] for name in ("a.jpg", "b/c.json", "é.jpg")})


@given(n_bytes=st.integers(0, len(WHOLE) - 1))
def test_a_tar_that_is_cut_off_anywhere_loses_no_file_silently(
    n_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    path.write_bytes(WHOLE[:n_bytes])
    listed = []
    with suppress(ValueError):
        listed = [member.name for member in members(str(path))]
    assert listed in ([], ["a.jpg", "b/c.json", "é.jpg"]), "only the padding after the end mark may be missing"


@given(position=st.integers(0, 147), byte=st.integers(0, 255), block=st.sampled_from([0, 3, 5]))
def test_a_damaged_header_is_noticed(
    position: int, byte: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(WHOLE)
    damaged[512 * block + position] ^= byte
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    path.write_bytes(damaged)
    if damaged == WHOLE:
        return
    with pytest.raises(ValueError, match=r"no tar|cut off or damaged"):
        list(members(str(path)))


@pytest.mark.parametrize(("data", "says"), [(gzip.compress(WHOLE), "packed with gzip"), (b"<html>" * 200, "no tar")])
def test_what_is_no_plain_tar_is_named(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        list(members(str(tmp_path / "a.tar")))
    with pytest.raises(NotFound):
        list(members(str(tmp_path / "absent.tar")))


def test_a_tar_on_a_web_server_is_read_in_few_requests(web_server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{number}.jpg": bytes([number]) * 3000 for number in range(50)}
    web_server.files, web_server.knows_ranges = {"/a.tar": pack(files)}, True
    monkeypatch.setattr(tar, "REMOTE_BUFFER_BYTES", 60_000)
    listed = {member.name: member.span.uri for member in members(f"{web_server.url}/a.tar")}
    assert len(web_server.requests) <= 6
    assert read_uri(listed["17.jpg"]) == files["17.jpg"]
