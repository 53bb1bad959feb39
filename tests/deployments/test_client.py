"""The client says what the service says, in types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from deployments.client import Client
from deployments.serve.api.answers import Problem, SearchAnswer
from deployments.serve.api.problems import Refused
from deployments.serve.api.requests import SearchRequest
from deployments.serve.app import ServeOptions, build_app
from tests.deployments.conftest import FIRST, SECOND
from tests.deployments.serve.conftest import listening


@pytest.fixture(scope="module")
def client(shop: Any) -> Iterator[Client]:
    with listening(build_app(shop.settings, ServeOptions())) as url, Client(url) as client:
        yield client


def test_it_searches_and_pages_and_describes(client: Client, shop: Any) -> None:
    picture = shop.picture("item-3-0").read_bytes()
    answer = client.search(images=[picture], k=2, filters={"category": ["dress"]}, facets=["colour"])
    assert (answer.release, answer.hits[0].item_id) == (SECOND, "item-3-0")
    assert answer.facets is not None
    request = SearchRequest(images=(picture,), k=2, filters={"category": ("dress",)})
    following = client.search(request.model_copy(update={"cursor": answer.next_cursor}))
    assert not {hit.item_id for hit in following.hits} & {hit.item_id for hit in answer.hits}
    assert client.item("item-3-0").category == "dress"
    assert client.view(images=[picture], side_px=32).picture.startswith("data:image/jpeg")
    assert client.facets(["category"], "colour=red").facets["category"]["coat"]
    assert [each.release for each in client.releases()] == [SECOND, FIRST]


def test_a_batch_has_an_answer_or_a_problem_for_each(client: Client) -> None:
    found, lost = client.search_each([SearchRequest(item_ids=("item-1-0",)), SearchRequest(item_ids=("nobody",))])
    assert isinstance(found, SearchAnswer)
    assert isinstance(lost, Problem)


def test_a_problem_is_an_error_with_its_status_and_words(client: Client) -> None:
    with pytest.raises(Refused, match="'nobody'") as refused:
        client.search(item_ids=["nobody"])
    assert refused.value.status == 404
    with pytest.raises(ValidationError, match="colour"):
        client.search(colour="red")
    nothing = Client("http://127.0.0.1:9")
    with pytest.raises(httpx.HTTPError):
        nothing.releases()
