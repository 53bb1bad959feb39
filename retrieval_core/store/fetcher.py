"""Requests to web servers: bounded in time and size, repeated when that may help, over connections that are kept."""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple, Self
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import httpcore

from retrieval_core.errors import AddressRefused, NotFound, Permanent, StoreUnavailable, VitrineError
from retrieval_core.store.hosts import MAX_PAUSE_S, HostLimits, HostShare
from retrieval_core.store.network import CheckedBackend, Deadline, IsAllowed, check_name, deadline_of_thread
from retrieval_core.store.traffic import count

MAX_FILE_BYTES = 2**30
IDLE_CONNECTIONS = 64  # kept open for the next request, of all hosts
MAX_REDIRECTS = 5
FIRST_BACKOFF_S = 0.5  # doubled for each further attempt
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_PORTS = {"http": 80, "https": 443}
UNPACKED_BYTES = 2**20
ACCEPTS_GZIP = ("Accept-Encoding", "gzip")  # a header of requests whose response may be packed
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

    host: HostShare

    def __init__(self, error: VitrineError, pause_s: float = 0.0) -> None:
        self.error, self.pause_s = error, pause_s


class _Idle(NamedTuple):
    """Connections to a host, perhaps through a proxy, that no thread uses."""

    origin: tuple[str, ...]
    pool: httpcore.ConnectionPool


