"""The reports of a store as pages beside the search app: `/reports/production` and `/reports/NAME`."""

from __future__ import annotations

import asyncio
import re

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Report
from retrieval_core.errors import NotFound, VitrineError
from retrieval_core.store.base import Store

PREFIX = "/reports/"
# A report contains its pictures, style and script, so text of a catalogue cannot make the browser fetch or send.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"


class ReportPages:
    """ASGI middleware that answers for `/reports/` and passes every other request on."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        response = await asyncio.to_thread(self._respond, scope["path"].removeprefix(PREFIX))
        await response(scope, receive, send)

    def _respond(self, name: str) -> Response:
        try:
            part = _find_report(self._store, name).part("report.html")
            page = self._store.local_path(part.key, part.sha256).read_bytes()
        except NotFound as error:
            return PlainTextResponse(str(error), status_code=404)
        except VitrineError as error:
            return PlainTextResponse(str(error), status_code=503)
        return HTMLResponse(page, headers={"content-security-policy": POLICY})


def _find_report(store: Store, name: str) -> Report:
    """Return the report of production, or of the release or report with this fingerprint. Raises `NotFound`."""
    if name == releases.PRODUCTION:
        release = releases.read_release(store, name)
        if release is None:
            raise NotFound("nothing is published yet, so there is no report; run the nightly first")
        return Report.open(store, release.report)
    if not re.fullmatch("[0-9a-f]{4,64}", name):
        raise NotFound(f"no report {name[:64]!r}; expected {PREFIX}{releases.PRODUCTION} or a release's fingerprint")
    return Report.find(store, name) or Report.open(store, releases.get_release(store, name).report)
