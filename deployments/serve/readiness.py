"""What answers until the store has its first release: a page that says what to do, and problems for programs."""

from __future__ import annotations

import logging
import time
from threading import Thread

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from deployments.listening import bound_connections, listen
from deployments.serve.api.problems import refuse
from deployments.serve.metrics import Exporter
from retrieval_core.artifacts import releases
from retrieval_core.errors import VitrineError
from retrieval_core.store.base import Store

RETRY_AFTER_S = 10
PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{RETRY_AFTER_S}">
<title>Vitrine</title>
<style>
  body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 20vh auto; padding: 0 1rem; color: #292524 }}
  h1 {{ font-size: 1.4rem }}
  code {{ background: #f5f5f4; padding: .1em .3em; border-radius: 4px }}
  @media (prefers-color-scheme: dark) {{
    body {{ background: #0c0a09; color: #e7e5e4 }}
    code {{ background: #292524 }}
  }}
</style>
<h1>Nothing can be searched yet</h1>
<p>The store has no release. The first run publishes one, and this page becomes the search page by itself.</p>
<p>Start the run on Prefect's page, with <em>Run</em> of the deployment <em>nightly</em>, or from the command line:</p>
<p><code>vitrine run --source KIND:URI --store STORE</code></p>
</html>
"""

log = logging.getLogger("vitrine.serve")


def wait_for_release(store: Store, host: str, port: int, exporter: Exporter, check_s: float = 2.0) -> None:
    """Answer on `http://host:port` with a page that says what to do, until the store has a production release.

    `/livez` and `/metrics` are 200 meanwhile, everything else 503, for the HTTP API with a problem. Raises `OSError` if
    the address cannot be used.
    """
    if _is_published(store):
        return
    log.warning("%s has no release yet; the page says so until the first run has published one", store.url)
    metrics = Route("/metrics", lambda request: exporter.response())
    routes = [Route("/livez", _live), metrics, Route("/{path:path}", _wait, methods=["GET", "POST"])]
    config = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off")
    bound_connections(config)
    server = uvicorn.Server(config)
    with listen(host, port) as listener:
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not _is_published(store):
                time.sleep(check_s)
        finally:
            server.should_exit = True
            thread.join()


def _is_published(store: Store) -> bool:
    try:
        return releases.read_alias(store, releases.PRODUCTION) is not None
    except VitrineError as error:
        log.warning("cannot look for a release: %s", error)
        return False


async def _live(request: Request) -> Response:
    return PlainTextResponse("ok")


async def _wait(request: Request) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if request.url.path.startswith("/v1/"):
        return refuse(503, "nothing is published yet; `vitrine run` publishes the first release", headers)
    return HTMLResponse(PAGE, 503, headers)
