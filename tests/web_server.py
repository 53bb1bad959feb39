"""A web server on loopback whose files, refusals and delays a test sets, and which counts its requests."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, dict[str, str], bytes]


class WebServer:
    """Serves `files` by path, with an ETag; `answers` replaces a path's answer for as long as its iterator lasts."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Iterator[Answer]] = {}
        self.requests: list[tuple[str, str]] = []  # method and path
        self.headers: list[dict[str, str]] = []
        self.connections: set[tuple[str, int]] = set()
        self.validators: Callable[[bytes], dict[str, str]] = etag
        self.knows_head = True
        self.knows_ranges = False
        self.delay_s = 0.0
        self.n_sent_bytes = 0
        self.most_at_a_time = 0
        self.url = ""
        self._n_open = 0
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()
        self.headers.clear()
        self.n_sent_bytes = 0

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        path = unquote(path.partition("?")[0])
        scripted = next(self.answers.get(path, iter(())), None)
        if scripted is not None:
            return scripted
        if method == "HEAD" and not self.knows_head:
            return 405, {}, b""
        if path not in self.files:
            return 404, {"Content-Type": "text/html"}, b"<html>no such page"
        data = self.files[path]
        validators = self.validators(data)
        given = {headers.get("If-None-Match"), headers.get("If-Modified-Since")} - {None}
        if given and given <= set(validators.values()):
            return 304, validators, b""
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", "")) if self.knows_ranges else None
        if part and int(part[1]) >= len(data):
            return 416, {"Content-Length": "0"}, b""
        if part:
            data = data[int(part[1]) : int(part[2]) + 1]
        return 206 if part else 200, {**validators, "Content-Length": str(len(data))}, data

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._n_open += 1
            self.most_at_a_time = max(self.most_at_a_time, self._n_open)
        try:
            time.sleep(self.delay_s)
            yield
        finally:
            with self._lock:
                self._n_open -= 1


def etag(data: bytes) -> dict[str, str]:
    """Return the header with a version that follows from the bytes."""
    return {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[WebServer]:
    """Run a server until the context ends, over TLS where it has a file with a certificate and its key."""
    state = WebServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            state.requests.append((self.command, self.path))
            state.headers.append(dict(self.headers))
            state.connections.add(self.client_address)
            with state.counted():
                status, headers, body = state.answer(self.command, self.path, dict(self.headers))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Connection", "close")
                self.end_headers()
                if self.command != "HEAD" and status != 304:
                    self.wfile.write(body)
                    state.n_sent_bytes += len(body)
                    if len(body) != int(headers.get("Content-Length", len(body))):
                        self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that refuse a certificate
    state.url = f"{'https' if certificate else 'http'}://127.0.0.1:{running.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        running.shutdown()
        thread.join()
        running.server_close()
