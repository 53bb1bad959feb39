"""`POST /v1/events`: what shoppers did with the hits of a search."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.serve.api.answers import EventsAnswer
from deployments.serve.api.parsing import read_json
from deployments.serve.api.problems import Refused, described
from deployments.serve.api.requests import EventsRequest, ShopperEvent
from deployments.serve.feedback import Recorder
from retrieval_core.feedback.log import Event

EXAMPLE = {"event": "click", "query_id": "5a3c29d0f1b24c5e9a7b6d8e0f112233", "item_id": "p0007-v0", "position": 3}


def add_events(app: FastAPI, recorder: Recorder | None) -> None:
    """Add the route; without a recorder it says that nothing is recorded."""

    @app.post("/v1/events", status_code=202, openapi_extra=_body(), **described({202: {"model": EventsAnswer}}))
    async def events(request: Request) -> Response:
        """Tell what shoppers did with hits: one event, or several as `{"events": […]}`."""
        sent = await read_json(request, EventsRequest)
        if recorder is None:
            raise Refused(404, "this service records nothing; start it without --no-feedback")
        now = datetime.now(UTC)
        recorder.add_events([Event(at=now, **event.model_dump()) for event in sent.events])
        answer = EventsAnswer(accepted=len(sent.events))
        return Response(answer.model_dump_json(), 202, media_type="application/json")


def _body() -> dict[str, Any]:
    single = ShopperEvent.model_json_schema()
    several = {"type": "object", "required": ["events"], "properties": {"events": {"type": "array", "items": single}}}
    content = {"application/json": {"schema": {"oneOf": [single, several]}, "example": EXAMPLE}}
    return {"requestBody": {"required": True, "content": content}}
