"""The search page, files in `static/` that call the HTTP API from the browser, and the reports beside it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Report
from retrieval_core.errors import NotFound, VitrineError
from retrieval_core.store.base import Store

FILES = Path(__file__).with_name("static")
REPORT = "report.html"
MEDIA_TYPES = {"": "text/html", REPORT: "text/html", "fixes.html": "text/html", "fixes.csv": "text/csv"}
# A report contains its pictures, style and script, so text of a catalogue cannot make the browser fetch or send.
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"
)


def add_page(app: FastAPI, store: Store) -> None:
    """Serve the page at the root of an app, and the reports of a store at `/reports/production/` and `/reports/NAME/`.

    The fix lists of a report lie below it: `/reports/NAME/fixes.html` and `fixes.csv`.
    """

    @app.get("/reports/{name:path}", include_in_schema=False)
    async def report(name: str) -> Response:
        return await asyncio.to_thread(_report_response, store, name)

    app.mount("/", _PageFiles(directory=FILES, html=True))


class _PageFiles(StaticFiles):
    """Files that a browser asks about each time, so that those of two versions never meet."""

    def file_response(self, *of_file: Any, **more: Any) -> Response:
        response = super().file_response(*of_file, **more)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _report_response(store: Store, path: str) -> Response:
    name, below, file = path.partition("/")
    if name and not below:  # so that the page's links to its fix lists lead below it
        return RedirectResponse(f"{quote(name)}/")
    if file not in MEDIA_TYPES:
        return PlainTextResponse(f"no file {file[:64]!r} beside a report", status_code=404)
    try:
        part = _find_report(store, name).part(file or REPORT)
        content = store.local_path(part.key, part.sha256).read_bytes()
    except NotFound as error:
        return PlainTextResponse(str(error), status_code=404)
    except VitrineError as error:
        return PlainTextResponse(str(error), status_code=503)
    return Response(content, headers={"content-security-policy": REPORT_POLICY}, media_type=MEDIA_TYPES[file])


def _find_report(store: Store, name: str) -> Report:
    """Return the report of production, or of the release or report with this fingerprint. Raises `NotFound`."""
    if name == releases.PRODUCTION:
        release = releases.read_release(store, name)
        if release is None:
            raise NotFound("nothing is published yet, so there is no report; run the nightly first")
        return Report.open(store, release.report)
    if not re.fullmatch("[0-9a-f]{4,64}", name):
        raise NotFound(f"no report {name[:64]!r}; expected /reports/production or the fingerprint of a release")
    return Report.find(store, name) or Report.open(store, releases.get_release(store, name).report)
