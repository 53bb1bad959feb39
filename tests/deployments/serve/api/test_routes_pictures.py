"""What the routes answer about pictures, and about items and releases without a search."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from retrieval_core.images import decode, thumbnail
from tests.deployments.conftest import FIRST, SECOND


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shape_of(uri: str) -> tuple[int, ...]:
    return decode(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))).shape


@pytest.fixture
def beside_another(shop: Any) -> bytes:
    """A picture of item-5-0 at the left and of item-2-0 at the right."""
    left, right = (decode(shop.picture(name).read_bytes()) for name in ("item-5-0", "item-2-0"))
    return thumbnail(np.concatenate([left, right], axis=1), 1_000, quality=100)


@pytest.mark.parametrize(("box", "item"), [([0, 0, 0.5, 1], "item-5-0"), ([0.5, 0, 1, 1], "item-2-0")], ids=str)
def test_a_box_searches_with_a_part_of_the_picture(
    box: list[float], item: str, beside_another: bytes, client: TestClient
) -> None:
    asked = {"images": [in_base64(beside_another)], "box": box, "k": 1}
    for more in ({}, {"mode": "nearest", "whole": True}):
        assert client.post("/v1/search", json=asked | more).json()["hits"][0]["item_id"] == item
    form = client.post("/v1/search", files={"image": beside_another}, data={"box": str(box), "k": "1"})
    assert form.json()["hits"][0]["item_id"] == item


def test_a_view_shows_the_picture_and_the_part_that_is_searched_with(beside_another: bytes, client: TestClient) -> None:
    height, width, _ = decode(beside_another).shape
    whole = client.post("/v1/view", files={"image": beside_another}, data={"side_px": str(width)}).json()
    assert (whole["release"], whole["view"], whole["box"]) == (SECOND, None, None), "this release knows no box"
    assert shape_of(whole["picture"]) == (height, width, 3)
    asked = {"images": [in_base64(beside_another)], "box": [0.5, 0, 1, 1], "side_px": width}
    assert shape_of(client.post("/v1/view", json=asked).json()["view"]) == (height, width // 2, 3)
    assert client.post("/v1/view", json={"item_ids": ["item-1-0"]}).json()["picture"]


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({}, 422, "one picture"),
        ({"item_ids": ["item-1-0"], "image_urls": ["https://shop.example/a.jpg"]}, 422, "one picture"),
        ({"item_ids": ["nobody"]}, 404, "nobody"),
        ({"images": ["aGVsbG8="]}, 422, "not a JPEG"),
        ({"image_urls": ["http://127.0.0.1:1/a.jpg"]}, 422, "not on the public internet"),
        ({"item_ids": ["item-1-0"], "side_px": 10**6}, 422, "side_px"),
    ],
    ids=str,
)
def test_a_view_says_what_is_wrong(asked: dict[str, Any], status: int, says: str, client: TestClient) -> None:
    response = client.post("/v1/view", json=asked)
    assert response.status_code == status
    assert says in response.json()["detail"]


def test_the_picture_of_an_item_comes_in_the_size_that_is_asked_for(client: TestClient) -> None:
    for side_px in (16, 20):
        answer = client.get("/v1/items/item-1-0/picture", params={"side_px": side_px})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert max(decode(answer.content).shape) == side_px
    assert client.get("/v1/items/nobody/picture").status_code == 404
    assert client.get("/v1/items/item-1-0/picture", params={"side_px": 1}).status_code == 422
    assert client.get("/v1/items/item-9-0/picture", params={"release": FIRST[:8]}).status_code == 404


def test_a_picture_that_cannot_be_read_is_told(client: TestClient, shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval_core.search.release import OpenRelease

    monkeypatch.setattr(OpenRelease, "picture_bytes", lambda release, item_id: b"\xff\xd8\xff")
    assert client.get("/v1/items/item-3-0/picture", params={"side_px": 31}).status_code == 422


def test_items_to_start_from_are_of_every_category_and_match_the_filter(client: TestClient) -> None:
    def items(**asked: Any) -> list[dict[str, Any]]:
        response = client.get("/v1/items", params=asked)
        assert response.status_code == 200, response.text
        return response.json()["items"]

    some = items(k=10)
    assert [item["category"] for item in some[:4]] == ["coat", "dress"] * 2
    products = [item["product_id"] or item["item_id"] for item in some]
    assert len(set(products)) == len(products) == 10
    assert items(k=10) == some
    red = items(k=100, where="category=dress", filters='{"colour": ["red", "blue"]}')
    assert {item["category"] for item in red} == {"dress"}
    assert 0 < len(red) < len(items(k=100, where="category=dress"))
    assert items(k=100, where="category=hat") == []
    assert len(items(k=100, release=FIRST[:8])) == 8
    assert client.get("/v1/items", params={"filters": "{"}).status_code == 422


def test_values_are_counted_beside_what_is_chosen_of_other_names(client: TestClient) -> None:
    chosen = '{"colour": ["red", "blue"], "category": ["dress"]}'
    facets = client.get("/v1/facets", params={"filters": chosen}).json()["facets"]
    assert set(facets["colour"]) == {"red", "blue", "green"}, "one more can be chosen"
    assert facets["category"] == {"coat": 12, "dress": 12}, "of red and blue items"
    assert sum(facets["label"].values()) <= 2 * 12, "of red and blue dresses"


def test_a_release_says_what_it_can_be_searched_by(client: TestClient) -> None:
    one = client.get("/v1/releases/production").json()
    assert (one["release"], one["is_production"], one["reads_text"], one["modes"]) == (SECOND, True, False, ["nearest"])
    assert client.get(f"/v1/releases/{FIRST[:8]}").json()["rows"] == 18
    assert client.get("/v1/releases/latest").status_code == 422
    assert client.get("/v1/releases/cccc").status_code == 404
