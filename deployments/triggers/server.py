"""Turn HTTP calls and S3 notifications into updates of the catalogue, one update for a burst of them.

    python -m deployments.triggers --port 8700
    curl -H "Authorization: Bearer $VITRINE_TRIGGER_TOKEN" -d '{"added": ["sku-1"]}' http://127.0.0.1:8700/catalog

A call is answered once it is on the disk. It starts its update as soon as Prefect's server answers, and once: also if
that server or this one is killed meanwhile.
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
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.cli.prefect_server import check_server_is_named
from deployments.cli.terminal import print_error
from deployments.environment import prepare_environment
from deployments.listening import bound_connections
from deployments.shop import shop_name
from deployments.triggers.change_events import MAX_BODY_BYTES, read_changes, refused_event
from deployments.triggers.queue import Queue, poll
from deployments.triggers.spool import Spool, default_folder
from deployments.triggers.updates import PrefectUpdates, Updates, start_updates
from retrieval_core.errors import BadConfig, StoreUnavailable, VitrineError

RETRY_AFTER_S = 10
CHECK_S = 5.0  # for Prefect's server to answer a health check
WINDOW_S = 2.0
MAX_TOKENS = 2  # the current one and the next or the previous
TOKEN, SPOOL = "VITRINE_TRIGGER_TOKEN", "VITRINE_SPOOL"
KEPT = "kept on disk; an update starts as soon as Prefect's server takes it"
log = logging.getLogger("vitrine.triggers")


class Sender:
    """Starts updates for the calls of a spool, those of `window_s` together, until it is cancelled."""

    def __init__(self, spool: Spool, updates: Updates, window_s: float) -> None:
        self._spool, self._updates, self._window_s = spool, updates, window_s
        self._has_calls = asyncio.Event()
        self._has_calls.set()  # those of the last process

    def wake(self) -> None:
        """Look at the spool, which has a new call."""
        self._has_calls.set()

    async def run(self) -> None:
        while True:
            await self._has_calls.wait()
            self._has_calls.clear()
            await asyncio.sleep(self._window_s)
            try:
                while await self._send_batch():
                    pass
            except Exception as error:
                unexpected = None if isinstance(error, VitrineError) else error
                log.error("%s; %d calls wait", error, len(self._spool), exc_info=unexpected)
                self._has_calls.set()
                await asyncio.sleep(RETRY_AFTER_S)

    async def _send_batch(self) -> bool:
        """Start the updates of the oldest calls; return False if there are none. Raises `StoreUnavailable`."""
        batch = await asyncio.to_thread(self._spool.next_batch)
        if batch is None:
            return False
        for call, data in batch.damaged.items():
            reason = "a call that was kept on disk is damaged and was set aside; the shop has to repeat it"
            await self._set_aside([call], reason, data)
        try:
            await start_updates(self._updates, batch.changes, batch.key)
        except BadConfig as error:
            await self._set_aside(batch.calls, str(error), repr(batch.changes))
        else:
            log.info("updates started for %d calls", len(batch.calls))
        await asyncio.to_thread(self._spool.remove, batch)
        return True

    async def _set_aside(self, calls: Sequence[str], reason: str, body: bytes | str) -> None:
        log.error("%s: %s", ", ".join(calls), reason)
        with contextlib.suppress(BadConfig):
            await self._updates.report(refused_event(reason, body, "the calls that were kept"))
        for call in calls:
            await asyncio.to_thread(self._spool.set_aside, call)


def make_app(
    tokens: str, spool: Spool, updates: Updates, window_s: float = WINDOW_S, queue: Queue | None = None
) -> Starlette:
    """Return the app: `POST /catalog` with a token as bearer or as the password of a basic login, and `GET /health`.

    `/catalog` answers 202 when the call is on the disk, 4xx for a message that cannot be an update (and reports it as
    an event), 503 if no more calls can be kept. `/health` answers 503 if no update can be started. A queue is polled
    while the app runs. `tokens` are one or two, with a space between them; raises `BadConfig` for another number.
    """
    accepted = _split_tokens(tokens)

    async def catalog(request: Request) -> Response:
        if not _has_token(request.headers.get("authorization", ""), accepted):
            return _error(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        sender_name = request.client.host if request.client else "unknown"
        body = await _bounded_body(request)
        if len(body) > MAX_BODY_BYTES:
            reason = f"the body is larger than {MAX_BODY_BYTES:,} bytes; name fewer items, or a manifest_uri"
            return await refuse(413, reason, body, sender_name)
        try:
            changes = read_changes(body)
        except BadConfig as error:
            return await refuse(422, str(error), body, sender_name)
        if not changes:
            return JSONResponse({"changes": 0, "status": "it concerns no item"})
        try:
            await asyncio.to_thread(spool.add, changes)
        except StoreUnavailable as error:
            log.error("%s", error)
            return _error(503, f"not kept: {error}; call again later", {"Retry-After": str(RETRY_AFTER_S)})
        request.app.state.sender.wake()
        return JSONResponse({"changes": len(changes), "waiting": len(spool), "status": KEPT}, 202)

    async def refuse(status: int, reason: str, body: bytes | str, sender_name: str) -> Response:
        log.warning("refused a message of %s: %s", sender_name, reason)
        try:
            await updates.report(refused_event(reason, body, sender_name))
        except VitrineError as error:
            log.error("%s", error)
        return _error(status, reason)

    async def health(_: Request) -> Response:
        try:
            await asyncio.wait_for(updates.check(), CHECK_S)
        except (VitrineError, TimeoutError) as error:
            reason = str(error) or f"Prefect's server does not answer within {CHECK_S:.0f} s"
            return JSONResponse({"status": "waiting", "reason": reason, "waiting": len(spool)}, 503)
        return JSONResponse({"status": "ok", "waiting": len(spool)})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.sender = Sender(spool, updates, window_s)
        work: list[Coroutine[Any, Any, None]] = [app.state.sender.run()]
        if queue:
            work.append(poll(queue, updates, window_s))
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spool.close()

    routes = [Route("/catalog", catalog, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


def _split_tokens(text: str) -> tuple[bytes, ...]:
    tokens = tuple(token.encode() for token in text.split())
    if not tokens:
        raise BadConfig(f"no token: set {TOKEN} to a long random text; without it anybody could call")
    if len(tokens) > MAX_TOKENS:
        raise BadConfig(f"{TOKEN} has {len(tokens)} tokens; expected one, or two with a space between them")
    return tokens


def _has_token(header: str, tokens: Sequence[bytes]) -> bool:
    """Return whether an Authorization header carries one of the tokens; it takes as long for a wrong one."""
    scheme, _, value = header.partition(" ")
    given = value.strip().encode()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
    elif scheme.lower() != "bearer":
        given = b""
    return sum(hmac.compare_digest(given, token) for token in tokens) > 0  # compares all


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
    text = "all changes within this time become one update"
    parser.add_argument("--window", type=float, default=WINDOW_S, metavar="SECONDS", help=text)
    parser.add_argument("--sqs", metavar="QUEUE_URL", help="also read S3 notifications from this queue")
    text = f"where calls are kept until their update has started (${SPOOL}; in the user's folder for state)"
    parser.add_argument("--spool", metavar="FOLDER", default=os.environ.get(SPOOL), help=text)
    arguments = parser.parse_args(argv)
    try:
        folder = Path(arguments.spool) if arguments.spool else default_folder(shop_name())
    except VitrineError as error:
        return print_error(error)
    prepare_environment()  # which gives a user without a home folder a temporary one
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)
    try:
        check_server_is_named()
        shop_name()
        spool = Spool(folder)
        queue = Queue(arguments.sqs) if arguments.sqs else None
        app = make_app(os.environ.get(TOKEN, ""), spool, PrefectUpdates(), arguments.window, queue)
    except VitrineError as error:
        return print_error(error)
    config = uvicorn.Config(app, host=arguments.host, port=arguments.port, log_level="warning")
    bound_connections(config)
    uvicorn.Server(config).run()
    return 0
