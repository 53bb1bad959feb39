"""Refuse requests of other web pages and to other host names, and tell browsers what the page may do."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serve.api.problems import refuse

# The page runs no script but its own, loads nothing from other hosts and sends nothing to them.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'; require-trusted-types-for 'script'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
MAX_BODY_BYTES = 28_000_000  # of a search: one picture of 20 MB in base64, or several smaller ones
MAX_BODIES_BYTES = 256_000_000  # of all requests being answered


class Guard:
    """ASGI middleware: adds `HEADERS` to every response and refuses what no client of ours sends.

    Refused are host names other than localhost, `host` and `names`, which a web page could have made point here, and
    requests from pages of another origin that is not among `origins`. A response with a policy of its own keeps it.
    """

    def __init__(self, app: ASGIApp, host: str, names: Sequence[str], origins: Sequence[str] = ()) -> None:
        self._app, self._public = app, {name.lower() for name in names}
        self._names, self._origins = {"localhost", host.lower(), *self._public}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                given = {name for name, _ in headers}
                message = {**message, "headers": [*headers, *(each for each in HEADERS if each[0] not in given)]}
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return refuse(421, f"this service is not {_host_name(host)!r}; allow it with --name when it starts")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and not self._is_same_origin(origin, host):
            return refuse(403, "pages of this origin may not use the service; allow it with --allow-origin")
        return None

    def _is_ours(self, host: str) -> bool:
        """Return whether `host` is a known name, or an IP address, which no other page's name can stand for."""
        name = _host_name(host)
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in self._names

    def _is_same_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` was loaded from here, perhaps through a proxy that replaced the host."""
        return urlsplit(origin).netloc == host or _host_name(urlsplit(origin).netloc) in self._public


def _host_name(host: str) -> str:
    """Return the lower-case name of a Host header without its port, "" if there is none."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""
