"""Fixtures of all tests: Prefect without network and telemetry, a store in a folder, and one on S3."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

# Before anything imports Prefect.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": tempfile.mkdtemp(prefix="vitrine-test-prefect-"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "HF_HUB_OFFLINE": "1",
    }
)


@pytest.fixture(scope="session")
def api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of a Prefect server on PostgreSQL, or on SQLite where PostgreSQL is not installed.

    On SQLite, runs may wait a minute for the database's lock.
    """
    from tests.faults.servers import Postgres, PrefectServer, has_postgres

    database = Postgres() if has_postgres() else None
    if database:
        database.start()
    server = PrefectServer(tmp_path_factory.mktemp("server"), database.url if database else "")
    try:
        server.start()
        yield server.api_url
    finally:
        server.kill(signal.SIGKILL)
        if database:
            database.remove()


@pytest.fixture(scope="session")
def prefect_server(api_url: str) -> Iterator[None]:
    """Make every flow that a test calls use the server of `api_url`."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api_url}):
        yield
        # While the server still runs: without it, these threads retry for minutes.
        APILogWorker.instance().drain()
        EventsWorker.drain_all()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of moto on loopback, which answers one request at a time.

    S3 checks and writes a conditional put in one step, moto in two: a concurrent request could come between them.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer_alone(environ: Any, start_response: Any) -> Any:
        with lock:
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, answer_alone, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def bucket(s3_client: Any) -> Iterator[str]:
    """The name of an empty bucket."""
    name = "vitrine-test"
    s3_client.create_bucket(Bucket=name)
    yield name
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket=name):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
        s3_client.delete_objects(Bucket=name, Delete={"Objects": keys}) if keys else None
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set fake credentials and hide those of the machine."""
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "VITRINE_S3_ENDPOINT_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))


@pytest.fixture
def s3_store(bucket: str, s3_endpoint: str, tmp_path: Path) -> Store:
    return open_store(f"s3://{bucket}/house", s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache")


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def in_threads() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """`in_threads(n, work)` returns [work(0), …, work(n - 1)], called in n threads that start together."""

    def run_all(n: int, work: Callable[[int], Any]) -> list[Any]:
        start = threading.Barrier(n)

        def run(i: int) -> Any:
            start.wait()
            return work(i)

        with ThreadPoolExecutor(n) as pool:
            return list(pool.map(run, range(n)))

    return run_all
