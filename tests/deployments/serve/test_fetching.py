"""A picture named by a stranger's URL: fetched from the public internet, within bounds, and from nowhere else."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from deployments.serve.fetching import fetch_picture
from retrieval_core.errors import AddressRefused, ImageRefused, NotFound, VitrineError
from retrieval_core.images import thumbnail

PICTURE = thumbnail(np.full((8, 8, 3), 120, np.uint8), 8)


class Handler(BaseHTTPRequestHandler):
    """Answers each path as the test's name for it says."""

    def do_GET(self) -> None:
        self.server.seen.append(dict(self.headers))  # type: ignore[attr-defined]
        try:
            getattr(self, "at_" + self.path.strip("/").partition("?")[0])()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def at_picture(self) -> None:
        self._answer(200, {"Set-Cookie": "a=b"}, PICTURE)

    def at_page(self) -> None:
        self._answer(200, {}, b"<!DOCTYPE html><p>hello")

    def at_missing(self) -> None:
        self._answer(404, {}, PICTURE)

    def at_moved(self) -> None:
        self._answer(302, {"Location": "/picture"})

    def at_loop(self) -> None:
        self._answer(302, {"Location": "/loop"})

    def at_file(self) -> None:
        self._answer(302, {"Location": "file:///etc/passwd"})

    def at_password(self) -> None:
        self._answer(302, {"Location": f"http://user:secret@127.0.0.1:{self.server.server_address[1]}/picture"})

    def at_packed(self) -> None:
        self._answer(200, {"Content-Encoding": "gzip"}, gzip.compress(PICTURE))

    def at_bomb(self) -> None:
        self._answer(200, {}, gzip.compress(bytes(10_000_000)))

    def at_endless(self) -> None:
        self._answer(200, {"Content-Length": "10"} if "short" in self.path else {})
        while True:
            self.wfile.write(bytes(65536))

    def at_promised(self) -> None:
        self._answer(200, {"Content-Length": str(10**12)}, PICTURE)
        self._drip(b"\x00")

    def at_slow(self) -> None:
        self._answer(200, {})
        self._drip(b"\xff")

    def at_slow_head(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX: ")

    def _drip(self, data: bytes) -> None:
        for position in range(1000):
            self.wfile.write(data[position : position + 1] or b"x")
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def fetch(server: ThreadingHTTPServer) -> Callable[..., bytes]:
    """Fetch a path of the server, in a world where loopback is the public internet."""

    def fetch_path(path: str, **bounds: Any) -> bytes:
        bounds.setdefault("is_allowed", lambda address: address.is_loopback)
        return fetch_picture(f"http://127.0.0.1:{server.server_port}/{path}", **bounds)

    return fetch_path


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the system's resolver give these addresses, one list a question, for any name; returns what it was asked."""
    asked: list[str] = []
    system, left = socket.getaddrinfo, iter(answers)

    def getaddrinfo(host: str, port: int, *arguments: Any, **more: Any) -> list[Any]:
        if host[0].isdigit() or ":" in host:
            return system(host, port, *arguments, **more)
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in next(left)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_picture_is_fetched_over_a_redirect_without_cookies_or_passwords(
    fetch: Callable[..., bytes], server: Any
) -> None:
    assert fetch("picture") == PICTURE
    assert fetch("moved") == PICTURE
    names = {name.lower() for headers in server.seen for name in headers}
    assert not names & {"cookie", "authorization", "referer", "proxy-authorization"}


@pytest.mark.parametrize(
    ("path", "bounds", "error", "says"),
    [
        ("missing", {}, NotFound, "404"),
        ("loop", {}, NotFound, "more than 5"),
        ("file", {}, AddressRefused, "file"),
        ("password", {}, AddressRefused, "password"),
        ("page", {}, ImageRefused, "HTML"),
        ("packed", {}, ImageRefused, "compressed"),
        ("bomb", {}, ImageRefused, "gzip"),
        ("endless", {"max_bytes": 200_000}, ImageRefused, "larger than 200,000"),
        ("endless?short", {"max_bytes": 200_000}, ImageRefused, "not a JPEG"),
        ("promised", {"timeout_s": 0.4}, ImageRefused, r"within 0\.4 s"),
        ("slow", {"timeout_s": 0.4}, ImageRefused, r"within 0\.4 s"),
        ("slow_head", {"timeout_s": 0.4}, ImageRefused, r"within 0\.4 s"),
    ],
)
def test_an_answer_out_of_bounds_is_refused(
    path: str, bounds: dict[str, Any], error: type[VitrineError], says: str, fetch: Callable[..., bytes]
) -> None:
    with pytest.raises(error, match=says):
        fetch(path, **bounds)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.jpg",
        "gopher://127.0.0.1:6379/_x",
        "data:image/png;base64,aaaa",
        "//example.com/a.jpg",
        "picture.jpg",
        "",
        "http://",
        "http:///a.jpg",
        "http://user@example.com/a.jpg",
        "http://user:secret@example.com/a.jpg",
        "http://example.com:0/a.jpg",
        "http://example.com:99999/a.jpg",
        "http://exa mple.com/a.jpg",
        "http://example.com/a\r\nHost: b",
        "http://example.com\\@127.0.0.1/",
        "http://[::1/a.jpg",
        "http://\udcff.com/",
        "http://example.com/\udcff",
    ],
)
def test_what_is_no_plain_web_address_is_refused_unresolved(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_to(monkeypatch)
    with pytest.raises(AddressRefused):
        fetch_picture(url)
    assert asked == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "①②⑦.0.0.1",
    ],
)
def test_no_spelling_of_an_inner_host_is_connected_to(
    host: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises((AddressRefused, NotFound), match=r"not on the public internet|no host is called|not the name"):
        fetch_picture(f"http://{host}:{server.server_port}/picture")


def test_a_redirect_is_checked_like_the_first_address(fetch: Callable[..., bytes]) -> None:
    answers = iter([True, False])
    with pytest.raises(AddressRefused, match="not on the public internet"):
        fetch("moved", is_allowed=lambda _: next(answers))


def test_one_inner_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(AddressRefused, match=r"shop\.example is not on the public internet") as raised:
        fetch_picture("http://shop.example/a.jpg")
    assert "10.0.0.1" not in str(raised.value)


def test_a_name_that_points_elsewhere_the_second_time_is_not_asked_twice(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    url = f"http://shop.example:{server.server_port}"
    assert fetch_picture(f"{url}/picture", is_allowed=lambda address: address.is_loopback) == PICTURE
    assert asked == ["shop.example"]
    with pytest.raises(AddressRefused, match="not on the public internet"):
        fetch_picture(f"{url}/picture", is_allowed=lambda address: address.is_loopback)


def test_a_redirect_to_the_same_name_is_resolved_and_checked_again(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    with pytest.raises(AddressRefused, match="not on the public internet"):
        fetch_picture(f"http://shop.example:{server.server_port}/moved", is_allowed=lambda address: address.is_loopback)


def test_an_address_that_is_down_is_passed_over(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["::2", "127.0.0.1"])
    url = f"http://shop.example:{server.server_port}/picture"
    assert fetch_picture(url, timeout_s=4.0, is_allowed=lambda _: True) == PICTURE


def test_a_resolver_that_hangs_does_not_hang_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(30) and [])
    with pytest.raises(ImageRefused, match=r"within 0\.2 s"):
        fetch_picture("http://shop.example/a.jpg", timeout_s=0.2)
    answered.set()


def test_a_proxy_of_the_environment_is_not_used(fetch: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch("picture") == PICTURE


def test_names_beyond_ascii_are_looked_up_in_their_ascii_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_to(monkeypatch, ["10.0.0.1"])
    with pytest.raises(AddressRefused):
        fetch_picture("http://bücher.example/ein bild.jpg".replace(" ", "%20"))
    assert asked == ["xn--bcher-kva.example"]
