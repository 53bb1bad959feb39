"""The nightly reports of a store as pages, `/reports/RELEASE`, beside the search app."""

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
# A report holds its pictures, style and script; nothing of a catalogue row may fetch or send anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"


class Reports:
    """ASGI middleware: answers `/reports/production` and `/reports/NAME`, a release or a report, hands on all else."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        answer = await asyncio.to_thread(self._answer, scope["path"].removeprefix(PREFIX))
        await answer(scope, receive, send)

    def _answer(self, name: str) -> Response:
        try:
            page = _report_page(self._store, name)
        except NotFound as error:
            return PlainTextResponse(str(error), status_code=404)
        except VitrineError as error:
            return PlainTextResponse(str(error), status_code=503)
        return HTMLResponse(page, headers={"content-security-policy": POLICY})


def _report_page(store: Store, name: str) -> bytes:
    """Raises `NotFound` for a name of no release, `ShardCorrupt` for a page that is not what was sealed."""
    part = _report(store, name).part("report.html")
    return store.local_path(part.key, part.sha256).read_bytes()


def _report(store: Store, name: str) -> Report:
    """Of a release, or one that `evaluate` made of itself."""
    if name == releases.PRODUCTION:
        release = releases.read_release(store, name)
        if release is None:
            raise NotFound("nothing is published yet, so there is no report; run the nightly first")
        return Report.open(store, release.report)
    if not re.fullmatch("[0-9a-f]{4,64}", name):
        raise NotFound(f"no report {name[:64]!r}; expected {PREFIX}{releases.PRODUCTION} or a release's fingerprint")
    return Report.find(store, name) or Report.open(store, releases.get_release(store, name).report)
