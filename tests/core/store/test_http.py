"""Files of web servers: what is read, what it costs, and what becomes of servers that fail."""

from __future__ import annotations

import logging
from itertools import repeat

import pytest

from retrieval_core.errors import AddressRefused, BadConfig
from retrieval_core.store import http
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import folder_of, list_uris, open_store, read_uri, stat_uri
from tests.web_server import WebServer, etag


@pytest.fixture
def server(web_server: WebServer) -> WebServer:
    web_server.files = {"/a.jpg": b"12345", "/empty": b""}
    return web_server


def dated(data: bytes) -> dict[str, str]:
    return {"Last-Modified": f"Sat, 28 Nov 2026 02:00:{len(data):02} GMT"}


@pytest.mark.parametrize(("n_bytes", "part"), [(-1, b"12345"), (3, b"123"), (9, b"12345"), (0, b"")])
def test_the_first_bytes_of_a_file_are_read(server: WebServer, n_bytes: int, part: bytes) -> None:
    assert read_uri(f"{server.url}/a.jpg", n_bytes) == part
    assert read_uri(f"{server.url}/empty", n_bytes) == b""
    assert server.headers[0]["User-Agent"].startswith("vitrine/")


def test_a_connection_is_used_again(server: WebServer) -> None:
    for _ in range(5):
        read_uri(f"{server.url}/a.jpg")
    assert len(server.connections) == 1


@pytest.mark.parametrize("validators", [etag, dated])
@pytest.mark.parametrize("knows_head", [True, False])
def test_an_unchanged_file_costs_no_bytes(server: WebServer, validators: object, knows_head: bool) -> None:
    server.validators, server.knows_head = validators, knows_head  # type: ignore[assignment]
    uri = f"{server.url}/a.jpg"
    known = http.fetch(uri).stat
    assert known.size_bytes == 5
    server.clear()
    assert stat_uri(uri, known) == known
    assert server.n_sent_bytes == 0
    assert len(server.requests) == (1 if knows_head else 2)
    server.files["/a.jpg"] = b"6789012"
    changed = stat_uri(uri, known)
    assert changed.version != known.version
    assert changed == http.fetch(uri).stat


def test_a_server_that_ignores_conditions_and_tells_no_length_shows_the_same_version(server: WebServer) -> None:
    uri, version = f"{server.url}/a.jpg", {"ETag": 'W/"7"'}
    known = UriStat(5, 'etag W/"7"')
    server.answers["/a.jpg"] = repeat((200, version, b"12345"))
    assert stat_uri(uri, known) == known
    assert stat_uri(uri) == UriStat(0, 'etag W/"7"')


def test_a_file_without_etag_and_date_has_no_version(server: WebServer) -> None:
    server.validators = lambda _: {}
    assert stat_uri(f"{server.url}/a.jpg") == UriStat(5, "")


def test_without_leave_nothing_is_fetched_from_this_network(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_FETCH_ALLOW")
    with pytest.raises(AddressRefused, match="not on the public internet"):
        read_uri(f"{server.url}/a.jpg")
    monkeypatch.setenv("VITRINE_FETCH_ALLOW", "127.0.0.1/8")
    with pytest.raises(BadConfig, match=r"'127\.0\.0\.1/8'"):
        read_uri(f"{server.url}/a.jpg")
    assert server.requests == []


def test_a_password_in_an_address_is_refused_and_not_repeated(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    uri = server.url.replace("//", "//user:secret@")
    with pytest.raises(AddressRefused) as raised:
        read_uri(f"{uri}/a.jpg")
    read_uri(f"{server.url}/a.jpg?token=secret")
    assert "secret" not in str(raised.value) + caplog.text


def test_a_web_server_is_no_store_and_no_folder(server: WebServer) -> None:
    with pytest.raises(BadConfig, match="table:https"):
        list(list_uris(f"{server.url}/pictures"))
    with pytest.raises(BadConfig, match="not supported"):
        open_store(server.url)


def test_the_folder_of_a_file_ignores_a_query() -> None:
    assert folder_of("https://shop/feeds/items?file=a/b") == "https://shop/feeds"
    assert folder_of("s3://shop/feeds/items?.csv") == "s3://shop/feeds"
