"""A request has an id, by which its line in the log is found; nothing that it carries is logged."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.serve.api.logs import JsonLines
from deployments.serve.service import SearchService
from retrieval_core.errors import StoreUnavailable

SECRET = "secret-words-of-a-customer"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records if record.name.startswith("vitrine")]


@pytest.mark.parametrize(("sent", "is_kept"), [("order-7:b.2", True), ("a\tb", False), ("x" * 65, False), ("", False)])
def test_an_id_of_the_client_is_kept_if_it_is_well_formed(
    sent: str, is_kept: bool, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "vitrine"):
        response = client.post("/v1/search", json={"item_ids": ["item-1-0"]}, headers={"X-Request-Id": sent})
    request_id = response.headers["x-request-id"]
    assert (request_id == sent) is is_kept
    (line,) = lines(caplog)
    expected = {"request_id": request_id, "method": "POST", "path": "/v1/search", "status": 200, "level": "info"}
    assert expected.items() <= line.items()
    assert line["query_id"] == response.json()["query_id"]
    assert line["release"] == response.json()["release"]


def test_nothing_of_a_request_is_logged_and_probes_are_not(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "vitrine"):
        client.get("/livez")
        client.get(f"/v1/items/item-1-0/similar?where={SECRET}")
        client.post("/v1/search", json={"texts": [SECRET]}, headers={"Authorization": f"Bearer {SECRET}"})
        client.post("/v1/search", content=SECRET, headers={"Content-Type": "application/json"})
    assert len(lines(caplog)) == 3
    assert SECRET not in json.dumps(lines(caplog))


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [(ValueError(SECRET), 500, None), (StoreUnavailable(f"{SECRET} is down"), 503, "5"), (TimeoutError(), 503, "5")],
)
def test_what_is_our_fault_is_told_without_the_inside(
    error: Exception,
    status: int,
    retry: str | None,
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(SearchService, "answer", fail)
    with caplog.at_level(logging.INFO, "vitrine"):
        response = client.post("/v1/search", json={"item_ids": ["item-1-0"]})
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry)
    assert response.json()["status"] == status
    assert SECRET not in response.text
    told = lines(caplog)
    assert told[-1]["status"] == status
    if isinstance(error, ValueError):
        assert "ValueError" in told[0]["message"]
        assert SECRET not in json.dumps(told), "the message may quote the request"


def test_a_release_that_cannot_search_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(service: SearchService) -> None:
        raise StoreUnavailable(f"{SECRET} is down")

    assert client.get("/readyz").status_code == 200
    monkeypatch.setattr(SearchService, "check", fail)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert SECRET not in response.text
    assert client.get("/livez").status_code == 200
