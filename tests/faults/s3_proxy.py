"""A proxy in front of an S3 server that does to requests and answers what networks and busy servers do."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Fault(NamedTuple):
    """What happens to the requests of `method` ("" for any) whose path and query match `where`."""

    method: str
    what: str  # as `_Handler._serve` spells it; "" does nothing
    times: int = 1  # to so many requests
    where: str = ""
    after: int = 0  # after so many


NO_FAULT = Fault("", "")


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a real endpoint, except those that meet `fault`."""

    daemon_threads = True

    def __init__(self, endpoint_url: str, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = urlsplit(endpoint_url).netloc
        self.url = f"http{'s' * bool(certificate)}://127.0.0.1:{self.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.fault = NO_FAULT
        self.hidden = ""  # an object that listings omit
        self.ignored: tuple[str, ...] = ()  # headers that the server behind does not get to see
        self.over = threading.Event()
        self.between: Callable[[], None] = lambda: None  # called by the fault "wait, then"

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault, self.n_met = fault, 0  # requests that the fault is about

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""

    def meets(self, method: str, path: str) -> str:
        """Return the fault that this request meets, "" for none."""
        if self.fault.method not in ("", method) or not re.search(self.fault.where, path):
            return ""
        self.n_met += 1
        return self.fault.what if self.fault.after < self.n_met <= self.fault.after + self.fault.times else ""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        what = self.server.meets(self.command, self.path)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):  # as Ceph and others do
            self.close_connection = True
            self._answer(411, {}, _error("MissingContentLength"))
            return
        length = int(self.headers.get("Content-Length", 0))
        if what == "hang":
            self.server.over.wait(20)
            self.close_connection = True
            return
        wanted = length // 2 if what == "cut the request" else length
        body = self.rfile.read(wanted)
        if len(body) < wanted:  # the client hung up
            self.close_connection = True
            return
        if what == "cut the request":
            self._pass_on_half(body)
            return
        if what == "wait, then":
            time.sleep(0.3)
            self.server.between()
        if what.startswith("refuse "):
            self._answer(int(what.split()[1]), {}, _error(what.split()[2]))
            return
        onward = http.client.HTTPConnection(self.server.endpoint, timeout=60)
        onward.request(
            self.command,
            self.path,
            body,
            {name: value for name, value in self.headers.items() if name not in self.server.ignored},
        )
        answer = onward.getresponse()
        data, headers = answer.read(), dict(answer.headers)
        onward.close()
        if what == "lose the answer":
            self._reset()
        elif what.startswith("do it and say "):
            status, code = what.split()[-2:]
            self._answer(int(status), {}, _error(code))
        else:
            if what == "flip a bit":
                data = bytes([data[0] ^ 1]) + data[1:]
            if self.server.hidden and "list-type=2" in self.path:
                data = re.sub(
                    rb"<Contents>(?:(?!</Contents>).)*%s.*?</Contents>" % self.server.hidden.encode(), b"", data
                )
                headers.pop("Content-Length", None)
            self._answer(answer.status, headers, data, cut=what == "cut the answer")

    def _pass_on_half(self, body: bytes) -> None:
        """Send the server what it sees of a client whose connection broke: a header that promises more than follows."""
        with socket.create_connection(tuple(self.server.endpoint.split(":"))) as onward:  # type: ignore[arg-type]
            head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            onward.sendall(f"{self.command} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>said the proxy</Message></Error>".encode()


@contextmanager
def running_proxy(endpoint_url: str, certificate: Path | None = None) -> Iterator[Proxy]:
    """Yield a proxy in front of `endpoint_url` on a free port; with a `certificate` it speaks https."""
    server = Proxy(endpoint_url, certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def write_certificate(path: Path, days: float = 1.0) -> Path:
    """Write a self-signed certificate of 127.0.0.1, which expires in `days`, and its key to a PEM file; return that."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    encoding = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(encoding, *plain) + certificate.public_bytes(encoding))
    return path
