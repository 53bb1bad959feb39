"""The search app over the shop's releases, started in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from deployments.serve.app import build_app, launch, pages_beside
from deployments.serve.metrics import Exporter
from deployments.serve.service import SearchService


@pytest.fixture(scope="module")
def service(shop: Any) -> Iterator[SearchService]:
    with closing(SearchService(shop.store, shop.settings)) as service:
        yield service


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def url(service: SearchService, shop: Any, uploads: Path) -> Iterator[str]:
    """Where the app answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = build_app(service, uploads)
    launch(app, pages_beside(shop.store, Exporter(shop.store, shop.settings)), "127.0.0.1", port, ["search.example"])
    yield f"http://127.0.0.1:{port}"
    app.close()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)
