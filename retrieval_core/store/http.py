"""Files at http(s):// addresses that a catalogue names: pictures and tables.

Connections are made to public addresses, and to those that `VITRINE_FETCH_ALLOW` lists. Each process makes at most
`VITRINE_FETCH_CONNECTIONS` requests at a time to a host, and at most `VITRINE_FETCH_RATE` a second. A file counts as
unchanged without a request for as long as its server's `Cache-Control` says, at most `VITRINE_FETCH_MAX_AGE` seconds.
"""

from __future__ import annotations

import math
import os
import threading
import time
from functools import lru_cache

from retrieval_core.errors import BadConfig, Permanent
from retrieval_core.store.base import Fetched, UriStat
from retrieval_core.store.fetcher import ACCEPTS_GZIP, MAX_FILE_BYTES, Bounds, Fetcher, Response, status_error
from retrieval_core.store.hosts import HostLimits
from retrieval_core.store.network import ALLOW_VARIABLE, public_or_listed
from retrieval_core.store.traffic import count

CONNECTIONS_VARIABLE, RATE_VARIABLE = "VITRINE_FETCH_CONNECTIONS", "VITRINE_FETCH_RATE"
MAX_AGE_VARIABLE = "VITRINE_FETCH_MAX_AGE"

_HEAD_REFUSED = (400, 401, 403, 405, 501)  # by servers, or signed addresses, that only know GET
_ETAG, _MODIFIED = "etag ", "modified "
_LOCK = threading.Lock()


def fetch(
    uri: str, n_bytes: int = -1, max_bytes: int = MAX_FILE_BYTES, accepts_gzip: bool = False, start: int = 0
) -> Fetched:
    """Return `n_bytes` bytes of an http(s) address from `start` on, -1 for all.

    The server may send them packed where `accepts_gzip`; `max_bytes` bounds the unpacked ones.

    Raises `AddressRefused` for an address that may not be fetched, `NotFound` for 404 and 410 and for an unknown host,
    `Permanent` for another refusal, a cut-off or an unfit document, and `StoreUnavailable` for a host that is down.
    """
    headers = [] if n_bytes < 0 else [("Range", f"bytes={start}-{start + max(n_bytes, 1) - 1}")]
    headers += [ACCEPTS_GZIP] * accepts_gzip
    response = _pipeline_fetcher().request("GET", _spaceless(uri), headers, Bounds(max_bytes), n_bytes)
    if n_bytes >= 0 and response.status == 416:  # the file ends before
        return Fetched(b"", UriStat(0, ""), "")
    if start and response.status == 200:
        raise Permanent(f"{response.label}: the server sends no parts of files; copy the file to a disk or to S3")
    if response.status not in ((200,) if n_bytes < 0 else (200, 206)):
        raise status_error(response)
    return Fetched(response.data, _stat_of(response, len(response.data)), response.headers.get("content-type", ""))


def stat(uri: str, known: UriStat | None = None) -> UriStat:
    """Return the size and version of an http(s) address in one request, which transfers no bytes of it.

    `known` are those that it had before, and returned without a request while they are fresh. The version is that of
    `ETag`, else `Last-Modified` and the length, else "", which means that it may have changed. The size is that of
    `known` if the version is, else 0 if the server does not tell it. Raises as `fetch` does.
    """
    if known is not None and time.time() < known.fresh_until_s <= time.time() + _max_age_s():
        return known
    headers = _conditions(known)
    fetcher = _pipeline_fetcher()
    response = fetcher.request("HEAD", _spaceless(uri), headers)
    if response.status in _HEAD_REFUSED:
        response = fetcher.request("GET", _spaceless(uri), headers, n_bytes=0)
    if response.status == 304 and known is not None:
        current = known._replace(fresh_until_s=_fresh_until_s(response))
    elif response.status != 200:
        raise status_error(response)
    else:
        current = _stat_of(response, int(_length_of(response) or 0))
    if known is None or not known.version == current.version != "":
        return current
    count(not_modified=1)
    return current._replace(size_bytes=known.size_bytes)


def _stat_of(response: Response, size_bytes: int) -> UriStat:
    fresh_until_s = _fresh_until_s(response)
    if etag := response.headers.get("etag"):
        return UriStat(size_bytes, _ETAG + etag, fresh_until_s)
    modified, length = response.headers.get("last-modified"), _length_of(response)
    version = f"{_MODIFIED}{modified}, {length} bytes" if modified and length else ""
    return UriStat(size_bytes, version, fresh_until_s if version else 0)


def _fresh_until_s(response: Response) -> int:
    """Return until when a response may be used without a request (RFC 9111, 4.2); 0 where it may not."""
    text = response.headers.get("cache-control", "").lower()
    directives = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if not _max_age_s() or {"no-store", "no-cache"} & directives.keys():
        return 0
    max_age = directives.get("max-age", "").strip('"')
    age = response.headers.get("age", "")
    lifetime_s = float(max_age) if max_age.isdecimal() else math.inf if "immutable" in directives else 0.0
    fresh_s = min(_max_age_s(), lifetime_s - (int(age) if age.isdecimal() else 0))
    return int(time.time() + fresh_s) if fresh_s > 0 else 0


def _max_age_s() -> float:
    return _number(MAX_AGE_VARIABLE, os.environ.get(MAX_AGE_VARIABLE, ""), 0.0, 0.0)


def _length_of(response: Response) -> str:
    length = response.headers.get("content-length", "")
    return length if length.isdecimal() else ""


def _conditions(known: UriStat | None) -> list[tuple[str, str]]:
    """Return the headers that ask for 304 where the known version is the current one."""
    text = known.version if known else ""
    if text.startswith(_ETAG) and text.isascii():
        return [("If-None-Match", text.removeprefix(_ETAG))]
    if text.startswith(_MODIFIED):
        return [("If-Modified-Since", text.removeprefix(_MODIFIED).rpartition(", ")[0])]
    return []


def _spaceless(uri: str) -> str:
    """Return an address whose spaces, which tables often leave as they are, are escaped."""
    return uri.replace(" ", "%20")


def _pipeline_fetcher() -> Fetcher:
    """Return this process's fetcher of what the catalogue names; a forked process needs its own connections."""
    variables = (os.environ.get(name, "") for name in (ALLOW_VARIABLE, CONNECTIONS_VARIABLE, RATE_VARIABLE))
    with _LOCK:
        return _make_fetcher(os.getpid(), *variables)


@lru_cache(maxsize=4)
def _make_fetcher(pid: int, allowed: str, n_connections: str, requests_per_s: str) -> Fetcher:
    defaults = HostLimits()
    limits = HostLimits(
        int(_number(CONNECTIONS_VARIABLE, n_connections, defaults.n_connections, 1)),
        _number(RATE_VARIABLE, requests_per_s, defaults.requests_per_s, 0),
    )
    return Fetcher(public_or_listed(allowed), uses_proxies=True, limits=limits)


def _number(name: str, text: str, default: float, least: float) -> float:
    """Return the number of a variable. Raises `BadConfig`."""
    try:
        number = float(text) if text.strip() else default
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise BadConfig(f"{name} is {text!r}; expected a number of at least {least:g}")
    return number