class Fetcher:
    """Makes requests to allowed hosts over connections that it keeps, for any number of threads.

    `is_allowed` decides which addresses may be connected to. Where the environment names a proxy and it may be used,
    the proxy resolves the host's name: then only hosts that are written as addresses are checked. A request sends no
    cookie and no password.
    """

    def __init__(
        self,
        is_allowed: IsAllowed,
        *,
        uses_proxies: bool = False,
        limits: HostLimits = HostLimits(),  # noqa: B008
    ) -> None:
        self._is_allowed = is_allowed
        self._uses_proxies = uses_proxies
        self._limits = limits
        self._lock = threading.Lock()
        self._hosts: dict[str, HostShare] = {}
        self._idle: list[_Idle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for idle in self._idle:
            idle.pool.close()

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
        attempt = 1
        while True:
            deadline = Deadline(bounds.timeout_s, bounds.bytes_per_s, bounds.idle_s)
            try:
                with deadline_of_thread(deadline):
                    return self._follow(_Request(method, url, headers, n_bytes), bounds, deadline)
            except _Failure as failure:
                if attempt == bounds.n_attempts or failure.pause_s > MAX_PAUSE_S:
                    if isinstance(failure.error, StoreUnavailable):
                        failure.host.fail(failure.error, failure.pause_s)
                    raise failure.error from failure.__cause__
                failure.host.pause(failure.pause_s)
            time.sleep(FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            attempt += 1

    def _follow(self, request: _Request, bounds: Bounds, deadline: Deadline) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._host(checked_url(request.url))
            try:
                with host.turn() as waited_s:
                    deadline.extend(waited_s)
                    response = self._exchange(request, bounds, deadline)
            except _Failure as failure:
                failure.host = host
                raise
            host.succeed()
            if response.status not in REDIRECTS or "location" not in response.headers:
                return response
            request = request._replace(url=urljoin(request.url, response.headers["location"]))
        raise NotFound(f"the address redirects more than {MAX_REDIRECTS} times; give the file's own address")

    def _host(self, parts: SplitResult) -> HostShare:
        with self._lock:
            return self._hosts.setdefault(parts.netloc.lower(), HostShare(self._limits))

    def _exchange(self, request: _Request, bounds: Bounds, deadline: Deadline) -> Response:
        """Make one request. Raises `_Failure` where another attempt may help."""
        parts = checked_url(request.url)
        label = f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]
        response: Response | None = None
        count(requests=1)
        try:
            with self._connections(parts) as pool:
                with pool.stream(request.method, _target(parts), headers=_headers(parts, request)) as stream:
                    names = {name.decode().lower(): value.decode("utf-8", "replace") for name, value in stream.headers}
                    response = Response(stream.status, names, b"", label)
                    _check_status(response)
                    if request.method != "HEAD" and request.n_bytes != 0 and response.status < 300:
                        response = response._replace(data=_body(stream, response, request, bounds.max_bytes, deadline))
                is_whole = request.method == "HEAD" or response.status == 304 or request.n_bytes < 0
                if stream.extensions.get("http_version") == b"HTTP/2" and not is_whole:
                    pool.close()  # the rest of the body would still arrive
                return response
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

    @contextmanager
    def _connections(self, parts: SplitResult) -> Iterator[httpcore.ConnectionPool]:
        """Yield the connections of one thread to a URL's host, directly or through the proxy; keep them for later ones.

        No two threads share connections, because httpcore's HTTP/2 is not safe then. Those that an error or an early
        end leaves behind are closed.
        """
        host = _ascii_host(parts.hostname or "")
        proxy = _proxy_of(parts.scheme, host) if self._uses_proxies else ""
        if proxy:
            check_name(host, self._is_allowed)
        origin = (proxy, parts.scheme, parts.netloc.lower())
        with self._lock:
            idle = next((each for each in reversed(self._idle) if each.origin == origin), None)
            if idle:
                self._idle.remove(idle)
        pool = idle.pool if idle else self._new_pool(proxy)
        try:
            yield pool
        except BaseException:
            pool.close()
            raise
        with self._lock:
            self._idle.append(_Idle(origin, pool))
            surplus = self._idle[:-IDLE_CONNECTIONS]
            self._idle = self._idle[-IDLE_CONNECTIONS:]
        for each in surplus:
            each.pool.close()

    def _new_pool(self, proxy: str) -> httpcore.ConnectionPool:
        return httpcore.ConnectionPool(
            ssl_context=_ssl_context(),
            proxy=_proxy(proxy) if proxy else None,
            keepalive_expiry=30.0,
            http2=True,
            network_backend=CheckedBackend((lambda *_: True) if proxy else self._is_allowed),
        )


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


def _body(
    stream: httpcore.Response, response: Response, request: _Request, max_bytes: int, deadline: Deadline
) -> bytes:
    """Return the body, unpacked where the request allows gzip. Raises `Permanent` for more than `max_bytes` bytes."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    chunks = _chunks(stream, deadline)
    if encoding in ("gzip", "x-gzip") and ACCEPTS_GZIP in request.headers:
        chunks = _unpacked(chunks)
    elif encoding not in ("", "identity"):
        raise Permanent(f"{response.label} is sent compressed, although the request forbids it")
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > max_bytes:
            raise Permanent(f"{response.label} is larger than {max_bytes:,} bytes")
        if 0 < request.n_bytes <= len(data):
            return bytes(data[: request.n_bytes])
    return bytes(data)


def _chunks(stream: httpcore.Response, deadline: Deadline) -> Iterator[bytes]:
    for chunk in stream.iter_stream():
        count(n_bytes=len(chunk))
        deadline.receive(len(chunk))
        deadline.remaining_s()
        yield chunk


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a gzip file, at most `UNPACKED_BYTES` at a time. Raises as for a body that is cut off."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            while chunk:
                unpacker = zlib.decompressobj(wbits=31) if unpacker.eof else unpacker  # files may follow each other
                yield unpacker.decompress(chunk, UNPACKED_BYTES)
                chunk = unpacker.unconsumed_tail or unpacker.unused_data
        yield unpacker.flush()
    except zlib.error as error:
        raise httpcore.RemoteProtocolError(f"damaged gzip, {error}") from error
    if not unpacker.eof:
        raise httpcore.RemoteProtocolError("the gzip file does not end")


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
        *(() if ACCEPTS_GZIP in request.headers else (("Accept-Encoding", "identity"),)),
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
