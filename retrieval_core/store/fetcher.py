"""Requests to web servers: bounded in time and size, repeated when that may help, over connections that are kept."""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple, Self
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import httpcore

from retrieval_core.errors import AddressRefused, NotFound, Permanent, StoreUnavailable, VitrineError
from retrieval_core.store.network import CheckedBackend, Deadline, IsAllowed, check_name, deadline_of_thread

MAX_FILE_BYTES = 2**30
HOST_CONNECTIONS = 24  # at a time to a host: 395 pictures/s at 50 ms, by `python -m benchmarks.ingest.web_pictures`
IDLE_CONNECTIONS = 64  # kept open for the next request, of all hosts
MAX_REDIRECTS = 5
MAX_PAUSE_S = 120.0  # a longer one that a host asks for ends the run, which its schedule repeats
FIRST_BACKOFF_S = 0.5  # doubled for each further attempt
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # hosts that are reached without a proxy

_OVERLOADED = (408, 429, 502, 503, 504)  # speaks of the host; another 5xx speaks of the document


class Bounds(NamedTuple):
    """The limits of one request with its redirects: size, seconds, the rate below which it is too slow, attempts."""

    max_bytes: int = MAX_FILE_BYTES
    timeout_s: float = 60.0
    bytes_per_s: float = 16_000.0  # what has arrived at this rate does not count against `timeout_s`; 0: all counts
    idle_s: float = 30.0
    n_attempts: int = 5


class Response(NamedTuple):
    """A response that is no redirect and no server error; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    data: bytes
    label: str  # the address for messages, without a query, which may hold a token


def status_error(response: Response) -> VitrineError:
    """Return the error that the status of a response means."""
    if response.status in (404, 410):
        return NotFound(f"no file {response.label}: the server answers {response.status}")
    if response.status in (401, 403):
        return Permanent(f"{response.label}: the server answers {response.status}; it must let this machine read it")
    return Permanent(f"{response.label}: the server answers {response.status}; expected 200")


class _Request(NamedTuple):
    method: str
    url: str
    headers: Sequence[tuple[str, str]]
    n_bytes: int


class _Failure(Exception):
    """An attempt failed, and another may help."""

    def __init__(self, error: VitrineError, pause_s: float = 0.0) -> None:
        self.error, self.pause_s = error, pause_s


class _Host:
    """The share of a host: how many requests are made to it at a time, and until when it asked for a pause."""

    def __init__(self) -> None:
        self.connections = threading.BoundedSemaphore(HOST_CONNECTIONS)
        self.resume_at_s = 0.0

    def pause(self, pause_s: float) -> None:
        self.resume_at_s = max(self.resume_at_s, time.monotonic() + pause_s)

    def wait(self) -> None:
        while (wait_s := self.resume_at_s - time.monotonic()) > 0:
            time.sleep(wait_s)


class Fetcher:
    """Makes requests to allowed hosts over connections that it keeps, for any number of threads.

    `is_allowed` decides which addresses may be connected to. Where the environment names a proxy and it may be used,
    the proxy resolves the host's name: then only hosts that are written as addresses are checked. A request sends no
    cookie and no password.
    """

    def __init__(self, is_allowed: IsAllowed, *, uses_proxies: bool = False) -> None:
        self._is_allowed = is_allowed
        self._uses_proxies = uses_proxies
        self._lock = threading.Lock()
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.close()

    def request(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]] = (),
        bounds: Bounds = Bounds(),  # noqa: B008
        n_bytes: int = -1,
    ) -> Response:
        """Return the response of an http(s) address, and of its body the first `n_bytes` bytes, -1 for all.

        Follows redirects, and repeats the request after a failure that may pass. Raises `AddressRefused`, `NotFound`
        for an unknown host, `StoreUnavailable` for a host that is down or overloaded, and `Permanent` for a document
        that it does not deliver.
        """
        name = checked_url(url).hostname or ""
        with self._lock:
            host = self._hosts[name]
        attempt = 1
        while True:
            try:
                with host.connections:
                    host.wait()
                    deadline = Deadline(bounds.timeout_s, bounds.bytes_per_s, bounds.idle_s)
                    with deadline_of_thread(deadline):
                        return self._follow(_Request(method, url, headers, n_bytes), bounds, deadline)
            except _Failure as failure:
                if attempt == bounds.n_attempts or failure.pause_s > MAX_PAUSE_S:
                    raise failure.error from failure.__cause__
                host.pause(failure.pause_s)
            time.sleep(FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            attempt += 1

    def _follow(self, request: _Request, bounds: Bounds, deadline: Deadline) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(request, bounds, deadline)
            if response.status not in REDIRECTS or "location" not in response.headers:
                return response
            request = request._replace(url=urljoin(request.url, response.headers["location"]))
        raise NotFound(f"the address redirects more than {MAX_REDIRECTS} times; give the file's own address")

    def _exchange(self, request: _Request, bounds: Bounds, deadline: Deadline) -> Response:
        """Make one request. Raises `_Failure` where another attempt may help."""
        parts = checked_url(request.url)
        label = f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]
        response: Response | None = None
        try:
            with self._pool(parts).stream(request.method, _target(parts), headers=_headers(parts, request)) as stream:
                names = {name.decode().lower(): value.decode("utf-8", "replace") for name, value in stream.headers}
                response = Response(stream.status, names, b"", label)
                _check_status(response)
                if response.status in REDIRECTS or request.method == "HEAD":
                    return response
                return response._replace(data=_body(stream, response, request.n_bytes, bounds.max_bytes, deadline))
        except httpcore.TimeoutException as error:
            text = f"{label} was not delivered within {bounds.timeout_s:g} s; check the host, then try again"
            raise _Failure(Permanent(text) if response else StoreUnavailable(text)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            if problem := _certificate_problem(error):
                raise Permanent(
                    f"{parts.hostname} has no certificate that this machine trusts: {problem}; "
                    "name its authority's file in SSL_CERT_FILE"
                ) from error
            if response is not None:
                raise _Failure(Permanent(f"{label} was cut off before its end: {error}")) from error
            raise _Failure(
                StoreUnavailable(f"{parts.hostname} does not answer as a web server: {error}; try again")
            ) from error

    def _pool(self, parts: SplitResult) -> httpcore.ConnectionPool:
        """Return the connections through the proxy of a URL, or without one."""
        host = _ascii_host(parts.hostname or "")
        proxy = _proxy_of(parts.scheme, host) if self._uses_proxies else ""
        if proxy:
            check_name(host, self._is_allowed)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = httpcore.ConnectionPool(
                    ssl_context=_ssl_context(),
                    proxy=_proxy(proxy) if proxy else None,
                    max_connections=None,
                    max_keepalive_connections=IDLE_CONNECTIONS,
                    keepalive_expiry=30.0,
                    network_backend=CheckedBackend((lambda *_: True) if proxy else self._is_allowed),
                )
            return self._pools[proxy]


def _check_status(response: Response) -> None:
    """Raise `_Failure` for a status after which another attempt may help."""
    if response.status in _OVERLOADED:
        pause_s = _pause_s(response.headers.get("retry-after", ""))
        wish = f" and asks to wait {pause_s:.0f} s" if pause_s else ""
        raise _Failure(StoreUnavailable(f"{response.label}: the server answers {response.status}{wish}"), pause_s)
    if response.status >= 500 and response.status != 501:
        raise _Failure(status_error(response))


def _certificate_problem(error: BaseException | None) -> str:
    """Return what is wrong with the certificate that caused an error, "" if none did."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error.verify_message if error else ""


