"""Before the first release a page says what to do; afterwards the address is free for the search page."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from deployments.serve.metrics import Exporter
from deployments.serve.readiness import wait_for_release
from tests.deployments.conftest import FIRST
from tests.faults.servers import free_port, until


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False


def test_a_page_says_what_to_do_until_there_is_a_release(new_shop: Callable[[Path], Any], tmp_path: Path) -> None:
    shop, port = new_shop(tmp_path), free_port()
    exporter = Exporter(shop.store, shop.settings)
    url = f"http://127.0.0.1:{port}"
    waiting = Thread(target=wait_for_release, args=(shop.store, "127.0.0.1", port, exporter, 0.05))
    waiting.start()
    until(lambda: answers(url), "the page's start")
    assert httpx.get(f"{url}/livez").status_code == 200
    assert "vitrine_store_up 1.0" in httpx.get(f"{url}/metrics").text
    for path in ("/", "/readyz", "/v1/search"):
        response = httpx.get(url + path)
        assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert "vitrine run" in response.text
        assert httpx.post(url + path).status_code == 503
        assert str(tmp_path) not in response.text, "a visitor need not know where the store is"
    assert httpx.post(f"{url}/v1/search", json={}).headers["content-type"] == "application/problem+json"

    shop.publish(FIRST)

    waiting.join(60)
    assert not waiting.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        wait_for_release(shop.store, "127.0.0.1", port, exporter)  # does not listen


@pytest.mark.parametrize("port", [-1, 99_999])
def test_an_address_that_cannot_be_used_is_an_error(port: int, new_shop: Callable[[Path], Any], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    with pytest.raises((OSError, OverflowError)):
        wait_for_release(shop.store, "127.0.0.1", port, Exporter(shop.store, shop.settings))
