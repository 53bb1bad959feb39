"""Connections to checked addresses only, each within a deadline.

What counts is the IP address that a connection goes to. The host name is therefore resolved here, each of its addresses
is checked, and the connection goes to a checked address without resolving the name again.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

from retrieval_core.errors import AddressRefused, BadConfig, NotFound, StoreUnavailable

ALLOW_VARIABLE = "VITRINE_FETCH_ALLOW"
CONNECT_TIMEOUT_S = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsAllowed = Callable[[str, Address], bool]  # given the host name of the URL and one of its addresses

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*")
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
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_CURRENT = threading.local()


# Which addresses may be connected to


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


def public_or_listed(entries: str) -> IsAllowed:
    """Return a check that accepts public addresses and the hosts, addresses and networks of a comma-separated list.

    Raises `BadConfig`, which names the entry, for one that is none of them.
    """
    names: set[str] = set()
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for entry in filter(None, (part.strip() for part in entries.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError as error:
            name = entry.lower().rstrip(".")
            if not _HOST.fullmatch(name) or re.fullmatch(r"[\d.]+", name):
                raise BadConfig(
                    f"{ALLOW_VARIABLE}: {entry!r} is neither a host name nor an address or network, such as "
                    "10.1.0.0/16 (with no bits set after those of the network)"
                ) from error
            names.add(name)

    def is_allowed(host: str, address: Address) -> bool:
        if host.lower().rstrip(".") in names or any(address in network for network in networks):
            return True
        embedded = _embedded_ipv4(address) if isinstance(address, ipaddress.IPv6Address) else None
        return is_public(address) or (embedded is not None and is_allowed(host, embedded))

    return is_allowed


def check_name(host: str, is_allowed: IsAllowed) -> None:
    """Raise `AddressRefused` where a host that a proxy will resolve is written as an address that is not allowed."""
    try:
        entries = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        name = host.lower().rstrip(".")
        addresses = [ipaddress.ip_address("127.0.0.1")] if re.fullmatch(r"(.*\.)?localhost", name) else []
    else:
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in entries]
    _check(host, addresses, is_allowed)


def _check(host: str, addresses: Iterable[Address], is_allowed: IsAllowed) -> None:
    if not all(is_allowed(host, address) for address in addresses):
        # The message leaves the address out: it would tell a stranger about the names of this network.
        raise AddressRefused(f"{host} is not on the public internet, so nothing is fetched from it")


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a mapped, 6to4 or NAT64 address leads to (RFC 4291, 3056, 6052)."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


# Time


class Deadline:
    """Bounds the time of everything that a request waits for; received bytes extend it where a rate is given.

    `idle_s` bounds each single wait.
    """

    def __init__(self, timeout_s: float, bytes_per_s: float = 0.0, idle_s: float = float("inf")) -> None:
        self._timeout_s, self._bytes_per_s, self._idle_s = timeout_s, bytes_per_s, idle_s
        self._end = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Return the seconds that the next wait may take, more than 0. Raises `httpcore.ReadTimeout` if none do."""
        remaining_s = self._end - time.monotonic()
        if remaining_s <= 0:
            raise httpcore.ReadTimeout
        return min(remaining_s, self._idle_s)

    def receive(self, n_bytes: int) -> None:
        """Extend the deadline for bytes that arrived."""
        if self._bytes_per_s:
            self.extend(n_bytes / self._bytes_per_s)

    def extend(self, seconds: float) -> None:
        self._end += seconds


@contextmanager
def deadline_of_thread(deadline: Deadline) -> Iterator[None]:
    """Make a deadline hold for every connection that this thread uses, whoever opened it."""
    _CURRENT.deadline = deadline
    try:
        yield
    finally:
        del _CURRENT.deadline


def _remaining_s() -> float:
    deadline: Deadline = _CURRENT.deadline
    return deadline.remaining_s()


# Connections


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to allowed addresses only, within the deadline of the thread.

    Raises `AddressRefused` if any address of the host is not allowed, `NotFound` if there is no such host, and
    `StoreUnavailable` if it cannot be resolved now. httpcore's own errors say that it does not answer.
    """

    def __init__(self, is_allowed: IsAllowed) -> None:
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
        addresses = _resolve(host, port)
        _check(host, addresses, self._is_allowed)
        last_error: Exception = httpcore.ConnectError()
        for position, address in enumerate(addresses):
            wait_s = min(_remaining_s(), CONNECT_TIMEOUT_S) / (len(addresses) - position)
            try:
                return _TimedStream(self._plain.connect_tcp(str(address), port, wait_s, None, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
        raise httpcore.ConnectError(f"{host} does not answer on port {port}") from last_error


def _resolve(host: str, port: int) -> list[Address]:
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
        addresses = results.get(timeout=_remaining_s())
    except queue.Empty:
        raise httpcore.ConnectTimeout from None
    if isinstance(addresses, socket.gaierror) and addresses.errno not in _UNKNOWN_NAME:
        raise StoreUnavailable(f"{host} cannot be looked up now ({addresses.strerror}); check the network's DNS")
    if isinstance(addresses, Exception) or not addresses:
        raise NotFound(f"no host is called {host}")
    return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no read or write waits beyond the deadline of the thread that uses it."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _remaining_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _remaining_s()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
