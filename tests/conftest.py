"""Fixtures of all tests: Prefect without network and telemetry, a store in a folder, and one on S3."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.faults.servers import LOGIN
from tests.web_server import WebServer, serve

SHARED_FOLDER = "TEST_SHARED_FOLDER"
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ[SHARED_FOLDER] = tempfile.mkdtemp(prefix="vitrine-test-")  # the workers inherit the name

# Before anything imports Prefect.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_AUTH_STRING": LOGIN,
        "PREFECT_HOME": tempfile.mkdtemp(prefix="prefect-", dir=os.environ[SHARED_FOLDER]),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "HF_HUB_OFFLINE": "1",
    }
)

# A busy machine is slow, not wrong; and a run of the tests draws what the run before it drew.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

# Python's default of 700 is for small programs: beside torch and Prefect, collecting takes a tenth of the time.
gc.set_threshold(100_000, 20, 20)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        from tests.faults.servers import end_shared_server

        end_shared_server(Path(os.environ[SHARED_FOLDER]))


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Leave every write to the kernel: only a power failure loses it there, and waiting takes longer than most tests.

    What is synced, and when, is tested by recording the calls (`tests/faults/interruptions/power_cuts.py`).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def api_url() -> str:
    """The API's URL of a Prefect server that the whole test run shares."""
    from tests.faults.servers import shared_server

    return shared_server(Path(os.environ[SHARED_FOLDER]))


@pytest.fixture(scope="session")
def exported_once() -> Iterator[None]:
    """Copy the graph of a network that a test of any worker exported: it takes seconds, and is deterministic."""
    from retrieval_core.embed import networks

    folder, export = Path(os.environ[SHARED_FOLDER], "graphs"), networks.export_onnx
    folder.mkdir(exist_ok=True)

    def export_or_copy(module: networks.ImageEmbedder, size_px: int, path: Path) -> None:
        digest = hashlib.sha256(f"{size_px} {module}".encode())
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        graph = folder / digest.hexdigest()
        if graph.exists():
            shutil.copyfile(graph, path)
        else:
            export(module, size_px, path)
            partial = graph.with_suffix(f".{os.getpid()}")
            shutil.copyfile(path, partial)
            partial.rename(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "export_onnx", export_or_copy)
        yield


@pytest.fixture(scope="session")
def prefect_server(api_url: str, exported_once: None) -> Iterator[None]:
    """Make every flow that a test calls use the server of `api_url`, without sending it the log."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield
        EventsWorker.drain_all()  # while the server still runs: without it, these threads retry for minutes


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


@pytest.fixture
def web_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server on loopback that may be fetched from, with short waits before another attempt."""
    monkeypatch.setenv("VITRINE_FETCH_ALLOW", "127.0.0.1/32")
    monkeypatch.setattr("retrieval_core.store.fetcher.FIRST_BACKOFF_S", 0.01)
    with serve() as server:
        yield server
