"""Other web pages and other host names get nothing from the search app, and no client can fill its disk or its log."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.deployments.test_listening import closes_the_oldest

ATTACKER = "https://attacker.example"
PICTURE = {"image": ("a.png", b"marker-of-a-picture" * 10, "image/png")}


@pytest.mark.parametrize("host", ["", "search.example"])
@pytest.mark.parametrize("origin", [ATTACKER, "null", "http://127.0.0.1:1", "http://localhost", f"{ATTACKER}:7860"])
def test_a_page_of_another_origin_gets_nothing(origin: str, host: str, url: str) -> None:
    headers = {"Origin": origin, **({"Host": host} if host else {})}
    answers = [
        httpx.get(url, headers=headers),
        httpx.post(f"{url}/v1/view", files=PICTURE, headers=headers),
        httpx.post(f"{url}/v1/search", json={"item_ids": ["item-1-0"]}, headers=headers),
        httpx.options(url, headers={**headers, "Access-Control-Request-Method": "POST"}),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


@pytest.mark.parametrize("host", ["attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example", "["])
def test_a_name_that_was_made_to_point_here_gets_nothing(host: str, url: str) -> None:
    assert httpx.get(url, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("search.example", "https://search.example"),
        ("SEARCH.example:443", "https://search.example"),
        ("127.0.0.1:7860", "https://search.example"),  # the proxy replaced the host
        ("localhost:7860", "http://localhost:7860"),
        ("192.0.2.1", "http://192.0.2.1"),
        ("[::1]:7860", "http://[::1]:7860"),
    ],
)
def test_the_page_answers_itself(host: str, origin: str, url: str) -> None:
    answer = httpx.post(f"{url}/v1/search", json={"item_ids": ["item-1-0"]}, headers={"Host": host, "Origin": origin})
    assert answer.status_code == 200


def test_a_body_is_bounded(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(31):
            yield b" " * 1_000_000

    for path in ("/v1/search", "/v1/view", "/v1/search/batch"):
        headers = {"Content-Type": "multipart/form-data; boundary=a" if path == "/v1/view" else "application/json"}
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {headers['Content-Type']}"]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as client:
            client.sendall("\r\n".join([*lines, "Content-Length: 400000000", "", "{"]).encode())
            assert b" 413 " in client.recv(100)
        assert httpx.post(url + path, headers=headers, content=chunks()).status_code in (400, 413)
    assert httpx.get(url).status_code == 200


def test_slow_clients_do_not_keep_others_out(url: str) -> None:
    assert closes_the_oldest(int(url.rpartition(":")[2]))


BOUNDARY = b"--b\r\n"
PART = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
SECRET = b"secret-bytes-of-a-customer"
BROKEN: dict[str, bytes] = {
    "no boundary": SECRET,
    "no file": BOUNDARY + b'Content-Disposition: form-data; name="image"\r\n\r\n' + SECRET + b"\r\n--b--\r\n",
    "no name": BOUNDARY + b"Content-Disposition: form-data\r\n\r\n" + SECRET + b"\r\n--b--\r\n",
    "bad header": BOUNDARY + SECRET + b"\xff\r\n\r\n" + PART,
    "cut": BOUNDARY + PART + SECRET,
    "long header": BOUNDARY + b"A: " + SECRET * 2_000,
    "bad file name": BOUNDARY + PART.replace(b'"a"', b'"../' + SECRET + b'/.."') + SECRET + b"\r\n--b--\r\n",
    "after the end": BOUNDARY + PART + b"\r\n--b--\r\n" + SECRET,
    "long file name": BOUNDARY + PART.replace(b'"a"', b'"' + SECRET * 50 + b'"') + b"a\r\n--b--\r\n",
    "null in file name": BOUNDARY + PART.replace(b'"a"', b'"' + SECRET + b'\0"') + b"a\r\n--b--\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bytes_of_a_failed_upload_are_not_logged(
    kind: str, url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert 400 <= httpx.post(f"{url}/v1/search", content=BROKEN[kind], headers=headers).status_code < 500
    logged: Any = capfd.readouterr()
    assert "secret" not in caplog.text + logged.out + logged.err


SECRET_TEXT = SECRET.decode()


@pytest.mark.parametrize("picture", [{"path": SECRET_TEXT}, SECRET_TEXT, [SECRET_TEXT], 5], ids=str)
def test_values_of_a_failed_search_are_not_logged(
    picture: Any, url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for values in ({"images": picture}, {"images": [picture], "k": SECRET_TEXT}, {SECRET_TEXT: picture}, [picture]):
        for path in ("/v1/search", "/v1/view"):
            assert httpx.post(url + path, json=values).status_code == 422
    logged: Any = capfd.readouterr()
    assert "secret" not in caplog.text + logged.out + logged.err
