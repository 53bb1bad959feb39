"""Sockets that listen, and bounds of what a client may cost: sizes of bodies, slow requests, and open connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 20.0  # for a request's head and body, and for a client that stops reading the response
MIN_BYTES_PER_S = 16_384  # extends REQUEST_S for large bodies
MAX_INCOMPLETE = 64  # requests that have not arrived as a whole; the oldest makes room for a new one
MAX_CONNECTIONS = 1_000  # further ones are answered 503


Refuse = Callable[[int, str, dict[str, str]], Response]


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket whose connections send what is written at once. Raises `OSError`, `OverflowError`.

    Otherwise the second part of an answer waits until the client acknowledges the first, often for 40 ms: asyncio turns
    that off only for sockets that it made itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it
    return listener


def bound_connections(config: uvicorn.Config) -> None:
    """Make a server close the connections of clients that send or read too slowly. The server may run already."""
    config.limit_concurrency = MAX_CONNECTIONS
    config.http = config.http_protocol_class = partial(_BoundedProtocol, {})  # type: ignore[assignment]


class BoundedBodies:
    """ASGI middleware that answers 413 for a body over `max_bytes` and 503 if all bodies together are over `max_total`.

    A body counts from its first byte until the app has answered. `refuse` makes the response of a status and a reason.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_total: int, refuse: Refuse | None = None) -> None:
        self._app, self._max_bytes, self._max_total, self._total = app, max_bytes, max_total, 0
        self._refuse = refuse or (lambda status, reason, headers: PlainTextResponse(reason, status, headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes, size, has_answered = self._max_bytes, 0, False

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            n_bytes = len(message.get("body", b""))
            size, self._total = size + n_bytes, self._total + n_bytes
            if size > max_bytes:
                raise _Refused(413, f"the body is larger than {max_bytes:,} bytes")
            if self._total > self._max_total:
                raise _Refused(503, "too much is being sent at once; try again later")
            return message

        async def send_noting(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            if _announced_bytes(scope) > max_bytes:
                raise _Refused(413, f"the body is larger than {max_bytes:,} bytes")
            await self._app(scope, receive_bounded, send_noting)
        except _Refused as refused:
            if not has_answered:
                response = self._refuse(refused.status, refused.reason, {"Connection": "close"})
                await response(scope, receive, send)
        finally:
            self._total -= size


class _Refused(BaseException):
    """Ends the app that reads a body; a `BaseException`, so that no framework answers 500 for it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _announced_bytes(scope: Scope) -> int:
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


class _BoundedProtocol(H11Protocol):
    """Closes a connection whose request is late or that stops reading, and the oldest incomplete one beyond the limit.

    A connection is complete while its app works on the request, and between requests, where the keep-alive time counts.
    """

    def __init__(self, incomplete: dict[_BoundedProtocol, None], **server: Any) -> None:
        super().__init__(**server)
        self._incomplete = incomplete  # those of the server, the oldest first
        self._n_bytes, self._started = 0, 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            self._expect_request()
        self._n_bytes += len(data)
        super().data_received(data)
        if self.conn.their_state is not h11.SEND_BODY and self.conn.their_state is not h11.IDLE:
            self._forget_request()

    def on_response_complete(self) -> None:
        self._forget_request()  # a response may come before the whole body
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_request()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(REQUEST_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall:
            self._stall.cancel()

    def _expect_request(self) -> None:
        if len(self._incomplete) >= MAX_INCOMPLETE:
            oldest = next(iter(self._incomplete))
            oldest._forget_request()
            oldest.transport.abort()
        self._incomplete[self] = None
        self._n_bytes, self._started = 0, self.loop.time()
        self._deadline = self.loop.call_later(REQUEST_S, self._check_deadline)

    def _forget_request(self) -> None:
        self._incomplete.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _check_deadline(self) -> None:
        end = self._started + REQUEST_S + self._n_bytes / MIN_BYTES_PER_S
        if self.loop.time() >= end:
            self.transport.abort()
        else:
            self._deadline = self.loop.call_at(end, self._check_deadline)
