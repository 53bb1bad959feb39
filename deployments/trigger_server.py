"""The small server in front of the event `catalog.updated`, and the poller of a queue. Importing it imports Prefect."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.change_events import MAX_BODY_BYTES, read_changes, refused_event, split_change, updated_event
from deployments.trigger_queue import Queue
from retrieval_core.errors import BadConfig, StoreUnavailable, VitrineError
from retrieval_core.ingest.change import Change, merge_changes

RETRY_AFTER_S = 10
log = logging.getLogger("vitrine.triggers")

Emit = Callable[[Sequence[dict[str, Any]]], Awaitable[None]]


def check_prefect() -> None:
    """Raises `BadConfig` where no server is named: the embedded one starts no deployments."""
    if not get_current_settings().api.url:
        raise BadConfig("no Prefect server named: set PREFECT_API_URL, for example http://127.0.0.1:4200/api")


async def emit_to_prefect(events: Sequence[dict[str, Any]]) -> None:
    """Hand events to Prefect's server and wait until it has them. Raises `StoreUnavailable` where it has not."""
    occurred = datetime.now(UTC).isoformat()
    stamped = [{"id": str(uuid4()), "occurred": occurred, **event} for event in events]
    try:
        async with get_client() as client:
            response = await client.request("POST", "/events", json=stamped)
            response.raise_for_status()
    except Exception as error:  # whatever the client raises, the caller has to know that nothing arrived
        raise StoreUnavailable(f"Prefect's server did not take {len(events)} events: {error}") from error


class Burst:
    """Collects changes for `window_s` after the first, and hands them on as few events."""

    def __init__(self, emit: Emit, window_s: float) -> None:
        self._emit, self._window_s = emit, window_s
        self._changes: list[Change] = []
        self._sent: asyncio.Task[None] | None = None

    async def add(self, changes: Sequence[Change]) -> None:
        """Returns when the changes have arrived. Raises `StoreUnavailable` where they have not."""
        if not changes:
            return
        self._changes.extend(changes)
        if self._sent is None:
            self._sent = asyncio.create_task(self._send_after_window())
        await asyncio.shield(self._sent)  # a caller who hangs up does not take the others' changes with him

    async def _send_after_window(self) -> None:
        await asyncio.sleep(self._window_s)
        changes, self._changes, self._sent = self._changes, [], None
        pieces = [piece for change in merge_changes(changes) for piece in split_change(change)]
        for piece in pieces:  # one request each: together they may be too large
            await self._emit([updated_event(piece)])
        log.info("%d changes sent on as %d events", len(changes), len(pieces))


def make_app(token: str, emit: Emit = emit_to_prefect, window_s: float = 2.0, queue: Queue | None = None) -> Starlette:
    """The app: `POST /catalog` with the token as bearer, or as the password of a basic login; `GET /health`.

    200 when Prefect has the event, 4xx for what cannot be one (which an event tells the operator), 503 where Prefect
    does not answer. A queue is polled while the app lives. Raises `BadConfig` for an empty token.
    """
    if not token:
        raise BadConfig("no token: set VITRINE_TRIGGER_TOKEN to a long random text; without it anybody could call")
    burst = Burst(emit, window_s)

    async def catalog(request: Request) -> Response:
        if not _knows(request.headers.get("authorization", ""), token):
            return _answer(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        sender = request.client.host if request.client else "unknown"
        body = await _bounded_body(request)
        if len(body) > MAX_BODY_BYTES:
            reason = f"the body is larger than {MAX_BODY_BYTES:,} bytes; name fewer items, or a manifest_uri"
            return await refuse(413, reason, body, sender)
        try:
            changes = read_changes(body)
        except BadConfig as error:
            return await refuse(422, str(error), body, sender)
        try:
            await burst.add(changes)
        except StoreUnavailable as error:
            log.error("%s", error)
            return _answer(503, "Prefect does not answer; call again", {"Retry-After": str(RETRY_AFTER_S)})
        return JSONResponse({"changes": len(changes)})

    async def refuse(status: int, reason: str, body: bytes | str, sender: str) -> Response:
        log.warning("refused a message of %s: %s", sender, reason)
        try:
            await emit([refused_event(reason, body, sender)])
        except StoreUnavailable as error:
            log.error("%s", error)
        return _answer(status, reason)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        polling = asyncio.create_task(poll(queue, burst, emit)) if queue else None
        yield
        if polling:
            polling.cancel()

    routes = [Route("/catalog", catalog, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


async def poll(queue: Queue, burst: Burst, emit: Emit) -> None:
    """Take messages for ever; one is deleted when Prefect has its event, or the event that it was refused."""
    while True:
        try:
            await _take_batch(queue, burst, emit)
        except VitrineError as error:
            log.error("%s; trying again in %d s", error, RETRY_AFTER_S)
            await asyncio.sleep(RETRY_AFTER_S)


async def _take_batch(queue: Queue, burst: Burst, emit: Emit) -> None:
    messages = await asyncio.to_thread(queue.receive)
    changes: list[Change] = []
    for message in messages:
        try:
            changes.extend(read_changes(message.body))
        except BadConfig as error:
            log.warning("refused a message of the queue: %s", error)
            await emit([refused_event(str(error), message.body, queue.url)])
    await burst.add(changes)
    await asyncio.to_thread(queue.delete, messages)


def _knows(header: str, token: str) -> bool:
    """Whether an Authorization header carries the token; takes as long for a wrong one as for the right one."""
    scheme, _, value = header.partition(" ")
    given = value.strip().encode()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
    elif scheme.lower() != "bearer":
        given = b""
    return hmac.compare_digest(given, token.encode())


async def _bounded_body(request: Request) -> bytes:
    """The body, or the first of it where it is longer than `MAX_BODY_BYTES`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return body[: MAX_BODY_BYTES + 1]


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": detail}, status, headers)
