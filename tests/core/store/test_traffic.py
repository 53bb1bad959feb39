"""What reading costs: requests, bytes and files that had not changed."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import pytest

from retrieval_core.errors import NotFound, StoreUnavailable
from retrieval_core.store import http
from retrieval_core.store.traffic import Traffic, counted_traffic, counting
from retrieval_core.store.uris import list_uris, read_uri, stat_uri
from tests.web_server import WebServer


@pytest.fixture
def server(web_server: WebServer) -> WebServer:
    web_server.files = {"/a.jpg": b"12345", "/b.jpg": b"123"}
    return web_server


def test_requests_and_bytes_of_a_web_server_are_counted_with_repetitions_and_redirects(server: WebServer) -> None:
    server.answers["/moved"] = repeat((302, {"Location": "b.jpg", "Content-Length": "0"}, b""))
    server.answers["/a.jpg"] = iter([(503, {"Content-Length": "0"}, b"")])
    with counted_traffic() as counter:
        read_uri(f"{server.url}/a.jpg")
        read_uri(f"{server.url}/moved")
        with pytest.raises(NotFound):
            read_uri(f"{server.url}/absent")
    assert counter.total == Traffic(requests=5, bytes=8)
    assert counter.total.requests == len(server.requests)


def test_bytes_are_those_that_were_sent(server: WebServer) -> None:
    packed = gzip.compress(bytes(10_000))
    server.answers["/t.csv"] = repeat((200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}, packed))
    with counted_traffic() as counter:
        read_uri(f"{server.url}/t.csv", accepts_gzip=True)
    assert counter.total.bytes == len(packed)


def test_files_that_did_not_change_are_counted(server: WebServer) -> None:
    known = http.fetch(f"{server.url}/a.jpg").stat
    with counted_traffic() as counter:
        stat_uri(f"{server.url}/a.jpg", known)
        stat_uri(f"{server.url}/b.jpg", known)
    assert counter.total == Traffic(requests=2, not_modified=1)


def test_threads_count_for_the_one_that_waits_for_them(server: WebServer) -> None:
    with counted_traffic() as counter, ThreadPoolExecutor(4) as pool:
        list(pool.map(counting(read_uri), [f"{server.url}/a.jpg"] * 20))
        list(pool.map(read_uri, [f"{server.url}/a.jpg"] * 3))  # is not counted
    read_uri(f"{server.url}/a.jpg")
    assert counter.total == Traffic(requests=20, bytes=100)


@pytest.mark.usefixtures("aws_environment")
def test_requests_and_bytes_of_s3_are_counted(
    bucket: str, s3_client: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
    folder = f"s3://{bucket}/pictures"
    for name in ("a.jpg", "b.jpg"):
        s3_client.put_object(Bucket=bucket, Key=f"pictures/{name}", Body=b"12345")
    with counted_traffic() as counter:
        listed = dict(list_uris(folder))
        read_uri(f"{folder}/a.jpg")
        stat_uri(f"{folder}/b.jpg", listed[f"{folder}/b.jpg"])
        with pytest.raises(NotFound):
            read_uri(f"{folder}/absent.jpg")
    assert counter.total == Traffic(requests=4, bytes=5, not_modified=1)


@pytest.mark.usefixtures("aws_environment")
def test_an_outage_of_s3_counts_as_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with counted_traffic() as counter, pytest.raises(StoreUnavailable):
        read_uri("s3://bucket/a.jpg")
    assert counter.total == Traffic(requests=1)
