"""The search service as one ASGI app: the HTTP API and how it is watched, and the page where it is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from deployments.listening import BoundedBodies
from deployments.serve.api.access import Access, TokenFile
from deployments.serve.api.events import add_events
from deployments.serve.api.logs import QUIET, Observed
from deployments.serve.api.parsing import body_schemas
from deployments.serve.api.problems import handle, refuse
from deployments.serve.api.routes import add_api, add_watch
from deployments.serve.api.searches import Searches
from deployments.serve.feedback import Recorder
from deployments.serve.guard import MAX_BODIES_BYTES, MAX_BODY_BYTES, Guard
from deployments.serve.metrics import Exporter
from deployments.serve.page import add_page
from deployments.serve.service import SearchService
from retrieval_core.errors import VitrineError
from retrieval_core.settings import Settings

DESCRIPTION = "Search a product catalogue by picture, text and item. docs/serving.md leads from a store to an endpoint."

# FastAPI sends traces where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; metrics are for Prometheus, logs for stderr.
TRACES: TelemetryConfig = {
    "auto_configure": True,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"] in QUIET,
}
HANDLED = (VitrineError, TimeoutError, ValidationError, HTTPException, RequestValidationError)


class ServeOptions(NamedTuple):
    """Where the service listens and whom it answers."""

    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()  # host names by which clients reach it, besides `host`
    origins: tuple[str, ...] = ()  # of web pages that may call it from a browser
    token_file: Path | None = None
    rate: float = 0.0  # requests a second of one token; 0: any
    has_page: bool = False
    records: bool = True  # searches and events, in the store
    picture_days: float = 0.0  # for which pictures of queries are kept; 0: not at all


def build_app(settings: Settings, options: ServeOptions) -> FastAPI:
    """Open production and return the app. Raises what `open_release` raises, `BadConfig` for a bad token file."""
    store = settings.open_store()
    exporter = Exporter(store, settings)
    tokens = TokenFile(options.token_file) if options.token_file else None
    with ExitStack() as opened:
        service = opened.enter_context(closing(SearchService(store, settings, exporter)))
        recorder = None
        if options.records:
            recorder = opened.enter_context(closing(Recorder(store, exporter.measurements, options.picture_days)))
        searches = opened.enter_context(closing(Searches(service, recorder)))
        middleware: list[Middleware] = [
            Middleware(Observed, measurements=exporter.measurements),
            Middleware(BoundedBodies, max_bytes=MAX_BODY_BYTES, max_total=MAX_BODIES_BYTES, refuse=refuse),
            Middleware(Guard, host=options.host, names=options.names, origins=options.origins),
            Middleware(
                CORSMiddleware,
                allow_origins=options.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=["Retry-After", "X-Request-Id"],
            ),
            Middleware(Access, tokens=tokens, rate=options.rate),
        ]
        app = FastAPI(
            title="Vitrine",
            version="1",
            description=DESCRIPTION,
            openapi_url="/v1/openapi.json",
            telemetry=TRACES,
            docs_url=None,  # its page would load scripts from another host
            redoc_url=None,
            lifespan=partial(_closing, opened.pop_all()),
            middleware=middleware,
            exception_handlers=dict.fromkeys(HANDLED, handle),
        )
    add_watch(app, service, exporter)
    add_api(app, service, searches)
    add_events(app, recorder)
    app.openapi = _with_schemas(app.openapi)  # type: ignore[method-assign]
    if options.has_page:
        add_page(app, store)
    return app


@asynccontextmanager
async def _closing(opened: ExitStack, app: FastAPI) -> AsyncIterator[None]:
    with opened:
        yield


def _with_schemas(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Add the schemas of the bodies, which the routes read themselves."""

    def with_schemas() -> dict[str, Any]:
        document = openapi()
        document["components"]["schemas"] |= body_schemas()
        return document

    return with_schemas