def _pause_s(retry_after: str) -> float:
    """Return the seconds of a `Retry-After` header, which holds seconds or a date; 0 if it cannot be read."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0


def _body(stream: httpcore.Response, response: Response, n_bytes: int, max_bytes: int, deadline: Deadline) -> bytes:
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Permanent(f"{response.label} is sent compressed, although the request forbids it")
    data = bytearray()
    if n_bytes == 0 or response.status >= 300:  # the page of an error is not read
        return b""
    for chunk in stream.iter_stream():
        deadline.receive(len(chunk))
        deadline.remaining_s()
        data += chunk
        if len(data) > max_bytes:
            raise Permanent(f"{response.label} is larger than {max_bytes:,} bytes")
        if 0 < n_bytes <= len(data):
            return bytes(data[:n_bytes])
    return bytes(data)


# Addresses


def checked_url(url: str) -> SplitResult:
    """Parse a URL. Raises `AddressRefused` for anything but a plain http(s) URL."""
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise AddressRefused("an address has no spaces, control characters or backslashes in it")
    try:
        url.encode()
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"the address cannot be read: {error}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise AddressRefused(f"only http:// and https:// addresses are fetched, not {parts.scheme or 'a plain name'!r}")
    if "@" in parts.netloc:
        raise AddressRefused("an address with a user name or password is not fetched")
    if not parts.hostname or port == 0:
        raise AddressRefused("the address names no host")
    return parts


def _target(parts: SplitResult) -> httpcore.URL:
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return httpcore.URL(scheme=parts.scheme, host=_ascii_host(parts.hostname or ""), port=port, target=target)


def _headers(parts: SplitResult, request: _Request) -> list[tuple[str, str]]:
    host = _ascii_host(parts.hostname or "")
    bracketed = f"[{host}]" if ":" in host else host
    return [
        ("Host", f"{bracketed}:{parts.port}" if parts.port else bracketed),
        ("User-Agent", _user_agent()),
        ("Accept-Encoding", "identity"),
        *request.headers,
    ]


@lru_cache(maxsize=1)
def _user_agent() -> str:
    return f"vitrine/{version('vitrine')} (+picture search)"


def _ascii_host(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise AddressRefused(f"{host!r} is not the name of a host") from error


def _proxy_of(scheme: str, host: str) -> str:
    """Return the proxy that the environment names for a host, or ""."""
    if host in LOOPBACK or urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    return proxies.get(scheme) or proxies.get("all") or ""


def _proxy(url: str) -> httpcore.Proxy:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return httpcore.Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", auth=login)


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities of certifi and those that SSL_CERT_FILE names."""
    context = httpcore.default_ssl_context()
    if file := os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(file)
    return context
