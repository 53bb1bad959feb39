"""Fetch a picture from a URL that a visitor gives, without giving the visitor access to this network.

What counts is the IP address that a connection goes to. The host name is therefore resolved here, each of its addresses
is checked, and the connection goes to a checked address without resolving the name again; every redirect repeats this.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore

from retrieval_core.errors import BadConfig, ImageRefused, NotFound
from retrieval_core.images import decode

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_PORTS = {"http": 80, "https": 443}
HEADERS = (
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
    ("User-Agent", "vitrine"),
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsAllowed = Callable[[Address], bool]

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Blocks that `is_global` accepts in some version of Python: shared and protocol blocks, the anycast of 6to4 relays,
# benchmarks, documentation, and the public address at which Azure's hosts answer their own virtual machines.
_REFUSED = tuple(
    ipaddress.ip_network(block)
    for block in (
        "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "168.63.129.16/32",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
)  # fmt: skip


def fetch_picture(
    url: str, *, max_bytes: int = 20_000_000, timeout_s: float = 10.0, is_allowed: IsAllowed | None = None
) -> bytes:
    """Return the bytes of the picture at an http(s) URL, after decoding them once as a check.

    `timeout_s` bounds the whole fetch with redirects and name resolution, `max_bytes` what is read. No proxy, cookie or
    password is used. `is_allowed` decides which addresses may be connected to, by default `is_public`. Raises
    `BadConfig` for a URL that may not be fetched, `NotFound` if no document is there, and `ImageRefused` if the
    response is too slow, too large, compressed, or no picture.
    """
    backend = _CheckedBackend(_Deadline(timeout_s), is_allowed or is_public)
    for _ in range(MAX_REDIRECTS + 1):
        response = _request(_checked_url(url), backend, max_bytes)
        if isinstance(response, bytes):
            decode(response)
            return response
        url = urljoin(url, response.location)
    raise NotFound(f"the address redirects more than {MAX_REDIRECTS} times; give the picture's own address")


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet; of IPv4 embedded in IPv6 the IPv4 address counts."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded_ipv4(address)
        if embedded is not None:
            return is_public(embedded)
        if address not in _GLOBAL_UNICAST:
            return False
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not any(address in block for block in _REFUSED)


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a mapped, 6to4 or NAT64 address leads to (RFC 4291, 3056, 6052)."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class _Redirect:
    def __init__(self, location: str) -> None:
        self.location = location


class _Deadline:
    """Bounds the time of everything that a fetch waits for."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Return the seconds that remain, more than 0. Raises `ImageRefused` if none do."""
        remaining_s = self._end - time.monotonic()
        if remaining_s <= 0:
            raise self.error()
        return remaining_s

    def error(self) -> ImageRefused:
        return ImageRefused(f"the address did not deliver a picture within {self._timeout_s:g} s")


def _checked_url(url: str) -> SplitResult:
    """Parse a URL. Raises `BadConfig` for anything but a plain http(s) URL."""
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise BadConfig("a picture's address has no spaces, control characters or backslashes in it")
    try:
        url.encode()
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadConfig(f"the address cannot be read: {error}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise BadConfig(f"only http:// and https:// addresses are fetched, not {parts.scheme or 'a plain name'!r}")
    if "@" in parts.netloc:
        raise BadConfig("an address with a user name or password is not fetched")
    if not parts.hostname or port == 0:
        raise BadConfig("the address names no host")
    return parts


def _request(parts: SplitResult, backend: _CheckedBackend, max_bytes: int) -> bytes | _Redirect:
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    host, port = _ascii_host(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme]
    url = httpcore.URL(scheme=parts.scheme, host=host, port=port, target=target)
    bracketed = f"[{host}]" if ":" in host else host
    headers = [("Host", f"{bracketed}:{parts.port}" if parts.port else bracketed), *HEADERS]
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            return _read(response, backend.deadline, max_bytes)
    except httpcore.TimeoutException as error:
        raise backend.deadline.error() from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise NotFound(f"{parts.hostname} does not answer as a web server: {error}") from error


def _ascii_host(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise BadConfig(f"{host!r} is not the name of a host") from error


def _read(response: httpcore.Response, deadline: _Deadline, max_bytes: int) -> bytes | _Redirect:
    headers = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers}
    if response.status in REDIRECTS and b"location" in headers:
        return _Redirect(headers[b"location"])
    if response.status != 200:
        raise NotFound(f"the address answers with status {response.status}, not with a picture")
    if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ImageRefused("the address sends its picture compressed, although the request forbids it")
    data = bytearray()
    for chunk in response.iter_stream():
        deadline.remaining_s()
        data += chunk
        if len(data) > max_bytes:
            raise ImageRefused(f"the picture is larger than {max_bytes:,} bytes")
    return bytes(data)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, deadline: _Deadline, is_allowed: IsAllowed) -> None:
        self.deadline = deadline
        self._is_allowed = is_allowed
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        if not all(self._is_allowed(address) for address in addresses):
            # The message leaves the address out: it would tell a stranger about the names of this network.
            raise BadConfig(f"{host} is not on the public internet, so nothing is fetched from it")
        last_error: Exception | None = None
        for position, address in enumerate(addresses):
            wait_s = self.deadline.remaining_s() / (len(addresses) - position)
            try:
                stream = self._plain.connect_tcp(str(address), port, wait_s, None, socket_options)
                return _TimedStream(stream, self.deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
        raise NotFound(f"{host} does not answer on port {port}") from last_error

    def _resolve(self, host: str, port: int) -> list[Address]:
        """Return every address of a host name in the system's order; a resolver that is too slow is abandoned."""
        results: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                results.put(list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in entries)))
            except (OSError, UnicodeError) as error:
                results.put(error)

        threading.Thread(target=look_up, daemon=True).start()
        try:
            addresses = results.get(timeout=self.deadline.remaining_s())
        except queue.Empty:
            raise self.deadline.error() from None
        if isinstance(addresses, Exception) or not addresses:
            raise NotFound(f"no host is called {host}")
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no read or write waits beyond the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.remaining_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining_s()), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
