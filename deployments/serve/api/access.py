"""Who may ask, and how often: bearer tokens, of which only hashes are kept, and a rate for each of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.serve.api.problems import refuse
from retrieval_core.errors import BadConfig

OPEN = ("/livez", "/readyz")  # for probes, which carry no token
READ, EVENTS, METRICS = "read", "events", "metrics"
SCOPES = (READ, EVENTS, METRICS)
SCOPE_OF = {"/metrics": METRICS, "/v1/events": EVENTS}  # by path; of every other one READ
MAX_BUCKETS = 10_000  # clients whose rate is remembered
_LINE = re.compile(r"(?P<name>[\w.-]{1,64})\s+(?P<scopes>[a-z,]+)\s+(?P<sha256>[0-9a-f]{64})")

log = logging.getLogger("vitrine.serve")


class Token(NamedTuple):
    """A token by its hash: whose it is and what it may be used for."""

    name: str
    scopes: frozenset[str]
    sha256: str


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a file of lines `NAME SCOPES SHA256`; scopes are joined by commas, `#` begins a comment.

    Raises `BadConfig` for a file that cannot be read or has no token, and for the first line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"the token file {path} cannot be read: {error}") from error
    stripped = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    tokens = tuple(_token(path, number, line) for number, line in stripped if line)
    if not tokens:
        raise BadConfig(f"the token file {path} has no token; expected lines NAME {READ} SHA256")
    return tokens


def _token(path: Path, number: int, line: str) -> Token:
    match = _LINE.fullmatch(line)
    scopes = frozenset(match["scopes"].split(",")) if match else frozenset()
    if match is None or not scopes <= set(SCOPES):
        expected = f"NAME, then some of {', '.join(SCOPES)} with commas, then 64 hexadecimal digits"
        raise BadConfig(f"line {number} of the token file {path} is no token; expected {expected}")
    return Token(match["name"], scopes, match["sha256"])


class TokenFile:
    """The tokens of a file, read again when it changes; one that cannot be read leaves those before in force."""

    def __init__(self, path: Path) -> None:
        self._path, self._changed, self._tokens = path, _changed(path), read_tokens(path)

    def find(self, token: str) -> Token | None:
        """Return the token that a client sent, None for an unknown one; every comparison takes the same time."""
        self._follow()
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = [known for known in self._tokens if hmac.compare_digest(known.sha256, digest)]
        return found[0] if found else None

    def _follow(self) -> None:
        changed = _changed(self._path)
        if changed != self._changed:
            self._changed = changed
            try:
                self._tokens = read_tokens(self._path)
            except BadConfig as error:
                log.error("the tokens stay as they were: %s", error)


def _changed(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_ino


class Rates:
    """Token buckets: each client may send `per_s` requests a second, and as many at once as in `burst_s` seconds."""

    def __init__(self, per_s: float, burst_s: float = 2.0) -> None:
        self._per_s, self._size = per_s, max(1.0, per_s * burst_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def wait_s(self, client: str, now: float) -> float:
        """Take one request from the client's bucket, or return in how many seconds there will be one; 0 if taken."""
        left, then = self._buckets.pop(client, (self._size, now))
        left = min(self._size, left + (now - then) * self._per_s)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._per_s


class Access:
    """ASGI middleware that answers 401 without a token, 403 for one of another scope, 429 for too many requests.

    Without a token file every client may ask, and the rate is that of its address. Browsers ask their user for a token
    as a password and send it with everything that the page loads.
    """

    def __init__(self, app: ASGIApp, tokens: TokenFile | None, rate: float) -> None:
        self._app, self._tokens = app, tokens
        self._rates = Rates(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        client = (scope.get("client") or ("",))[0]
        if self._tokens:
            token = self._tokens.find(_sent_token(Headers(scope=scope).get("authorization", "")))
            if token is None:
                reason = "send a token that the service knows: Authorization: Bearer TOKEN"
                scheme = "Bearer" if scope["path"].startswith("/v1/") else 'Basic realm="Vitrine"'
                await refuse(401, reason, {"WWW-Authenticate": scheme})(scope, receive, send)
                return
            wanted = SCOPE_OF.get(scope["path"], READ)
            if wanted not in token.scopes:
                await refuse(403, f"the token is not one for {wanted}")(scope, receive, send)
                return
            client = scope["state"]["client_name"] = token.name
        wait_s = self._rates.wait_s(client, time.monotonic()) if self._rates else 0.0
        if wait_s:
            headers = _retry_after(wait_s)
            await refuse(429, "too many requests; send fewer a second", headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _sent_token(authorization: str) -> str:
    """Return the token of a header, "" if there is none; in one of a browser's user it is the password."""
    scheme, _, sent = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return sent.strip()
    try:
        return base64.b64decode(sent, validate=True).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _retry_after(wait_s: float) -> Mapping[str, str]:
    return {"Retry-After": str(math.ceil(wait_s))}
