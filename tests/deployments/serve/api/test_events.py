"""`POST /v1/events`: what shoppers chose is taken, by its scope, and mistakes are refused by their names."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.serve.app import ServeOptions, build_app
from retrieval_core.feedback.log import read_log

START = datetime(2026, 1, 1, tzinfo=UTC)
CLICK: dict[str, Any] = {"event": "click", "query_id": "0" * 32, "item_id": "item-1-0"}


def serving(shop: Any, **options: Any) -> TestClient:
    return TestClient(build_app(shop.settings, ServeOptions(**options)), base_url="http://localhost")


def test_events_lead_from_an_answer_to_what_was_asked_and_shown(shop: Any) -> None:
    asked = {"item_ids": ["item-1-0"], "where": "category=dress", "filters": {"colour": ["red"]}, "k": 1}
    with serving(shop) as client:
        page = client.post("/v1/search", json=asked).json()
        more = client.post("/v1/search", json=asked | {"cursor": page["next_cursor"]}).json()
        similar = client.get("/v1/items/item-2-0/similar").json()
        batch = client.post("/v1/search/batch", json={"searches": [{"item_ids": ["item-3-0"]}, {"texts": []}]}).json()
        first = page["hits"][0]["item_id"]
        single = {"event": "click", "query_id": page["query_id"], "item_id": first, "position": 1}
        response = client.post("/v1/events", json=single)
        assert (response.status_code, response.json()) == (202, {"accepted": 1})
        several = [{**single, "event": name} for name in ("add_to_basket", "purchase", "not_what_i_meant")]
        assert client.post("/v1/events", json={"events": several}).json() == {"accepted": 3}
        metrics = client.get("/metrics").text
    assert 'vitrine_events_total{event="purchase"} 1.0' in metrics
    log = read_log(shop.store, START)
    rows = {row["query_id"]: row for row in log.searches.to_dicts()}
    for answer in (page, more, similar, batch["answers"][0]):
        assert rows[answer["query_id"]]["shown"] == [hit["item_id"] for hit in answer["hits"]]
    row = rows[page["query_id"]]
    assert (row["item_ids"], row["where"], row["n_before"]) == (
        ["item-1-0"],
        "(category=dress) and colour in (red)",
        0,
    )
    assert (rows[more["query_id"]]["n_before"], rows[similar["query_id"]]["item_ids"]) == (1, ["item-2-0"])
    assert set(log.events["event"]) == {"click", "add_to_basket", "purchase", "not_what_i_meant"}
    assert set(log.events["query_id"]) == {page["query_id"]}
    assert set(row) | set(log.events.columns) == {
        "query_id", "at", "release", "item_ids", "texts", "n_pictures", "pictures", "is_unlike", "where", "n_before",
        "shown", "item_id", "event", "position",
    }, "nothing of the person"  # fmt: skip


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"event": "click"}, "query_id: Field required"),
        (CLICK | {"event": "look"}, "events.0.event: Input should be 'click', 'add_to_basket', 'purchase' or"),
        (CLICK | {"query_id": "nope"}, "events.0.query_id: "),
        (CLICK | {"position": 0}, "events.0.position: "),
        (CLICK | {"user": "me"}, "unknown parameter 'user'"),
        (CLICK | {"item_id": ""}, "events.0.item_id: "),
        ({"events": []}, "events: "),
        ({"events": [CLICK] * 501}, "events: "),
        ({"clicks": [CLICK]}, "unknown parameter 'clicks'"),
        ([CLICK], "Input should be an object"),
    ],
)
def test_mistakes_are_refused_by_their_names(body: Any, told: str, client: TestClient) -> None:
    response = client.post("/v1/events", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert told in response.json()["detail"]


def test_only_a_token_with_the_scope_tells_of_events(shop: Any, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    scopes = {"page": "read,events", "server": "events", "reader": "read"}
    lines = (f"{name} {scope} {hashlib.sha256(name.encode()).hexdigest()}" for name, scope in scopes.items())
    file.write_text("\n".join(lines))
    with serving(shop, token_file=file) as client:
        for name, expected in (("page", 202), ("server", 202), ("reader", 403)):
            headers = {"Authorization": f"Bearer {name}"}
            assert client.post("/v1/events", json=CLICK, headers=headers).status_code == expected
        search = {"item_ids": ["item-1-0"]}
        assert client.post("/v1/search", json=search, headers={"Authorization": "Bearer server"}).status_code == 403


def test_a_service_without_feedback_records_nothing_and_says_so(shop: Any) -> None:
    before = list(shop.store.list("feedback/"))
    with serving(shop, records=False) as client:
        assert client.post("/v1/search", json={"item_ids": ["item-1-0"]}).status_code == 200
        response = client.post("/v1/events", json=CLICK)
        assert response.status_code == 404
        assert "records nothing" in response.json()["detail"]
    assert list(shop.store.list("feedback/")) == before


def test_the_route_is_described_for_programs(client: TestClient) -> None:
    described = client.get("/v1/openapi.json").json()["paths"]["/v1/events"]["post"]
    content = described["requestBody"]["content"]["application/json"]
    assert client.post("/v1/events", json=content["example"]).status_code == 202
    assert "202" in described["responses"]
