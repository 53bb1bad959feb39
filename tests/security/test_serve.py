"""A stranger at every route of the search service: whatever is sent, the answer is 4xx and memory stays flat."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments import listening as bounds
from deployments.serve.api.requests import SearchRequest, ShopperEvent
from deployments.serve.app import ServeOptions, build_app
from tests.core.conftest import new_shop, pixels_backbone
from tests.deployments.serve.conftest import listening

__all__ = ["new_shop", "pixels_backbone"]

TOKEN, NOSY = "t0ken-of-the-shop", "t0ken-of-prometheus"
ORIGIN = "https://shop.example"
OPEN = {"/livez", "/readyz"}
MB = 1_000_000
FLAT_MB = 120  # may be taken meanwhile: one body of 28 MB, read and parsed


class Target(NamedTuple):
    """A running service and its routes: paths with an item's id in them, and the methods that they answer."""

    url: str
    routes: dict[str, set[str]]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def paths_of(app: FastAPI) -> dict[str, set[str]]:
    """The routes of an app; a kind of route that is not known here fails, so that none is forgotten."""
    routes: dict[str, set[str]] = {}
    for route in app.routes:
        path, methods = getattr(route, "path"), getattr(route, "methods")  # noqa: B009
        path = path.replace("{item_id:path}", "item-1-0").replace("{name}", "production")
        assert "{" not in path, f"fill in the parameter of {path}"
        routes.setdefault(path, set()).update(methods)
    return routes


@pytest.fixture(scope="module")
def target(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish("a" * 32)
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    hashed = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in (("shop", TOKEN), ("prom", NOSY))}
    file.write_text(f"shop read,events {hashed['shop']}\nprom metrics {hashed['prom']}\n")
    app = build_app(shop.settings, ServeOptions(token_file=file, origins=(ORIGIN,)))
    with listening(app) as url:
        yield Target(url, paths_of(app))


@pytest.fixture(scope="module")
def stranger(target: Target) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.url, timeout=60, trust_env=False) as client:
        yield client


def allowed(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", **more}


def refused(response: httpx.Response) -> bool:
    return 400 <= response.status_code < 500


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def test_the_routes_are_those_that_are_attacked_here(target: Target) -> None:
    assert target.routes.keys() == {
        "/livez", "/readyz", "/metrics", "/v1/openapi.json", "/v1/search", "/v1/search/batch", "/v1/facets",
        "/v1/releases", "/v1/releases/production", "/v1/items", "/v1/items/item-1-0", "/v1/items/item-1-0/similar",
        "/v1/items/item-1-0/picture", "/v1/view", "/v1/events",
    }  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"Bearer", b"Bearer wrong", b"Basic dDpw", b"Bearer \xff\xfe", b"Bearer " + b"x" * 8000,
        b"Bearer " + hashlib.sha256(TOKEN.encode()).hexdigest().encode(),
    ],
    ids=lambda header: repr(header)[:20],
)  # fmt: skip
def test_without_a_known_token_no_route_answers(header: bytes | None, target: Target, stranger: httpx.Client) -> None:
    headers = {} if header is None else {b"Authorization": header}
    for path, methods in target.routes.items():
        for method in methods:
            response = stranger.request(method, path, headers=headers)
            assert response.status_code == (200 if path in OPEN else 401), path


def test_a_token_of_another_scope_opens_nothing_else(target: Target, stranger: httpx.Client) -> None:
    for path in target.routes:
        response = stranger.get(path, headers={"Authorization": f"Bearer {NOSY}"})
        assert response.status_code == (200 if path in {*OPEN, "/metrics"} else 403), path
    assert stranger.get("/metrics", headers=allowed()).status_code == 403


def test_other_origins_names_and_methods_are_refused_everywhere(target: Target, stranger: httpx.Client) -> None:
    for path, methods in target.routes.items():
        for origin in ("https://attacker.example", "null", f"{ORIGIN}.attacker.example", ORIGIN.upper()):
            assert stranger.post(path, headers=allowed(Origin=origin)).status_code == 403, path
        for host in ("attacker.example", "127.0.0.1.attacker.example", "["):
            assert stranger.get(path, headers=allowed(Host=host)).status_code == 421, path
        for method in {"POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND"} - methods:
            assert refused(stranger.request(method, path, headers=allowed())), (method, path)


