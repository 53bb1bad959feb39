"""The certificates of https addresses: how long each is still valid."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.health import HealthWarning

TIMEOUT_S = 10.0
DAY_S = 86_400.0


def certificate_warnings(urls: Iterable[str], days: float) -> Iterator[HealthWarning]:
    """Yield a warning for each https address whose certificate expires within `days`, or is not accepted.

    Accepted are the authorities of this machine and of `SSL_CERT_FILE`. Raises `BadConfig` for another address.
    """
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise BadConfig(f"{url!r} has no certificate; expected https://HOST or https://HOST:PORT")
        host, port = parts.hostname, parts.port or 443
        reason = _reason(host, port, days)
        if reason:
            yield HealthWarning(kind="certificate", subject=f"{host}:{port}", reason=reason)


def _reason(host: str, port: int, days: float) -> str:
    """Return what is wrong with a certificate, "" if nothing is."""
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as connection,
            ssl.create_default_context().wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return f"Browsers do not accept the certificate of {host}:{port}: {error.verify_message}."
    except OSError as error:
        return f"The certificate of {host}:{port} cannot be read: {error}."
    days_left = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / DAY_S
    return f"The certificate of {host}:{port} expires in {days_left:.1f} days." if days_left < days else ""
