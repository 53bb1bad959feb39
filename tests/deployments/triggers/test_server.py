"""A call is kept on disk and starts one update, whatever ends meanwhile, or is reported as refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.testclient import TestClient

from deployments.triggers import server as triggers
from deployments.triggers.change_events import MAX_BODY_BYTES
from deployments.triggers.server import main, make_app
from deployments.triggers.spool import CALLS, DAMAGED, Spool
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.change import Change
from tests.deployments.conftest import Prefect
from tests.deployments.registered import wait_for
from tests.deployments.test_listening import closes_the_oldest, running

TOKEN, NEXT = "a-long-random-text", "another-long-text"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Prefect:
    monkeypatch.setattr(triggers, "RETRY_AFTER_S", 0.05)
    return Prefect()


def app_of(prefect: Prefect, folder: Path, tokens: str = TOKEN, **arguments: Any) -> Starlette:
    return make_app(tokens, Spool(folder), prefect, **{"window_s": 0.0} | arguments)


def post(client: TestClient, name: str) -> Any:
    return client.post("/catalog", content=json.dumps({"added": [name]}), headers=BEARER)


def added(prefect: Prefect) -> list[str]:
    return [name for change in prefect.updates.values() for name in change.added]


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"sns:{token}".encode()).decode()


def test_a_call_with_a_token_starts_an_update(prefect: Prefect, tmp_path: Path) -> None:
    headers = [BEARER["Authorization"], basic(TOKEN), f"bearer {NEXT}", basic(NEXT)]
    with TestClient(app_of(prefect, tmp_path, f"{TOKEN} {NEXT}")) as client:
        for number, header in enumerate(headers):
            body = json.dumps({"added": [str(number)]})
            answer = client.post("/catalog", content=body, headers={"Authorization": header})
            assert (answer.status_code, answer.json()["changes"]) == (202, 1)
        wait_for(lambda: len(added(prefect)) == len(headers))
        assert client.get("/health").json() == {"status": "ok", "waiting": 0}
    assert added(prefect) == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob(f"{CALLS}*"))


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN} {NEXT}", f"Token {TOKEN}", "Basic !",
     "Bearer \xe9", basic("wrong"), basic("")],
)  # fmt: skip
def test_without_a_token_nothing_is_read(prefect: Prefect, tmp_path: Path, header: str) -> None:
    with TestClient(app_of(prefect, tmp_path, f"{TOKEN} {NEXT}")) as client:
        answer = client.post("/catalog", content="{}", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert (prefect.updates, prefect.events) == ({}, [])


@pytest.mark.parametrize(("tokens", "message"), [(" ", "no token"), ("a b c", "has 3 tokens")])
def test_there_are_one_or_two_tokens(prefect: Prefect, tmp_path: Path, tokens: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        app_of(prefect, tmp_path, tokens)


def test_without_a_token_or_a_server_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("VITRINE_TRIGGER_TOKEN", raising=False)
    for url, missing in ((None, "PREFECT_API_URL"), ("http://127.0.0.1:9/api", "VITRINE_TRIGGER_TOKEN")):
        with temporary_settings({PREFECT_API_URL: url}):
            assert main([f"--spool={tmp_path}"]) == 2
        assert missing in capsys.readouterr().err


def test_slow_clients_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, servers = uvicorn.Server.run, list[uvicorn.Server]()
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: servers.append(self))
    monkeypatch.setenv("VITRINE_TRIGGER_TOKEN", TOKEN)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--port=0", f"--spool={tmp_path}"]) == 0
    monkeypatch.setattr(uvicorn.Server, "run", run)
    with running(servers[0]) as port:
        assert closes_the_oldest(port)


def test_a_bad_payload_is_refused_and_seen(prefect: Prefect, tmp_path: Path) -> None:
    with TestClient(app_of(prefect, tmp_path)) as client:
        answer = client.post("/catalog", content='{"addedd": ["a"]}', headers=BEARER)
        assert (answer.status_code, "addedd" in answer.json()["error"]) == (422, True)
        assert client.post("/catalog", content=b" " * (MAX_BODY_BYTES + 1), headers=BEARER).status_code == 413
        prefect.is_down = True
        assert client.post("/catalog", content="no", headers=BEARER).status_code == 422
    refused, large = prefect.events
    assert refused["event"] == "catalog.update.refused"
    assert refused["payload"]["excerpt"] == '{"addedd": ["a"]}'
    assert len(large["payload"]["excerpt"]) < 1_000


def test_calls_wait_on_disk_while_prefect_does_not_answer(prefect: Prefect, tmp_path: Path) -> None:
    prefect.is_down = True
    with TestClient(app_of(prefect, tmp_path)) as client:
        assert [post(client, name).status_code for name in "abc"] == [202] * 3
        health = client.get("/health")
        reason = "Prefect's server does not answer"
        assert (health.status_code, health.json()) == (503, {"status": "waiting", "reason": reason, "waiting": 3})
    with TestClient(app_of(prefect, tmp_path)) as client:  # another process
        assert post(client, "d").json()["waiting"] == 4
        prefect.is_down = False
        wait_for(lambda: client.get("/health").json() == {"status": "ok", "waiting": 0})
    assert added(prefect) == ["a", "b", "c", "d"]


def test_a_full_spool_refuses_a_call(prefect: Prefect, tmp_path: Path) -> None:
    prefect.is_down = True
    app = make_app(TOKEN, Spool(tmp_path, max_calls=2), prefect, 0.0)
    with TestClient(app) as client:
        assert [post(client, name).status_code for name in "ab"] == [202] * 2
        answer = post(client, "c")
        assert (answer.status_code, "no more can be kept" in answer.json()["error"]) == (503, True)
        assert answer.headers["Retry-After"]


def test_a_damaged_call_is_set_aside_and_told(prefect: Prefect, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in "abc":
        spool.add([Change(added=(name,))])
    damaged = sorted(tmp_path.glob(f"{CALLS}*"))[1]
    damaged.write_bytes(b'[{"added": ["b')
    with TestClient(make_app(TOKEN, spool, prefect, 0.0)):
        wait_for(lambda: len(added(prefect)) == 2)
    assert added(prefect) == ["a", "c"]
    assert (tmp_path / DAMAGED / damaged.name).exists()
    (event,) = prefect.events
    assert event["payload"]["excerpt"] == '[{"added": ["b'


def test_what_prefect_refuses_for_ever_blocks_nothing(prefect: Prefect, tmp_path: Path) -> None:
    class Choosy(Prefect):
        async def start(self, change: Change, key: str) -> None:
            if "bad" in change.added:
                raise BadConfig("too odd")
            await super().start(change, key)

    choosy = Choosy()
    with TestClient(app_of(choosy, tmp_path)) as client:
        post(client, "bad")
        wait_for(lambda: choosy.events)
        post(client, "good")
        wait_for(lambda: choosy.updates)
    assert choosy.events[0]["payload"]["reason"] == "too odd"
    assert list(tmp_path.glob(f"{DAMAGED}*"))


def test_a_burst_is_one_update(prefect: Prefect, tmp_path: Path, in_threads: Any) -> None:
    with TestClient(app_of(prefect, tmp_path, window_s=1)) as client:
        assert in_threads(8, lambda n: post(client, f"item-{n}").status_code) == [202] * 8
        wait_for(lambda: prefect.updates)
    (update,) = prefect.updates.values()
    assert set(update.added) == {f"item-{n}" for n in range(8)}
