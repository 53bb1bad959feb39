"""Errors as answers: problem details (RFC 9457) with a status of 4xx for the client's errors and 5xx for ours.

What is ours is logged here; the client learns nothing of the inside.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deployments.serve.api.answers import Problem
from retrieval_core.config.text import nearest
from retrieval_core.errors import AddressRefused, BadConfig, ImageRefused, NotFound, Transient, VitrineError

RETRY_AFTER_S = 5
MAX_ERRORS = 5  # named in one answer
# Their messages are about what the client sent.
STATUSES: tuple[tuple[type[VitrineError], int], ...] = (
    (NotFound, 404),
    (BadConfig, 422),
    (AddressRefused, 422),
    (ImageRefused, 422),
)

log = logging.getLogger("vitrine.serve")


class Refused(VitrineError):
    """A request that is answered with this status and message."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, dict(headers or {})


class TooBusy(Refused):
    """More is asked than can be answered in time."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, detail, {"Retry-After": "1"})


def refused_values(errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None) -> Refused:
    """Return the refusal that names each parameter at fault (`ValidationError.errors()`) and what is wrong with it."""
    told = [_told(error, model) for error in errors[:MAX_ERRORS]]  # a client may send 200,000 unknown names
    more = f"; and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
    return Refused(422, "; ".join(told) + more)


def _told(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    *path, name = error["loc"] or ("the request",)
    where = ".".join(map(str, (*path, name)))
    if error["type"] == "extra_forbidden":
        return f"unknown parameter {str(name)[:100]!r}{nearest(str(name), _names_at(model, path)) if model else ''}"
    return f"{where[:200]}: {error['msg'].removeprefix('Value error, ')}"


def _names_at(model: type[BaseModel] | None, path: Sequence[Any]) -> Iterable[str]:
    """Return the parameters that the model knows at a path within it."""
    for step in path:
        if model is None or isinstance(step, int):
            continue
        inner: Any = model.model_fields[step].annotation
        inner = getattr(inner, "__args__", (inner,))[0]
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return model.model_fields if model else ()


def refusal_of(error: Exception) -> Refused:
    """Return how an error is answered; one that is ours is logged."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValidationError):
        return refused_values(error.errors(include_url=False, include_input=False), None)
    if isinstance(error, HTTPException):
        return Refused(error.status_code, str(error.detail), error.headers)
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return Refused(status, str(error))
    if isinstance(error, TimeoutError):
        return Refused(503, "the search took too long; try again later", {"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, Transient):
        log.error("a request cannot be answered: %s", error)
        return Refused(503, "the store does not answer; try again later", {"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, VitrineError):
        log.error("a request ended with %s: %s", type(error).__name__, error)
    else:  # its message may quote the request
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("a request ended with %s, whose message may quote it:\n%s", type(error).__name__, frames)
    return Refused(500, "the request cannot be answered; the log of the service says why")


def problem_of(refused: Refused) -> Problem:
    """Return the document of a refusal."""
    return Problem(title=_title(refused.status), status=refused.status, detail=str(refused))


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_response(error: Exception) -> Response:
    """Return the response to a request that ended with this error."""
    refused = refusal_of(error)
    content = problem_of(refused).model_dump_json()
    return Response(content, refused.status, refused.headers, media_type="application/problem+json")


def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem as a response."""
    return problem_response(Refused(status, reason, headers))


def described(answers: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Return how OpenAPI describes a route that answers one of these, by status, or a problem."""
    problem = {"model": Problem, "description": "A problem", "content": {"application/problem+json": {}}}
    return {"response_class": Response, "responses": {**answers, "4XX": problem, "5XX": problem}}


async def handle(request: Request, error: Exception) -> Response:
    """Answer a request that ended with an error, as FastAPI's exception handler."""
    return problem_response(error)
