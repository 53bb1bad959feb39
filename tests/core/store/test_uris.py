"""Files outside any store, on a disk and on S3, by their URI; `FILE#bytes=START-END` is a part of a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import BadConfig, NotFound, Permanent, StoreUnavailable
from retrieval_core.store import uris
from retrieval_core.store.base import Span, UriStat, span_of
from retrieval_core.store.uris import fetch_uri, list_uris, read_uri, stat_uri
from tests.web_server import WebServer

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture(params=["local", "s3"])
def folder_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of pictures on disk and on S3, holding what `fill` puts there."""
    if request.param == "local":
        return str(tmp_path / "pictures")
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    return f"s3://{request.getfixturevalue('bucket')}/pictures"


def fill(folder_uri: str, files: dict[str, bytes], client: Any) -> None:
    for name, data in files.items():
        if folder_uri.startswith("s3://"):
            bucket, folder = folder_uri.removeprefix("s3://").split("/")
            client.put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=data)
        else:
            path = Path(folder_uri, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.mark.parametrize(("n_bytes", "part"), [(-1, b"12345"), (3, b"123"), (9, b"12345")])
def test_the_first_bytes_of_a_file_are_read(folder_uri: str, s3_client: Any, n_bytes: int, part: bytes) -> None:
    fill(folder_uri, {"a": b"12345", "empty": b""}, s3_client)
    assert read_uri(f"{folder_uri}/a", n_bytes) == part
    assert read_uri(f"{folder_uri}/empty", n_bytes) == b""


def test_files_are_listed_with_size_and_version_on_disk_and_on_s3(folder_uri: str, s3_client: Any) -> None:
    files = {"dress/2 b.jpg": b"22", "dress/1.jpg": b"1", "été.jpg": b"333", "dress.jpg": b""}
    fill(folder_uri, files, s3_client)

    listed = dict(list_uris(folder_uri))

    expected = ["dress.jpg", "dress/1.jpg", "dress/2 b.jpg", "été.jpg"]
    assert list(listed) == [f"{folder_uri}/{name}" for name in expected]
    for name, data in files.items():
        uri = f"{folder_uri}/{name}"
        assert read_uri(uri) == data
        assert stat_uri(uri) == listed[uri]
        assert listed[uri].size_bytes == len(data)


def test_the_version_changes_with_the_bytes(folder_uri: str, s3_client: Any) -> None:
    fill(folder_uri, {"a.jpg": b"1"}, s3_client)
    before = stat_uri(f"{folder_uri}/a.jpg")
    time.sleep(0.02)
    fill(folder_uri, {"a.jpg": b"2"}, s3_client)
    after = stat_uri(f"{folder_uri}/a.jpg")

    assert (before.size_bytes, after.size_bytes) == (1, 1)
    assert before.version != after.version


def test_absent_files_are_not_found(folder_uri: str) -> None:
    for uri in (f"{folder_uri}/absent.jpg", f"{folder_uri}/{'x' * 300}.jpg"):
        for look in (read_uri, stat_uri):
            with pytest.raises(NotFound):
                look(uri)


def test_an_absent_folder_holds_no_files(folder_uri: str) -> None:
    if folder_uri.startswith("s3://"):
        assert list(list_uris(folder_uri)) == []
    else:
        with pytest.raises(NotFound, match="pictures"):
            list(list_uris(folder_uri))


def test_an_outage_does_not_look_like_an_absent_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", "http://127.0.0.1:1")

    with pytest.raises(StoreUnavailable):
        read_uri("s3://bucket/a.jpg")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(BadConfig, match="ftp:// is not supported"):
        read_uri("ftp://example.org/a.jpg")


DATA = bytes(range(200))


@pytest.fixture(params=["local", "s3", "http"])
def packed_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a file with `DATA`."""
    if request.param == "local":
        (tmp_path / "a#1.tar").write_bytes(DATA)
        return str(tmp_path / "a#1.tar")
    if request.param == "http":
        server: WebServer = request.getfixturevalue("web_server")
        server.files, server.knows_ranges = {"/a.tar": DATA}, True
        return f"{server.url}/a.tar"
    request.getfixturevalue("aws_environment")
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    client: Any = request.getfixturevalue("s3_client")
    bucket = request.getfixturevalue("bucket")
    client.put_object(Bucket=bucket, Key="a#1.tar", Body=DATA)
    return f"s3://{bucket}/a#1.tar"


@pytest.mark.parametrize(("start", "n_bytes"), [(0, 1), (0, 200), (7, 20), (199, 1)])
def test_a_part_is_read_by_its_address(packed_file: str, start: int, n_bytes: int) -> None:
    part = Span(packed_file, start, n_bytes)
    assert span_of(part.uri) == part
    assert read_uri(part.uri) == DATA[start : start + n_bytes]
    assert read_uri(part.uri, 3) == DATA[start : start + min(3, n_bytes)]
    assert stat_uri(part.uri) == UriStat(n_bytes, stat_uri(packed_file).version)


@pytest.mark.parametrize(("start", "n_bytes"), [(190, 11), (200, 1), (5000, 10)])
def test_a_part_beyond_the_end_is_missing(packed_file: str, start: int, n_bytes: int) -> None:
    with pytest.raises(NotFound, match="ends before its part"):
        read_uri(Span(packed_file, start, n_bytes).uri)
    if "://" in packed_file:
        with pytest.raises(NotFound, match="ends before its part"):
            fetch_uri(Span(packed_file, start, n_bytes).uri, 1000)


def test_an_absent_file_has_no_parts(packed_file: str) -> None:
    part = Span(f"{packed_file}.absent", 0, 1).uri
    for read in (read_uri, stat_uri):
        with pytest.raises(NotFound):
            read(part)


@pytest.mark.parametrize("uri", ["a.jpg", "a#bytes=1", "a#bytes=5-4", "#bytes=1-2", "a#bytes=1-2.jpg", "a?bytes=1-2"])
def test_other_addresses_are_those_of_whole_files(uri: str) -> None:
    assert span_of(uri) is None


def test_a_server_that_sends_no_parts_is_named(web_server: WebServer) -> None:
    web_server.files = {"/a.tar": DATA}
    with pytest.raises(Permanent, match="sends no parts of files"):
        read_uri(f"{web_server.url}/a.tar#bytes=5-9")


def test_a_web_server_is_asked_once_a_minute_for_the_version_of_all_parts(
    web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web_server.files, web_server.knows_ranges = {"/a.tar": DATA}, True
    parts = [Span(f"{web_server.url}/a.tar", start, 10) for start in range(0, 200, 10)]
    fetched = fetch_uri(parts[3].uri, 1000)
    web_server.clear()
    assert {stat_uri(part.uri).version for part in parts} == {fetched.stat.version}
    assert web_server.requests == [("HEAD", "/a.tar")]
    web_server.files["/a.tar"] = DATA[::-1]
    monkeypatch.setattr(uris, "STAT_LIFETIME_S", 1e-9)
    assert stat_uri(parts[3].uri).version != fetched.stat.version
