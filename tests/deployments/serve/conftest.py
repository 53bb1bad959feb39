"""The search service over the shop's releases, started in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from deployments.listening import bound_connections
from deployments.serve.app import ServeOptions, build_app
from deployments.serve.metrics import Exporter
from deployments.serve.service import SearchService
from tests.deployments.test_listening import running

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
