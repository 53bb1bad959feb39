"""Run the search service: wait for a release, listen, answer until a signal, and finish what was begun."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from deployments.listening import bound_connections, listen
from deployments.serve.api.access import read_tokens
from deployments.serve.api.logs import log_json_lines
from deployments.serve.app import ServeOptions, build_app
from deployments.serve.metrics import MULTIPROCESS, Exporter
from deployments.serve.readiness import wait_for_release
from retrieval_core.errors import BadConfig, VitrineError
from retrieval_core.settings import Settings

DRAIN_S = 30  # for the searches that are in progress when the service is to end
LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger("vitrine.serve")


def serve(settings: Settings, options: ServeOptions, workers: int = 1) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish the searches in progress.

    Until something is published, a page says so. With several `workers`, processes share the port and the mapped index.
    Raises `BadConfig` if the address cannot be used, and for a bad token file.
    """
    if options.token_file:
        read_tokens(options.token_file)
    elif options.host not in LOOPBACK:
        log.warning("anyone who reaches %s:%s may search: there is no --token-file", options.host, options.port)
    store = settings.open_store()
    with _ended_by_signals():
        with _naming_address(options):
            wait_for_release(store, options.host, options.port, Exporter(store, settings))
            listener = listen(options.host, options.port)
        with listener, tempfile.TemporaryDirectory(prefix="vitrine-metrics-") as folder:
            log.info("the search service listens on http://%s:%s", options.host, options.port)
            if workers > 1:
                os.environ[MULTIPROCESS] = folder  # before the workers import prometheus_client
            _run(partial(_app, settings, options, workers > 1), listener, workers)


def _run(app: Callable[[], FastAPI], listener: socket.socket, workers: int) -> None:
    config = uvicorn.Config(
        app,
        factory=True,
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    bound_connections(config)
    if workers == 1:
        uvicorn.Server(config).run([listener])
    else:
        Multiprocess(config, [listener]).run()


def _app(settings: Settings, options: ServeOptions, is_worker: bool) -> FastAPI:
    """Return the app in the process that answers; a worker that cannot start ends all of them."""
    log_json_lines()
    try:
        return build_app(settings, options)
    except VitrineError as error:
        if not is_worker:
            raise
        log.error("%s", error)
        sys.exit(STARTUP_FAILURE)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal leave every `with` block, so that temporary folders go; uvicorn ends first what was begun."""
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        print("vitrine: interrupted; the service is closed", file=sys.stderr)
        sys.exit(128 + (received or [number])[0])

    def hang_up(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGTERM)  # the one that uvicorn knows

    handlers = {signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: hang_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _naming_address(options: ServeOptions) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError) as error:
        reason = "it is taken, or no address of this machine; give another --port or --host"
        raise BadConfig(f"cannot listen on {options.host}:{options.port}: {reason}") from error
