"""The routes of the HTTP API, and those by which it is watched."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from deployments.serve.api.answers import (
    BatchAnswer,
    FacetsAnswer,
    ItemsAnswer,
    ReleaseDetails,
    ReleasesAnswer,
    SearchAnswer,
    ViewAnswer,
)
from deployments.serve.api.parsing import batch_body, picture_body, query_parameters, read_body, read_json, read_query
from deployments.serve.api.problems import described, refuse
from deployments.serve.api.requests import (
    EXAMPLES,
    BatchRequest,
    FacetsRequest,
    ItemRequest,
    ItemsRequest,
    NoParameters,
    PictureRequest,
    SearchRequest,
    SimilarRequest,
    ViewRequest,
)
from deployments.serve.api.searches import Searches
from deployments.serve.metrics import Exporter
from deployments.serve.service import SearchService
from retrieval_core.errors import VitrineError
from retrieval_core.search.hits import Item

PICTURE_AGE_S = 3_600  # for a browser to keep a picture

log = logging.getLogger("vitrine.serve")


def add_api(app: FastAPI, service: SearchService, searches: Searches) -> None:
    """Add the routes under `/v1`."""

    @app.post("/v1/search", openapi_extra=picture_body(SearchRequest, EXAMPLES), **_answers(SearchAnswer))
    async def search(request: Request) -> Response:
        """Search by pictures, texts and items; as JSON, or as a form with pictures as files."""
        return _search_response(request, await searches.search(await read_body(request, SearchRequest)))

    @app.post("/v1/search/batch", openapi_extra=batch_body(), **_answers(BatchAnswer))
    async def search_batch(request: Request) -> Response:
        """Answer several searches, each with its answer or its problem."""
        batch = await read_json(request, BatchRequest)
        return _json(BatchAnswer(answers=await searches.search_each(batch.searches)))

    view_example = {"by item": {"value": {"item_ids": ["p0003-v1"]}}}

    @app.post("/v1/view", openapi_extra=picture_body(ViewRequest, view_example), **_answers(ViewAnswer))
    async def view(request: Request) -> Response:
        """Return what a search makes of a picture, and where the product is; as JSON, or as a form with the picture."""
        return _json(await searches.view(await read_body(request, ViewRequest)))

    @app.get("/v1/items", openapi_extra=query_parameters(ItemsRequest), **_answers(ItemsAnswer))
    async def items(request: Request) -> Response:
        """Return items of different products and as many categories as possible, always the same ones."""
        return _json(await searches.in_thread(service.items, read_query(request, ItemsRequest)))

    # An id may contain slashes.
    similar_parameters = query_parameters(SimilarRequest)

    @app.get("/v1/items/{item_id:path}/similar", openapi_extra=similar_parameters, **_answers(SearchAnswer))
    async def similar(request: Request, item_id: str) -> Response:
        """Search for the items that are most like an item."""
        parameters = read_query(request, SimilarRequest)
        wanted = SearchRequest(item_ids=(item_id,), **parameters.model_dump())
        return _search_response(request, await searches.search(wanted))

    picture_parameters = query_parameters(PictureRequest)

    @app.get("/v1/items/{item_id:path}/picture", openapi_extra=picture_parameters, **_answers(None))
    async def picture(request: Request, item_id: str) -> Response:
        """Return the picture of an item as a JPEG."""
        data = await searches.picture(read_query(request, PictureRequest), item_id)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={PICTURE_AGE_S}"})

    @app.get("/v1/items/{item_id:path}", openapi_extra=query_parameters(ItemRequest), **_answers(Item))
    async def item(request: Request, item_id: str) -> Response:
        """Return what hits say of an item."""
        name = read_query(request, ItemRequest).release
        return _json(await searches.in_thread(lambda: service.open(name).item(item_id)))

    @app.get("/v1/facets", openapi_extra=query_parameters(FacetsRequest), **_answers(FacetsAnswer))
    async def facets(request: Request) -> Response:
        """Return the values that a filter can name, each with its number of items."""
        return _json(await searches.in_thread(service.facets, read_query(request, FacetsRequest)))

    @app.get("/v1/releases", **_answers(ReleasesAnswer))
    async def list_releases(request: Request) -> Response:
        """Return the last releases, the newest first."""
        read_query(request, NoParameters)
        return _json(await searches.in_thread(_releases, service))

    @app.get("/v1/releases/{name}", **_answers(ReleaseDetails))
    async def release(request: Request, name: str) -> Response:
        """Return what a release is, by `production` or its fingerprint, and what it can be searched by."""
        read_query(request, NoParameters)
        return _json(await searches.in_thread(service.details, name))


def add_watch(app: FastAPI, service: SearchService, exporter: Exporter) -> None:
    """Add `/livez`, `/readyz` and `/metrics`."""

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return PlainTextResponse("ok")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        """Search production for a picture."""
        try:
            await asyncio.to_thread(service.check)
        except VitrineError as error:
            log.error("the service is not ready: %s", error)
            return refuse(503, "production does not answer a search; the log of the service says why")
        return PlainTextResponse("ok")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return await asyncio.to_thread(exporter.response)


def _releases(service: SearchService) -> ReleasesAnswer:
    return ReleasesAnswer(releases=[service.listed(release) for release in service.list_releases()])


def _search_response(request: Request, answer: SearchAnswer) -> Response:
    request.scope["state"] |= {"query_id": answer.query_id, "release": answer.release}  # for the log
    return _json(answer)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _answers(model: type[BaseModel] | None) -> dict[str, Any]:
    """Return how OpenAPI describes what a route answers, None for a picture."""
    return described({200: {"model": model} if model else {"description": "A picture", "content": {"image/jpeg": {}}}})
