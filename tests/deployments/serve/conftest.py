"""The search service over the shop's releases, started in this process or as one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from deployments.listening import bound_connections
from deployments.serve.app import ServeOptions, build_app
from deployments.serve.metrics import Exporter
from deployments.serve.service import SearchService
from tests.deployments.test_listening import running
from tests.faults.servers import free_port, until

PUBLIC = "search.example"


@pytest.fixture(scope="module")
def service(shop: Any) -> Iterator[SearchService]:
    service = SearchService(shop.store, shop.settings, Exporter(shop.store, shop.settings))
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(shop: Any) -> Iterator[TestClient]:
    """A client of the HTTP API alone, without a network."""
    with TestClient(build_app(shop.settings, ServeOptions()), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def app(shop: Any) -> FastAPI:
    """The service with its page."""
    return build_app(shop.settings, ServeOptions(names=(PUBLIC,), has_page=True))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    """Where the service with its page answers."""
    with listening(app) as url:
        yield url


class listening:  # noqa: N801 (a context manager)
    """Serve an app on loopback in a thread; its value is the URL."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, port=0, log_level="critical")
        bound_connections(config)
        self._running = running(uvicorn.Server(config))

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self._running.__enter__()}"

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)


class Served(NamedTuple):
    """A running service, and where its log is written."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@pytest.fixture
def serve(shop: Any, tmp_path: Path) -> Callable[..., Any]:
    """`serve(*options)` runs `vitrine serve` over the shop's store for the time of a `with`."""

    @contextmanager
    def serving(*options: str) -> Iterator[Served]:
        port, log = free_port(), tmp_path / "log"
        command = [sys.executable, "-m", "deployments.cli.main", "serve", f"--store={shop.settings.store}"]
        with log.open("wb") as file:
            process = subprocess.Popen([*command, f"--port={port}", *options], stderr=file)
        served = Served(process, f"http://127.0.0.1:{port}", log)
        try:
            until(lambda: process.poll() is not None or _answers(served.url), "the start of the service")
            assert process.poll() is None, log.read_text()
            yield served
        finally:
            process.terminate()
            process.wait(60)

    return serving


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
