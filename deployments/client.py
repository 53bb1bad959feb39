"""A client of `vitrine serve`, with its types.

    from deployments.client import Client

    with Client("https://search.example", token=TOKEN) as client:
        answer = client.search(item_ids=["p0003-v1"], where="category=sweater", k=5)
        for hit in answer.hits:
            print(hit.item_id, hit.score)

Parameters are those of `SearchRequest`; they are checked before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from deployments.serve.api.answers import (
    BatchAnswer,
    EventsAnswer,
    FacetsAnswer,
    Problem,
    ReleaseAnswer,
    ReleasesAnswer,
    SearchAnswer,
    ViewAnswer,
)
from deployments.serve.api.problems import Refused
from deployments.serve.api.requests import (
    BatchRequest,
    EventsRequest,
    FacetsRequest,
    SearchRequest,
    ShopperEvent,
    ViewRequest,
)
from retrieval_core.artifacts import releases
from retrieval_core.search.hits import Item

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """Calls the service at a URL; may be used from many threads.

    Every method raises `Refused` for an answer that is a problem, with its `status`, its message and its `headers`, of
    which `Retry-After` says when to try again; `httpx.HTTPError` where the service does not answer; and pydantic's
    `ValidationError` for parameters that the service would refuse.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(self, request: SearchRequest | None = None, **parameters: Any) -> SearchAnswer:
        """Search, by a request or its parameters."""
        return self._post("/v1/search", request or SearchRequest(**parameters), SearchAnswer)

    def search_each(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | Problem]:
        """Answer several searches, each with a problem where it fails."""
        return self._post("/v1/search/batch", BatchRequest(searches=tuple(requests)), BatchAnswer).answers

    def item(self, item_id: str, release: str = releases.PRODUCTION) -> Item:
        """Return what hits say of an item."""
        return self._get(f"/v1/items/{quote(item_id)}", {"release": release}, Item)

    def view(self, request: ViewRequest | None = None, **parameters: Any) -> ViewAnswer:
        """Return what a search makes of one picture and where the product is, by a request or its parameters."""
        return self._post("/v1/view", request or ViewRequest(**parameters), ViewAnswer)

    def facets(self, names: Sequence[str] = (), where: str = "", release: str = releases.PRODUCTION) -> FacetsAnswer:
        """Return the values of these names, or of all, with the numbers of items that match a filter."""
        request = FacetsRequest(names=tuple(names), where=where, release=release)
        return self._get("/v1/facets", request.model_dump(exclude={"filters"}), FacetsAnswer)

    def releases(self) -> list[ReleaseAnswer]:
        """Return the last releases, the newest first."""
        return self._get("/v1/releases", {}, ReleasesAnswer).releases

    def report(self, events: Sequence[ShopperEvent]) -> int:
        """Tell what shoppers did with hits; return how many events were taken."""
        return self._post("/v1/events", EventsRequest(events=tuple(events)), EventsAnswer).accepted

    def _get(self, path: str, parameters: dict[str, Any], model: type[Answer]) -> Answer:
        return _read(self._http.get(path, params=parameters), model)

    def _post(self, path: str, request: BaseModel, model: type[Answer]) -> Answer:
        body = request.model_dump_json(exclude_unset=True)
        return _read(self._http.post(path, content=body, headers={"Content-Type": "application/json"}), model)


def _read(response: httpx.Response, model: type[Answer]) -> Answer:
    if response.is_success:
        return model.model_validate_json(response.content)
    try:
        detail = Problem.model_validate_json(response.content).detail
    except ValidationError:  # of a proxy
        detail = response.reason_phrase
    raise Refused(response.status_code, detail, response.headers)
