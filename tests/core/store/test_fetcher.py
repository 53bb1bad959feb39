"""Requests to web servers: which failures pass, which stay, and where a request may lead."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import pytest

from retrieval_core.errors import AddressRefused, NotFound, Permanent, StoreUnavailable
from retrieval_core.store import fetcher, hosts, http
from retrieval_core.store.base import UriStat
from retrieval_core.store.uris import read_uri, stat_uri
from tests.http2_server import serve_http2
from tests.web_server import WebServer, serve


@pytest.fixture
def server(web_server: WebServer) -> WebServer:
    web_server.files = {"/a.jpg": b"12345", "/empty": b""}
    return web_server


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (410, NotFound), (401, Permanent), (403, Permanent), (418, Permanent), (206, Permanent)],
)
def test_a_refusal_is_told_by_its_kind_at_once(server: WebServer, status: int, error: type[Exception]) -> None:
    server.answers["/a.jpg"] = repeat((status, {"Content-Length": "0"}, b""))
    with pytest.raises(error, match=str(status)) as raised:
        read_uri(f"{server.url}/a.jpg?token=secret")
    assert raised.type is error
    assert "secret" not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_not_noticed(server: WebServer, status: int) -> None:
    server.answers["/a.jpg"] = iter([(status, {"Content-Length": "0"}, b"")] * 3)
    assert read_uri(f"{server.url}/a.jpg") == b"12345"
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "error"), [(429, StoreUnavailable), (503, StoreUnavailable), (500, Permanent)])
def test_a_failure_that_stays_is_of_the_host_or_of_the_file(
    server: WebServer, status: int, error: type[Exception]
) -> None:
    server.answers["/a.jpg"] = repeat((status, {"Content-Length": "0"}, b""))
    with pytest.raises(error, match=str(status)) as raised:
        read_uri(f"{server.url}/a.jpg")
    assert raised.type is error
    assert len(server.requests) == 5


def test_a_pause_that_a_host_asks_for_is_kept(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetcher.HostShare, "pause", lambda _, pause_s: waits.append(pause_s))
    date = "Sat, 28 Nov 2020 02:00:00 GMT"  # has passed
    asks = [(429, {"Retry-After": text, "Content-Length": "0"}, b"") for text in ("7", date, "soon")]
    server.answers["/a.jpg"] = iter(asks)
    assert read_uri(f"{server.url}/a.jpg") == b"12345"
    assert waits == [7.0, 0.0, 0.0]

    server.answers["/a.jpg"] = iter([(503, {"Retry-After": "3600", "Content-Length": "0"}, b"")])
    with pytest.raises(StoreUnavailable, match="asks to wait 3600 s"):
        read_uri(f"{server.url}/a.jpg")


def test_a_file_that_is_cut_off_is_an_error(server: WebServer) -> None:
    server.answers["/a.jpg"] = repeat((200, {"Content-Length": "9"}, b"1234"))
    with pytest.raises(Permanent, match="cut off"):
        read_uri(f"{server.url}/a.jpg")
    server.answers["/a.jpg"] = iter([(200, {"Content-Length": "9"}, b"1234")])
    assert read_uri(f"{server.url}/a.jpg") == b"12345"


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[Path]:
    """A file with a certificate for 127.0.0.1 and its key; the certificate alone lies beside it as public.pem."""
    certificate = tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=shop", "-addext", "subjectAltName=IP:127.0.0.1"]
    options = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    command = ["openssl", *options, "-keyout", str(certificate), "-out", str(tmp_path / "public.pem")]
    subprocess.run(command, check=True, capture_output=True)
    with certificate.open("a") as file:
        file.write((tmp_path / "public.pem").read_text())
    forget_certificates()
    yield certificate
    forget_certificates()


def forget_certificates() -> None:
    fetcher._ssl_context.cache_clear()
    http._make_fetcher.cache_clear()


def test_a_certificate_that_this_machine_does_not_trust_is_refused(
    certificate: Path, web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(certificate) as secure:
        secure.files = {"/a.jpg": b"12345"}
        with pytest.raises(Permanent, match="no certificate that this machine trusts"):
            read_uri(f"{secure.url}/a.jpg")
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("public.pem")))
        forget_certificates()
        assert read_uri(f"{secure.url}/a.jpg") == b"12345"


def test_many_threads_read_over_http2_where_the_server_offers_it(
    certificate: Path, web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("public.pem")))
    monkeypatch.setenv("VITRINE_FETCH_CONNECTIONS", "4")
    with serve_http2(certificate) as server:
        server.files = {f"/{number}.jpg": bytes([number]) * 5000 * (number + 1) for number in range(40)}
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(read_uri, [f"{server.url}/{path}" for path in map("{}.jpg".format, range(40))]))
        assert read == list(server.files.values())
        assert len(server.requests) <= 4
        assert stat_uri(f"{server.url}/3.jpg") == UriStat(0, 'etag "1"')
        with pytest.raises(NotFound):
            read_uri(f"{server.url}/absent.jpg")
        assert read_uri(f"{server.url}/39.jpg", 3) == bytes([39]) * 3
        assert read_uri(f"{server.url}/1.jpg") == server.files["/1.jpg"]


def test_a_host_that_does_not_answer_in_time_is_unavailable(server: WebServer) -> None:
    bounds = fetcher.Bounds(timeout_s=0.1, bytes_per_s=1e9, n_attempts=2)
    server.delay_s = 0.4
    with (
        fetcher.Fetcher(lambda *_: True) as slow,
        pytest.raises(StoreUnavailable, match=r"a\.jpg was not delivered within 0\.1 s"),
    ):
        slow.request("GET", f"{server.url}/a.jpg", bounds=bounds)


def test_a_file_beyond_the_bounds_is_refused(server: WebServer) -> None:
    with pytest.raises(Permanent, match="larger than 4 bytes"):
        http.fetch(f"{server.url}/a.jpg", max_bytes=4)


def packed(data: bytes) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Encoding": "gzip", "Content-Length": str(len(data))}, data


def test_a_table_may_be_sent_packed_and_a_picture_may_not(server: WebServer) -> None:
    data = b"sku,picture\n" * 10_000
    server.answers["/shop.csv"] = repeat(packed(gzip.compress(data[:5000]) + gzip.compress(data[5000:])))
    assert read_uri(f"{server.url}/shop.csv", accepts_gzip=True) == data
    assert server.headers[-1]["Accept-Encoding"] == "gzip"
    with pytest.raises(Permanent, match="sent compressed, although the request forbids it"):
        read_uri(f"{server.url}/shop.csv")
    assert server.headers[-1]["Accept-Encoding"] == "identity"


def test_what_a_small_file_unpacks_to_is_bounded(server: WebServer) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    server.answers["/bomb.csv"] = repeat(packed(bomb))
    with pytest.raises(Permanent, match="larger than 1,000,000 bytes"):
        http.fetch(f"{server.url}/bomb.csv", max_bytes=1_000_000, accepts_gzip=True)
    assert len(server.requests) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" * len(data)])
def test_a_packed_file_that_is_cut_off_or_damaged_is_an_error(
    server: WebServer, damage: Callable[[bytes], bytes]
) -> None:
    whole = gzip.compress(b"sku,picture\n" * 100)
    server.answers["/shop.csv"] = iter([packed(damage(whole)), packed(whole)])
    assert read_uri(f"{server.url}/shop.csv", accepts_gzip=True) == b"sku,picture\n" * 100
    server.answers["/shop.csv"] = repeat(packed(damage(whole)))
    with pytest.raises(Permanent, match="cut off"):
        read_uri(f"{server.url}/shop.csv", accepts_gzip=True)


def test_a_host_that_is_down_or_unknown(server: WebServer) -> None:
    with serve() as other:
        down = other.url
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1 does not answer"):
        read_uri(f"{down}/a.jpg")


@pytest.mark.parametrize("location", ["http://10.0.0.1/a.jpg", "http://169.254.169.254/latest", "file:///etc/passwd"])
def test_a_redirect_to_an_inner_address_is_refused(server: WebServer, location: str) -> None:
    server.answers["/moved"] = repeat((302, {"Location": location, "Content-Length": "0"}, b""))
    with pytest.raises(AddressRefused):
        read_uri(f"{server.url}/moved")


def test_a_redirect_is_followed(server: WebServer) -> None:
    server.answers["/moved"] = repeat((301, {"Location": "a.jpg", "Content-Length": "0"}, b""))
    assert read_uri(f"{server.url}/moved") == b"12345"


def test_a_proxy_is_used_and_told_no_inner_address(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://shop.example:80/b.jpg"] = b"by proxy"
    assert read_uri("http://shop.example/b.jpg") == b"by proxy"
    assert read_uri(f"{server.url}/a.jpg") == b"12345"  # loopback is reached directly
    with pytest.raises(AddressRefused):
        read_uri("http://10.0.0.1/b.jpg")


def test_at_most_so_many_requests_are_made_to_a_host_at_a_time(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delay_s = 0.01
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(read_uri, [f"{server.url}/a.jpg"] * 96)) == {b"12345"}
    assert 2 <= server.most_at_a_time <= hosts.HostLimits().n_connections