def test_huge_bodies_are_refused_before_they_are_read(target: Target, stranger: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(500):
            yield b" " * MB

    before = resident_mb()
    for path in target.routes:
        for content_type in ("application/json", "multipart/form-data; boundary=b"):
            with socket.create_connection(("127.0.0.1", target.port), timeout=30) as client:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                head += f"Content-Type: {content_type}\r\nContent-Length: {500 * MB}\r\n\r\n"
                client.sendall(head.encode() + b"{" * 1000)
                assert b" 413 " in client.recv(100), path
    try:
        headers = allowed(**{"Content-Type": "application/json"})
        assert stranger.post("/v1/search", content=endless(), headers=headers).status_code == 413
    except httpx.TransportError:
        pass  # the connection was closed while it was still sent to
    assert resident_mb() - before < FLAT_MB


def test_slow_bodies_lose_their_connection(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "REQUEST_S", 1.0)
    for path in target.routes:
        with socket.create_connection(("127.0.0.1", target.port), timeout=30) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
            answer = client.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), path


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """A PNG of 900 megapixels, one bit each, and its 112 MB of zeros alone, each in less than 1 MB."""
    side = 30_000
    rows = zlib.compress(bytes((side // 8 + 1) * side), 1)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return {"900 megapixels": b"\x89PNG\r\n\x1a\n" + b"".join(packed), "no picture": rows}


@pytest.mark.parametrize("kind", ["900 megapixels", "no picture"])
def test_bombs_are_refused_and_take_no_memory(kind: str, bombs: dict[str, bytes], stranger: httpx.Client) -> None:
    data, before = bombs[kind], resident_mb()
    as_json = {"images": [base64.b64encode(data).decode()] * 4}
    assert stranger.post("/v1/search", json=as_json, headers=allowed()).status_code == 422
    batch = stranger.post("/v1/search/batch", json={"searches": [as_json] * 3}, headers=allowed()).json()
    assert {answer["status"] for answer in batch["answers"]} == {422}
    files = [("image", data)] * 4
    assert stranger.post("/v1/search", files=files, headers=allowed()).status_code == 422
    assert resident_mb() - before < FLAT_MB


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"filters":' * 100_000,
        b'{"k":' + b"9" * 100_000 + b"}",
        b'{"item_ids":["\\ud800"]}',
        b'{"item_ids":["' + b"x" * 5_000_000 + b'"]}',
        b'{"item_ids":[' + b'"a",' * 500_000 + b'"a"]}',
        b"{" + b",".join(b'"p%d":1' % n for n in range(200_000)) + b"}",
        zlib.compress(b'{"item_ids":["item-1-0"]}'),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bodies_that_are_made_to_be_costly_are_refused(body: bytes, target: Target, stranger: httpx.Client) -> None:
    headers = allowed(**{"Content-Type": "application/json"})
    for path, methods in target.routes.items():
        if "POST" in methods:
            response = stranger.post(path, content=body, headers=headers)
            assert refused(response), path
            assert len(response.content) < 5_000, "it is not sent back"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/a.jpg", "http://localhost:22/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/", "http://0/", "http://2130706433/", "http://0x7f.1/", "file:///etc/passwd", "ftp://a.example/",
        "gopher://127.0.0.1:25/", "//127.0.0.1/", "/etc/passwd", "s3://bucket/key", "http://user:pass@127.0.0.1/",
        "http://[::ffff:127.0.0.1]/", "http://127.0.0.1.nip.invalid/", "javascript:1", " ", "data:,x",
    ],
)  # fmt: skip
def test_private_addresses_are_not_fetched(address: str, stranger: httpx.Client) -> None:
    for body in ({"image_urls": [address]}, {"item_ids": ["item-1-0"], "unlike": {"image_urls": [address]}}):
        response = stranger.post("/v1/search", json=body, headers=allowed())
        assert refused(response), response.text
        assert "root:" not in response.text


@pytest.mark.parametrize(
    "item_id",
    ["../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "a%00b", "%ff%fe", "/etc/passwd", "a" * 5000,
     "item-1-0%2f..%2f..", "..", "%5c..%5c..", "{item_id}", "'; drop table items; --", "%0d%0aX: y"],
)  # fmt: skip
def test_ids_lead_nowhere_else(item_id: str, target: Target, stranger: httpx.Client) -> None:
    for path in (f"/v1/items/{item_id}", f"/v1/items/{item_id}/similar"):
        with socket.create_connection(("127.0.0.1", target.port), timeout=30) as client:
            head = f"GET {path.replace(' ', '%20')} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            client.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
        assert b"root:" not in answer
        assert b"\r\nX: y" not in answer
    response = stranger.post("/v1/search", json={"item_ids": [item_id]}, headers=allowed())
    assert refused(response)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
names = st.sampled_from(list(SearchRequest.model_fields)) | st.text(max_size=8)


@settings(max_examples=150)
@given(body=st.dictionaries(names, values | st.just("item-1-0") | st.just(["item-1-0"]), max_size=5))
def test_no_parameters_whatever_make_it_fail(stranger: httpx.Client, body: dict[str, Any]) -> None:
    response = stranger.post("/v1/search", json=body, headers=allowed())
    assert response.status_code == 200 or refused(response), response.text
    parameters = {name: str(value) for name, value in body.items()}
    response = stranger.get("/v1/items/item-1-0/similar", params=parameters, headers=allowed())
    assert response.status_code == 200 or refused(response), response.text


@settings(max_examples=100)
@given(
    event=st.dictionaries(st.sampled_from(list(ShopperEvent.model_fields)) | st.text(max_size=8), values, max_size=5)
)
def test_no_events_whatever_make_it_fail(stranger: httpx.Client, event: dict[str, Any]) -> None:
    for body in (event, {"events": [event, event]}):
        response = stranger.post("/v1/events", json=body, headers=allowed())
        assert response.status_code == 202 or refused(response), response.text


@pytest.mark.parametrize("item_id", ["../../etc/passwd", "a\u0000b", "\u202e", "x" * 1_000])
def test_what_is_recorded_of_a_stranger_are_rows_and_no_addresses(
    item_id: str, target: Target, stranger: httpx.Client
) -> None:
    event = {"event": "click", "query_id": "f" * 32, "item_id": item_id}
    headers = allowed(**{"User-Agent": "Browser of Jane", "X-Request-Id": "jane", "X-Forwarded-For": "203.0.113.7"})
    assert stranger.post("/v1/events", json=event, headers=headers).status_code == 202
    assert stranger.post("/v1/events", json={"events": [event] * 501}, headers=headers).status_code == 422
    assert "x" * 1_001 not in stranger.post("/v1/events", json=event | {"item_id": "x" * 1_001}, headers=headers).text


def test_after_all_of_this_it_answers(stranger: httpx.Client) -> None:
    body = {"item_ids": ["item-1-0"], "k": 3}
    assert len(stranger.post("/v1/search", json=body, headers=allowed()).json()["hits"]) == 3
    assert stranger.get("/readyz").status_code == 200
