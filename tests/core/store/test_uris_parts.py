"""`FILE#bytes=START-END` is a part of a file, on a disk, on S3 and on a web server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import NotFound, Permanent
from retrieval_core.store import http, uris
from retrieval_core.store.base import Span, span_of
from retrieval_core.store.uris import read_uri, stat_uri
from tests.web_server import WebServer

DATA = bytes(range(200))


@pytest.fixture(params=["local", "s3", "http"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
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
def test_a_part_is_read_by_its_address(file: str, start: int, n_bytes: int) -> None:
    part = Span(file, start, n_bytes)
    assert span_of(part.uri) == part
    assert read_uri(part.uri) == DATA[start : start + n_bytes]
    assert read_uri(part.uri, 3) == DATA[start : start + min(3, n_bytes)]
    assert stat_uri(part.uri) == (n_bytes, stat_uri(file).version)


@pytest.mark.parametrize(("start", "n_bytes"), [(190, 11), (200, 1), (5000, 10)])
def test_a_part_beyond_the_end_is_missing(file: str, start: int, n_bytes: int) -> None:
    with pytest.raises(NotFound, match="ends before its part"):
        read_uri(Span(file, start, n_bytes).uri)


def test_an_absent_file_has_no_parts(file: str) -> None:
    part = Span(f"{file}.absent", 0, 1).uri
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
    fetched = http.fetch(parts[3].uri)
    web_server.clear()
    assert {stat_uri(part.uri).version for part in parts} == {fetched.stat.version}
    assert web_server.requests == [("HEAD", "/a.tar")]
    web_server.files["/a.tar"] = DATA[::-1]
    monkeypatch.setattr(uris, "STAT_LIFETIME_S", 1e-9)
    assert stat_uri(parts[3].uri).version != fetched.stat.version
