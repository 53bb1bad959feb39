"""The search app behind a reverse proxy that has TLS, on a host of its own or under a path of another host."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from deployments.environment import prepare_environment
from deployments.serve.app import ServeOptions, build_app
from tests.deployments.cli.observer import LOOPBACK
from tests.deployments.serve.conftest import listening

NAME = "search.example"
DEAD_PORT = 9
DEAD = f"127.0.0.1:{DEAD_PORT}"


class Place(NamedTuple):
    """Under which path the proxy shows the app, and whether it passes the Host header of the browser on."""

    path: str
    keeps_host: bool


@pytest.fixture(scope="module", params=[Place("", True), Place("/pictures", False)], ids=str)
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.fixture(scope="module")
def outside() -> set[str]:
    """The hosts that this process names from now on, except this machine, and the dead proxy if it is used."""
    hosts: set[str] = set()

    def observe(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
            host, port = arguments[1][:2] if event == "socket.connect" else arguments[:2]
            if port == DEAD_PORT or not LOOPBACK.match(str(host)):
                hosts.add(f"{host}:{port}")

    sys.addaudithook(observe)
    return hosts


@pytest.fixture(scope="module")
def proxied(place: Place, outside: set[str], shop: Any) -> Iterator[str]:
    """The URL of a proxy in front of an app that was started in an environment that names dead proxies to go out by."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, f"http://{DEAD}")
        patch.setenv("all_proxy", f"socks5://{DEAD}")
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        prepare_environment()
        with listening(build_app(shop.settings, ServeOptions(names=(NAME,), has_page=True))) as backend:
            proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler(place, backend))
            threading.Thread(target=proxy.serve_forever).start()
            yield f"http://127.0.0.1:{proxy.server_port}{place.path}"
            proxy.shutdown()
            proxy.server_close()


def handler(place: Place, backend: str) -> type[BaseHTTPRequestHandler]:
    class Forward(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            headers |= {"X-Forwarded-Host": NAME, "X-Forwarded-Proto": "https"}
            headers |= {"Host": NAME} if place.keeps_host else {}
            url = backend + self.path.removeprefix(place.path)
            with httpx.Client(trust_env=False, timeout=60) as client:
                answer = client.request(self.command, url, content=body, headers=headers)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in ("transfer-encoding", "content-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = forward  # noqa: N815 (names that the base class calls)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Forward


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    """A browser that has the page open; the proxy speaks plain HTTP here, but the browser says https."""
    headers = {"Host": NAME, "Origin": f"https://{NAME}"}
    with httpx.Client(headers=headers, trust_env=False, timeout=60) as client:
        yield client


def test_the_page_names_its_files_from_wherever_it_is(proxied: str, browser: httpx.Client) -> None:
    page = browser.get(f"{proxied}/")
    assert page.status_code == 200
    files = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css))"', page.text)
    assert len(files) == 2
    for file in files:
        assert browser.get(f"{proxied}/{file}").status_code == 200


def test_a_visitor_uploads_and_searches(proxied: str, browser: httpx.Client, shop: Any) -> None:
    picture: Path = shop.picture("item-3-0")
    answer = browser.post(f"{proxied}/v1/search", files={"image": picture.read_bytes()}, data={"k": "3"})
    assert len(answer.json()["hits"]) == 3


@pytest.mark.parametrize("origin", ["https://attacker.example", f"https://{NAME}.attacker.example", "null"])
def test_a_page_of_another_origin_gets_nothing(origin: str, proxied: str, browser: httpx.Client) -> None:
    answer = browser.post(f"{proxied}/v1/search", json={}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_nothing_is_sent_to_any_other_host(proxied: str, browser: httpx.Client, outside: set[str]) -> None:
    for path in ("/", "/page.js", "/v1/facets", "/reports/production/"):
        assert browser.get(f"{proxied}{path}").status_code == 200
    assert outside == set()
