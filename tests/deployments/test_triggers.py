"""A call becomes one event, or an event that reports why it was refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import uvicorn
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.testclient import TestClient

from deployments.change_events import MAX_BODY_BYTES
from deployments.triggers import main, make_app
from tests.deployments.conftest import Prefect
from tests.deployments.test_listening import closes_the_oldest, running

TOKEN = "a-long-random-text"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


def test_a_call_with_the_token_becomes_the_event(prefect: Prefect) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"sns:{TOKEN}".encode()).decode()}
    with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
        for headers in (BEARER, basic):
            answer = client.post("/catalog", content='{"added": ["a"]}', headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"changes": 1})
        assert client.get("/health").status_code == 200
    assert [event["event"] for event in prefect.events] == ["catalog.updated"] * 2
    payload = {"added": ["a"], "changed": [], "removed": [], "manifest_uri": ""}
    assert prefect.events[0]["payload"] == payload


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic !", "Bearer \xe9"]
)
def test_without_the_token_nothing_is_read(prefect: Prefect, header: str) -> None:
    with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
        answer = client.post("/catalog", content="{}", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert prefect.events == []


def test_without_a_token_or_a_server_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VITRINE_TRIGGER_TOKEN", raising=False)
    for url, missing in ((None, "PREFECT_API_URL"), ("http://127.0.0.1:9/api", "VITRINE_TRIGGER_TOKEN")):
        with temporary_settings({PREFECT_API_URL: url}):
            assert main([]) == 2
        assert missing in capsys.readouterr().err


def test_slow_clients_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run, servers = uvicorn.Server.run, list[uvicorn.Server]()
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: servers.append(self))
    monkeypatch.setenv("VITRINE_TRIGGER_TOKEN", TOKEN)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--port=0"]) == 0
    monkeypatch.setattr(uvicorn.Server, "run", run)
    with running(servers[0]) as port:
        assert closes_the_oldest(port)


def test_a_bad_payload_is_refused_and_seen(prefect: Prefect) -> None:
    with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
        answer = client.post("/catalog", content='{"addedd": ["a"]}', headers=BEARER)
        assert (answer.status_code, "addedd" in answer.json()["error"]) == (422, True)
        assert client.post("/catalog", content=b" " * (MAX_BODY_BYTES + 1), headers=BEARER).status_code == 413
    refused, large = prefect.events
    assert refused["event"] == "catalog.update.refused"
    assert refused["payload"]["excerpt"] == '{"addedd": ["a"]}'
    assert len(large["payload"]["excerpt"]) < 1_000


def test_a_caller_is_told_when_prefect_does_not_answer(prefect: Prefect) -> None:
    prefect.is_down = True
    with TestClient(make_app(TOKEN, prefect.emit, window_s=0)) as client:
        answer = client.post("/catalog", content='{"added": ["a"]}', headers=BEARER)
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert client.post("/catalog", content="no", headers=BEARER).status_code == 422
        prefect.is_down = False
        assert client.post("/catalog", content='{"added": ["a"]}', headers=BEARER).status_code == 200
    assert len(prefect.events) == 1


def test_a_burst_is_one_event(prefect: Prefect, in_threads: Any) -> None:
    with TestClient(make_app(TOKEN, prefect.emit, window_s=1)) as client:
        bodies = [json.dumps({"added": [f"item-{n}"]}) for n in range(8)]
        answers = in_threads(8, lambda n: client.post("/catalog", content=bodies[n], headers=BEARER).status_code)
    assert answers == [200] * 8
    (event,) = prefect.events
    assert event["payload"]["added"] == [f"item-{n}" for n in range(8)]
