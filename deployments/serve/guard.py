"""Refuse requests of other web pages and to other host names, and of the page's Gradio some URLs and many uploads."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.serve.api.problems import refuse
from deployments.serve.api.requests import MAX_PICTURE_BYTES

# The page loads nothing from other hosts and sends nothing to them. Gradio needs inline scripts and `eval`.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
UPLOAD = "/gradio_api/upload"
UPLOADS_KEPT_S = 3_600
MAX_UPLOADS_BYTES, MAX_UPLOADS = 2_000_000_000, 20_000  # in the folder of uploads, pictures fetched by URL included
MAX_BODY_BYTES = 28_000_000  # of a search: one picture of 20 MB in base64, or several smaller ones
MAX_BODIES_BYTES = 256_000_000  # of all requests being answered


def max_body_bytes(path: str) -> int:
    """Return how large the body of a request to `path` may be: a file with its part headers, or JSON."""
    return MAX_PICTURE_BYTES + 100_000 if path == UPLOAD else MAX_BODY_BYTES


class Guard:
    """ASGI middleware: adds `HEADERS` to every response and refuses what no client of ours sends.

    Refused are host names other than localhost, `host` and `names`, which a web page could have made point here;
    requests from pages of another origin that is not among `origins`; and, where the page is served, routes of Gradio
    that fetch a URL and uploads that fill the folder `uploads`.
    """

    def __init__(
        self, app: ASGIApp, host: str, names: Sequence[str], origins: Sequence[str] = (), uploads: Path | None = None
    ) -> None:
        self._app, self._uploads, self._public = app, uploads, {name.lower() for name in names}
        self._names, self._origins = {"localhost", host.lower(), *self._public}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        app = await self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return refuse(421, f"this service is not {_host_name(host)!r}; allow it with --name when it starts")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and not self._is_same_origin(origin, host):
            return refuse(403, "pages of this origin may not use the service; allow it with --allow-origin")
        if self._uploads is None:
            return None
        if path.startswith("/gradio_api/") and ("://" in path or "proxy=" in path):
            return refuse(404, "not found")
        if path == UPLOAD and await asyncio.to_thread(_is_full, self._uploads):
            return refuse(507, "too many pictures were uploaded in the last hour; try again later")
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


def _is_full(folder: Path) -> bool:
    """Remove uploads of more than an hour ago and return whether the rest takes all space that uploads may take."""
    n_files = n_bytes = 0
    oldest = time.time() - UPLOADS_KEPT_S
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed meanwhile
            status = path.stat()
            if path.is_dir():
                continue
            if status.st_mtime < oldest:
                path.unlink()
                continue
            n_files, n_bytes = n_files + 1, n_bytes + status.st_size
    return n_bytes > MAX_UPLOADS_BYTES - MAX_PICTURE_BYTES or n_files >= MAX_UPLOADS
