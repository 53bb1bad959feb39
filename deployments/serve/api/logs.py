"""What is logged: one JSON document a line, and one line a request, with its id, by which a client's log finds it."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serve.api.problems import problem_response
from deployments.serve.metrics import Measurements

MAX_PATH_CHARS = 200
REQUEST_ID = re.compile(r"[\w.:-]{1,64}")  # one of a client that is kept
QUIET = ("/livez", "/readyz", "/metrics")  # probes, which come every few seconds

access = logging.getLogger("vitrine.access")


class JsonLines(logging.Formatter):
    """One JSON document a line; `extra={"fields": {…}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        document = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        document["message"] = record.getMessage()
        document |= getattr(record, "fields", {})
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


def log_json_lines() -> None:
    """Log to stderr as JSON lines: our own messages, and warnings of the libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])  # does nothing where handlers are set
    logging.getLogger("vitrine").setLevel(logging.INFO)


class Observed:
    """ASGI middleware that gives every request an id, measures it, logs it, and answers 500 for what nobody caught.

    `X-Request-Id` is the client's if it is well-formed, else a new one. Neither query strings nor bodies are logged or
    traced.
    """

    def __init__(self, app: ASGIApp, measurements: Measurements) -> None:
        self._app, self._measurements = app, measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        status, started = 0, time.perf_counter()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                state["trace_id"] = _trace_request(scope, request_id, state)
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            response = problem_response(error)  # logs it
            if not status:
                await response(scope, receive, send_noting)
        finally:
            seconds = time.perf_counter() - started
            self._measurements.observe_request(_route(scope), status, seconds)
            if scope["path"] not in QUIET or status >= 500:
                _log_request(scope, request_id, status, seconds, state)


def _route(scope: Scope) -> str:
    """Return the path of the route as the app declares it; requests that reach none have one name."""
    return str(getattr(scope.get("route"), "path", "")) or "other"


def _trace_request(scope: Scope, request_id: str, state: dict[str, Any]) -> str:
    """Add to the trace of a request what its log line says; return the trace's id, "" where nothing is traced."""
    span = trace.get_current_span()
    if not span.is_recording():
        return ""
    span.set_attributes({"vitrine.request_id": request_id, "vitrine.release": state.get("release", "")})
    span.set_attributes({"url.path": _route(scope), "url.query": ""})  # FastAPI has put there what was asked
    return trace.format_trace_id(span.get_span_context().trace_id)


def _log_request(scope: Scope, request_id: str, status: int, seconds: float, state: dict[str, Any]) -> None:
    fields = {
        "request_id": request_id,
        "method": scope["method"],
        "path": scope["path"][:MAX_PATH_CHARS],
        "status": status,
        "ms": round(1000 * seconds, 1),
        "address": (scope.get("client") or ("",))[0],
    }
    fields |= {name: state[name] for name in ("client_name", "query_id", "release", "trace_id") if state.get(name)}
    access.info("%s %s %s", scope["method"], fields["path"], status, extra={"fields": fields})
