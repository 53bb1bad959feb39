"""Attacks on the set-up of docs/operations.md: other web pages, programs and host names get nothing done."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
import yaml
from prefect.workers.process import ProcessJobConfiguration

from deployments.pools import PROCESSES
from tests.faults.servers import CLOSED, LOGIN

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
SERVER = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["server"]
POOL_FILE = ROOT / "deployments" / "work_pool.json"
POOL = json.loads(POOL_FILE.read_text())
OTHER_PAGE = {"Origin": "https://attacker.example", "Sec-Fetch-Site": "cross-site"}
BASIC = {"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()}
RUN = {"state": {"type": "SCHEDULED"}, "job_variables": {"command": "touch /tmp/attacked"}}
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/deployments/filter", {}),
    ("POST", "/deployments/00000000-0000-0000-0000-000000000000/create_flow_run", RUN),
    ("POST", "/flow_runs/", {"flow_id": "00000000-0000-0000-0000-000000000000", **RUN}),
    ("PATCH", "/work_pools/vitrine", {"base_job_template": {"job_configuration": {"command": "touch /tmp/attacked"}}}),
    ("POST", "/events", {}),
    ("POST", "/automations/", {}),
    ("POST", "/variables/", {"name": "a", "value": "b"}),
    ("DELETE", "/deployments/00000000-0000-0000-0000-000000000000", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=[f"{method}-{path}" for method, path, _ in WRITES])
def test_a_request_without_the_login_changes_nothing(
    method: str, path: str, body: dict[str, Any], api_url: str
) -> None:
    for kind in ("application/json", "text/plain"):
        headers = {**OTHER_PAGE, "Content-Type": kind}
        answer = httpx.request(method, api_url + path, content=json.dumps(body), headers=headers)
        assert answer.status_code in (401, 403)


@pytest.mark.parametrize("headers", [{}, {"Host": "rebound.attacker.example"}, {"Authorization": "Basic dml0cmluZTo="}])
def test_nothing_is_read_without_the_login(headers: dict[str, str], api_url: str) -> None:
    for path in ("/admin/settings", "/admin/version", "/csrf-token?client=a", "/block_types/slug/secret"):
        assert httpx.get(api_url + path, headers=headers).status_code == 401
    assert httpx.get(f"{api_url}/health", headers=headers).status_code == 200


def test_a_page_of_another_origin_may_neither_call_nor_read(api_url: str) -> None:
    asked = {**OTHER_PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = httpx.options(f"{api_url}/flow_runs/", headers=asked)
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    answer = httpx.get(f"{api_url}/admin/version", headers={**OTHER_PAGE, **BASIC})
    assert answer.status_code == 200, "the login is right, but the browser hides the answer"
    assert "access-control-allow-origin" not in answer.headers


def test_a_write_with_the_login_needs_a_token_too(api_url: str) -> None:
    answer = httpx.post(f"{api_url}/variables/", json={"name": "attack", "value": 1}, headers={**OTHER_PAGE, **BASIC})
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
@pytest.mark.parametrize("protocols", [["prefect"], None])
def test_a_web_socket_needs_the_login(path: str, protocols: Any, api_url: str) -> None:
    async def attack() -> str:
        url = f"{api_url.replace('http', 'ws')}/{path}"
        async with websockets.connect(url, subprotocols=protocols, origin="https://attacker.example") as socket:  # type: ignore[arg-type]
            await socket.send('{"type": "auth", "token": "vitrine:"}')
            return str(await socket.recv())

    with pytest.raises((websockets.ConnectionClosed, websockets.InvalidStatus)):
        asyncio.run(attack())


@pytest.mark.parametrize("name", ["command", "working_dir", "name", "labels", "stream_output"])
@pytest.mark.usefixtures("prefect_server")
def test_a_run_cannot_set_a_variable_of_the_worker_s_process(name: str) -> None:
    values: dict[str, Any] = {"labels": {"a": "b"}, "stream_output": False}
    attack = {name: values.get(name, "/tmp/attacked")}
    made = [asyncio.run(ProcessJobConfiguration.from_template_and_values(POOL, given)) for given in ({}, attack)]
    assert made[0] == made[1]


def test_the_guide_and_the_services_ship_what_is_attacked_here() -> None:
    guide = dict(re.findall(r'^(?:echo ")?(PREFECT_\w+)=([^"\n]*)', GUIDE, re.MULTILINE))
    assert guide.keys() >= CLOSED.keys() | {"PREFECT_API_AUTH_STRING"}
    for name in CLOSED.keys() - {"PREFECT_SERVER_API_AUTH_STRING"}:
        by_default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", SERVER["environment"][name])
        assert guide[name] == by_default == CLOSED[name]
    assert guide["PREFECT_SERVER_API_AUTH_STRING"] == guide["PREFECT_API_AUTH_STRING"] == "$PREFECT_LOGIN"
    assert SERVER["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_LOGIN:?")
    assert ("process", json.loads(POOL_FILE.read_text())) == PROCESSES
