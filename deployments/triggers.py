"""Turn HTTP calls and S3 notifications into the event `catalog.updated`, one event for a burst of them.

    python -m deployments.triggers --port 8700
    curl -H "Authorization: Bearer $VITRINE_TRIGGER_TOKEN" -d '{"added": ["sku-1"]}' http://127.0.0.1:8700/catalog

A call is answered once Prefect has the event, so a caller who gets an error can call again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from prefect.client.orchestration import get_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.change_events import MAX_BODY_BYTES, read_changes, refused_event, split_change, updated_event
from deployments.cli.prefect_server import check_server_is_named
from deployments.cli.terminal import print_error
from deployments.environment import prepare_environment
from deployments.listening import bound_connections
from deployments.shop import shop_name
from deployments.trigger_queue import Message, Queue
from retrieval_core.errors import BadConfig, StoreUnavailable, VitrineError
from retrieval_core.ingest.change import Change, merge_changes

RETRY_AFTER_S = 10
REFUSALS = (400, 409, 413, 422)  # statuses that an event gets again however often it is sent
WINDOW_S = 2.0
log = logging.getLogger("vitrine.triggers")

Emit = Callable[[Sequence[dict[str, Any]]], Awaitable[None]]


async def emit_to_prefect(events: Sequence[dict[str, Any]]) -> None:
    """Send events to Prefect's server and wait for its answer.

    Raises `BadConfig` if the server refuses them and always will, `StoreUnavailable` if they could not be delivered.
    """
    occurred = datetime.now(UTC).isoformat()
    stamped = [{"id": str(uuid4()), "occurred": occurred, **event} for event in events]
    try:
        async with get_client() as client:
            response = await client.request("POST", "/events", json=stamped)
            response.raise_for_status()
    except (UnicodeError, httpx.HTTPStatusError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in REFUSALS:
            raise StoreUnavailable(f"Prefect's server did not take {len(events)} events: {error}") from error
        raise BadConfig(f"Prefect's server refuses the event: {error}") from error
    except Exception as error:  # whatever the client raises, the caller has to know that nothing arrived
        raise StoreUnavailable(f"Prefect's server did not take {len(events)} events: {error}") from error


class Burst:
    """Collects changes for `window_s` after the first one, then emits them as few events."""

    def __init__(self, emit: Emit, window_s: float) -> None:
        self._emit, self._window_s = emit, window_s
        self._changes: list[Change] = []
        self._sending: asyncio.Task[None] | None = None

    async def add(self, changes: Sequence[Change]) -> None:
        """Return when the changes have been emitted. Raises `StoreUnavailable` if they have not."""
        if not changes:
            return
        self._changes.extend(changes)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_after_window())
        await asyncio.shield(self._sending)  # a caller that hangs up does not cancel the changes of others

    async def _send_after_window(self) -> None:
        await asyncio.sleep(self._window_s)
        changes, self._changes, self._sending = self._changes, [], None
        pieces = [piece for change in merge_changes(changes) for piece in split_change(change)]
        for piece in pieces:  # one request each: together they may be too large
            await self._emit([updated_event(piece)])
        log.info("%d changes sent as %d events", len(changes), len(pieces))


def make_app(
    token: str, emit: Emit = emit_to_prefect, window_s: float = WINDOW_S, queue: Queue | None = None
) -> Starlette:
    """Return the app: `POST /catalog` with the token as bearer or as the password of a basic login, and `GET /health`.

    `/catalog` answers 200 when Prefect has the event, 4xx for a message that cannot be one (and emits an event that
    reports it), 503 if Prefect does not answer. A queue is polled while the app runs. Raises `BadConfig` for an empty
    token.
    """
    if not token:
        raise BadConfig("no token: set VITRINE_TRIGGER_TOKEN to a long random text; without it anybody could call")
    burst = Burst(emit, window_s)

    async def catalog(request: Request) -> Response:
        if not _has_token(request.headers.get("authorization", ""), token):
            return _error(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
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
        except BadConfig as error:
            return await refuse(422, str(error), body, sender)
        except StoreUnavailable as error:
            log.error("%s", error)
            return _error(503, "Prefect does not answer; call again", {"Retry-After": str(RETRY_AFTER_S)})
        return JSONResponse({"changes": len(changes)})

    async def refuse(status: int, reason: str, body: bytes | str, sender: str) -> Response:
        log.warning("refused a message of %s: %s", sender, reason)
        try:
            await emit([refused_event(reason, body, sender)])
        except StoreUnavailable as error:
            log.error("%s", error)
        return _error(status, reason)

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
    """Read the queue until cancelled; a message is deleted once Prefect has its event or the event of its refusal."""
    while True:
        try:
            await _read_batch(queue, burst, emit)
        except Exception as error:
            unexpected = None if isinstance(error, VitrineError) else error
            log.error("%s; trying again in %d s", error, RETRY_AFTER_S, exc_info=unexpected)
            await asyncio.sleep(RETRY_AFTER_S)


async def _read_batch(queue: Queue, burst: Burst, emit: Emit) -> None:
    messages = await asyncio.to_thread(queue.receive)
    results = await asyncio.gather(
        *(_forward(message, queue, burst, emit) for message in messages), return_exceptions=True
    )
    delivered = [message for message, result in zip(messages, results, strict=True) if result is None]
    await asyncio.to_thread(queue.delete, delivered)
    for result in results:
        if result is not None:
            raise result


async def _forward(message: Message, queue: Queue, burst: Burst, emit: Emit) -> None:
    """Emit the event of a message, or the event of its refusal."""
    try:
        await burst.add(read_changes(message.body))
    except StoreUnavailable:
        raise
    except Exception as error:  # a message that fails in any way must not block the others
        log.warning("refused a message of the queue: %s", error)
        await emit([refused_event(str(error), message.body, queue.url)])


def _has_token(header: str, token: str) -> bool:
    """Return whether an Authorization header carries the token; a wrong token takes as long as the right one."""
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
    """Return the body, cut after `MAX_BODY_BYTES` + 1."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return body[: MAX_BODY_BYTES + 1]


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": detail}, status, headers)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.triggers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8700, help="the port to listen on")
    text = "all changes within this time become one event"
    parser.add_argument("--window", type=float, default=WINDOW_S, metavar="SECONDS", help=text)
    parser.add_argument("--sqs", metavar="QUEUE_URL", help="also read S3 notifications from this queue")
    arguments = parser.parse_args(argv)
    prepare_environment()
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)
    try:
        check_server_is_named()
        shop_name()
        queue = Queue(arguments.sqs) if arguments.sqs else None
        app = make_app(os.environ.get("VITRINE_TRIGGER_TOKEN", ""), window_s=arguments.window, queue=queue)
    except VitrineError as error:
        return print_error(error)
    config = uvicorn.Config(app, host=arguments.host, port=arguments.port, log_level="warning")
    bound_connections(config)
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
