"""The HTTP API: the document of the command line, real status codes, and errors in words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.cli.main import main
from tests.deployments.conftest import FIRST, SECOND

HIT = {"item_id", "score", "confidence", "image_uri", "product_id", "category", "labels", "fields"}


def found(client: TestClient, **asked: Any) -> list[str]:
    response = client.post("/v1/search", json=asked)
    assert response.status_code == 200, response.text
    return [hit["item_id"] for hit in response.json()["hits"]]


def test_a_search_answers_with_the_hits_of_the_command_line(
    client: TestClient, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, where = shop.picture("item-3-0"), "category=dress and colour in (red, blue)"
    options = ["--image", str(picture), "-k=4", "--where", where, "--json"]
    assert main(["search", "--store", shop.settings.store, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    image = base64.b64encode(picture.read_bytes()).decode()
    for sent in (image, f"data:image/jpeg;base64,{image}"):
        answer = client.post("/v1/search", json={"images": [sent], "k": 4, "where": where}).json()
        assert (answer["release"], answer["hits"]) == (printed["release"], printed["hits"])
        assert len(answer["query_id"]) == 32
        assert answer["facets"] is None
    assert set(answer["hits"][0]) == HIT


def test_pictures_come_as_files_of_a_form_with_other_parameters_beside_them(client: TestClient, shop: Any) -> None:
    files = [("image", (f"{n}.jpg", shop.picture(f"item-3-{n}").read_bytes(), "image/jpeg")) for n in (0, 1)]
    beside = {"k": "3", "collapse": "true", "filters": '{"category": ["dress"]}', "item_ids": ["item-5-0", "item-5-1"]}
    response = client.post("/v1/search", files=files, data=beside)
    assert response.status_code == 200, response.text
    images = [base64.b64encode(data).decode() for _, (_, data, _) in files]
    same = {"images": images, "k": 3, "collapse": True, "filters": {"category": ["dress"]}}
    ids = [hit["item_id"] for hit in response.json()["hits"]]
    assert ids == found(client, **same, item_ids=beside["item_ids"])
    assert len(ids) == 3


def test_items_are_described_and_lead_to_similar_ones(client: TestClient) -> None:
    item = client.get("/v1/items/item-3-1").json()
    assert (item["item_id"], item["category"], set(item)) == ("item-3-1", "dress", HIT - {"score", "confidence"})
    similar = client.get("/v1/items/item-3-1/similar", params={"k": 2, "where": "category=dress"}).json()
    assert [hit["item_id"] for hit in similar["hits"]] == found(
        client, item_ids=["item-3-1"], k=2, where="category=dress"
    )
    old = client.get("/v1/items/item-3-1", params={"release": FIRST[:8]})
    assert old.json() == item
    assert client.get("/v1/items/item-9-0", params={"release": FIRST[:8]}).status_code == 404


def test_a_search_in_a_named_release_shows_the_best_of_each_product_or_every_item(client: TestClient) -> None:
    asked: dict[str, Any] = {"item_ids": ["item-1-0"], "k": 100, "release": FIRST[:8]}
    assert len(found(client, **asked, all_items=True)) == 17
    assert len(found(client, **asked)) == 8, "three items are of no product, the others of five"


def test_the_releases_are_listed_the_newest_first(client: TestClient) -> None:
    listed = client.get("/v1/releases").json()["releases"]
    assert [(row["release"], row["is_production"]) for row in listed] == [(SECOND, True), (FIRST, False)]
    assert set(listed[0]) == {"release", "created", "gate", "rows", "is_production"}


def test_values_are_counted_for_a_filter(client: TestClient) -> None:
    every = client.get("/v1/facets").json()
    assert every["release"] == SECOND
    assert every["facets"]["category"] == {"coat": 18, "dress": 18}
    some = client.get("/v1/facets", params={"names": ["colour", "label"], "where": "category=dress"}).json()
    assert set(some["facets"]) == {"colour", "label"}
    assert sum(some["facets"]["colour"].values()) == 18


def test_choices_are_or_within_a_name_and_and_across_names(client: TestClient) -> None:
    asked: dict[str, Any] = {"item_ids": ["item-1-0"], "k": 100, "all_items": True}
    chosen = {"colour": ["red", "blue"], "category": ["dress"]}
    both = found(client, **asked, filters=chosen)
    assert both == found(client, **asked, where="colour in (red, blue) and category=dress")
    assert found(client, **asked, filters=chosen, where="year > 2005 or year < 2002") == found(
        client, **asked, where="(year > 2005 or year < 2002) and colour in (red, blue) and category=dress"
    )
    answer = client.post("/v1/search", json={**asked, "filters": chosen, "facets": ["colour", "category"]}).json()
    assert set(answer["facets"]["colour"]) == {"red", "blue", "green"}, "one more value can be chosen"
    assert answer["facets"]["category"] == {"coat": 12, "dress": 12}, "of red and blue items"


def test_pages_follow_each_other_and_repeat_nothing(client: TestClient) -> None:
    asked: dict[str, Any] = {"item_ids": ["item-1-0"], "where": "category=dress"}
    pages, cursor = [], None
    while True:
        body = asked | {"k": 4} | ({"cursor": cursor} if cursor else {})
        answer = client.post("/v1/search", json=body).json()
        pages.append([hit["item_id"] for hit in answer["hits"]])
        if cursor:
            assert client.post("/v1/search", json=body).json()["hits"] == answer["hits"]
        cursor = answer["next_cursor"]
        if not cursor:
            break
    assert [item_id for page in pages for item_id in page] == found(client, **asked, k=100)
    assert len(pages) > 1


def test_a_cursor_belongs_to_its_search_and_its_release(client: TestClient) -> None:
    asked: dict[str, Any] = {"item_ids": ["item-1-0"], "k": 2}
    cursor = client.post("/v1/search", json=asked).json()["next_cursor"]
    for body, says in [
        (asked | {"item_ids": ["item-2-0"], "cursor": cursor}, "another search"),
        (asked | {"cursor": cursor[:7]}, "damaged"),
        (asked | {"cursor": "?"}, "damaged"),
    ]:
        response = client.post("/v1/search", json=body)
        assert response.status_code == 400
        assert says in response.json()["detail"]
    name = base64.urlsafe_b64decode(cursor)
    gone = base64.urlsafe_b64encode(name.replace(SECOND.encode(), b"c" * 32)).decode()
    assert client.post("/v1/search", json=asked | {"cursor": gone}).status_code == 410


def test_a_batch_answers_each_search_on_its_own(client: TestClient) -> None:
    searches = [{"item_ids": ["item-1-0"], "k": 2}, {"item_ids": ["nobody"]}, {"item_ids": ["item-2-0"], "k": 1}]
    first, second, third = client.post("/v1/search/batch", json={"searches": searches}).json()["answers"]
    assert (len(first["hits"]), len(third["hits"])) == (2, 1)
    assert (second["status"], second["title"]) == (404, "Not Found")
    assert "nobody" in second["detail"]


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({}, 422, "nothing to look for"),
        ({"images": ["not base64!"]}, 422, "images.0: the picture is not base64"),
        ({"images": ["aGVsbG8="]}, 422, "not a JPEG"),
        ({"image_urls": ["http://127.0.0.1:1/a.jpg"]}, 422, "not on the public internet"),
        ({"image_urls": ["file:///etc/passwd"]}, 422, "only http"),
        ({"texts": ["red dress"]}, 422, "reads no text"),
        ({"item_ids": ["nobody"]}, 404, "nobody"),
        ({"item_ids": ["Item 1 0"]}, 404, "did you mean 'item-1-0'?"),
        ({"item_ids": ["item-1-0"], "where": "colur=red"}, 422, "did you mean 'colour'"),
        ({"item_ids": ["item-1-0"], "filters": {"colur": ["red"]}}, 422, "did you mean 'colour'"),
        ({"item_ids": ["item-1-0"], "facets": ["colur"]}, 422, "did you mean 'colour'"),
        ({"item_ids": ["item-1-0"], "k": 0}, 422, "k: "),
        ({"item_ids": ["item-1-0"], "k": 10**9}, 422, "k: "),
        ({"item_ids": ["item-1-0"], "k": "many"}, 422, "k: "),
        ({"item_ids": "item-1-0"}, 422, "item_ids: "),
        ({"item_ids": ["item-1-0"], "mode": "furthest"}, 422, "nearest"),
        ({"item_ids": ["item-1-0"], "mode": "classified"}, 422, "add one to the query"),
        ({"item_ids": ["item-1-0"], "release": "../x"}, 422, "names no release"),
        ({"item_ids": ["item-1-0"], "release": "cccc"}, 404, "no release 'cccc'"),
        ({"item_ids": ["item-1-0"], "min_confidence": 0.5}, 422, "confidence of this search is unknown"),
        ({"item_ids": ["item-1-0"], "box": [0, 0, 1, 1]}, 422, "box: it is a part of one picture"),
        ({"images": ["aGVsbG8="], "box": [0.5, 0, 0.5, 1]}, 422, "left, top, right and bottom"),
        ({"item_id": ["item-1-0"]}, 422, "unknown parameter 'item_id'; did you mean item_ids?"),
        ({"item_ids": ["item-1-0"], "unlike": {"text": ["x"]}}, 422, "unknown parameter 'text'; did you mean texts?"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_words(asked: dict[str, Any], status: int, says: str, client: TestClient) -> None:
    response = client.post("/v1/search", json=asked)
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"content": b"{"}, 400, "not JSON"),
        ({"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"content": b"a=1", "headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ({"files": {"image": b""}}, 422, "images.0"),
        ({"files": {"picture": b"a"}}, 422, "unknown parameter 'picture'"),
        ({"files": {"image": b"hello"}}, 422, "not a JPEG"),
        ({"data": {"image": "hello"}, "files": {"x": b""}}, 422, "send it as a file"),
        ({"data": {"k": ["1", "2"]}, "files": {"image": b"a"}}, 422, "given twice"),
        ({"data": {"filters": "{"}, "files": {"image": b"a"}}, 422, "JSON text"),
        ({"files": [("image", b"a")] * 9}, 400, "Too many files"),
    ],
    ids=str,
)
def test_bodies_that_cannot_be_read_are_the_clients_errors(
    request_: dict[str, Any], status: int, says: str, client: TestClient
) -> None:
    headers = {"Content-Type": "application/json"} if request_.get("content") == b"{" else {}
    response = client.post("/v1/search", **({"headers": headers} | request_))
    assert (response.status_code, response.json()["status"]) == (status, status), response.text
    assert says in response.json()["detail"]


def test_unknown_parameters_of_an_address_are_refused_by_name(client: TestClient) -> None:
    for path, says in [
        ("/v1/items/item-1-0/similar?were=x", "unknown parameter 'were'; did you mean where?"),
        ("/v1/items/item-1-0?releas=x", "unknown parameter 'releas'; did you mean release?"),
        ("/v1/releases?limit=3", "unknown parameter 'limit'"),
        ("/v1/facets?name=x", "unknown parameter 'name'; did you mean names?"),
    ]:
        response = client.get(path)
        assert response.status_code == 422
        assert says in response.json()["detail"]
    assert client.get("/v1/nothing").json()["status"] == 404
    assert client.put("/v1/search").json()["status"] == 405


def test_openapi_describes_every_route_with_examples(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/search", "/v1/search/batch", "/v1/view", "/v1/items", "/v1/items/{item_id}", "/v1/items/{item_id}/similar",
        "/v1/items/{item_id}/picture", "/v1/facets", "/v1/releases", "/v1/releases/{name}", "/v1/events",
    }  # fmt: skip
    body = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert body["application/json"]["examples"]
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
