"""The share of a host: how many requests it gets, how fast, and when it is left alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from retrieval_core.errors import BadConfig, StoreUnavailable
from retrieval_core.store.hosts import MAX_FAILURES, HostLimits, HostShare
from retrieval_core.store.uris import read_uri
from tests.web_server import WebServer


@pytest.fixture
def server(web_server: WebServer) -> WebServer:
    web_server.files = {"/a.jpg": b"12345"}
    return web_server


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_requests_to_a_host_keep_the_rate_and_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    host = HostShare(HostLimits(requests_per_s=4))
    waits = []
    for number in range(5):
        if number == 3:
            host.pause(2.0)
        with host.turn() as waited_s:
            waits.append(waited_s)
    assert waits == pytest.approx([0, 0.25, 0.25, 2.0, 0.25])
    assert clock.now_s == pytest.approx(1002.75)


def test_a_host_of_which_every_request_fails_is_left_alone_for_a_minute(server: WebServer) -> None:
    server.answers["/a.jpg"] = repeat((503, {"Content-Length": "0"}, b""))
    for _ in range(MAX_FAILURES):
        with pytest.raises(StoreUnavailable, match="answers 503"):
            read_uri(f"{server.url}/a.jpg")
    server.clear()
    with pytest.raises(StoreUnavailable, match=r"is left alone for a while: .*/a\.jpg: the server answers 503"):
        read_uri(f"{server.url}/b.jpg")
    assert server.requests == []


def test_a_failure_between_answers_leaves_no_host_alone(server: WebServer) -> None:
    server.answers["/b.jpg"] = repeat((503, {"Content-Length": "0"}, b""))
    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(StoreUnavailable, match="answers 503"):
            read_uri(f"{server.url}/b.jpg")
        assert read_uri(f"{server.url}/a.jpg") == b"12345"


def test_a_host_that_asks_for_an_hour_gets_it(server: WebServer) -> None:
    server.answers["/a.jpg"] = iter([(429, {"Retry-After": "3600", "Content-Length": "0"}, b"")])
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="asks to wait 3600 s"):
            read_uri(f"{server.url}/a.jpg")
    assert len(server.requests) == 1


def test_a_host_rests_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    host = HostShare(HostLimits())
    host.fail(StoreUnavailable("no answer"), pause_s=600.0)
    with pytest.raises(StoreUnavailable, match="no answer"), host.turn():
        pass
    clock.sleep(601)
    with host.turn() as waited_s:
        assert waited_s == 0


def test_the_limits_are_those_of_the_environment(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_FETCH_CONNECTIONS", "2")
    monkeypatch.setenv("VITRINE_FETCH_RATE", "500.5")
    server.delay_s = 0.01
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read_uri, [f"{server.url}/a.jpg"] * 16)) == {b"12345"}
    assert server.most_at_a_time == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("VITRINE_FETCH_CONNECTIONS", "0"), ("VITRINE_FETCH_RATE", "-1"), ("VITRINE_FETCH_RATE", "fast")],
)
def test_a_limit_that_cannot_be_kept_is_refused(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(BadConfig, match=f"{name} is '{text}'"):
        read_uri(f"{server.url}/a.jpg")
