"""The certificates of https addresses: warned of before they expire, and where browsers would refuse them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from retrieval_core.errors import BadConfig
from tasks.certificates import certificate_warnings
from tests.faults.s3_proxy import write_certificate


@contextmanager
def server(certificate: Path) -> Iterator[str]:
    """Answer handshakes with a certificate; yield the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                context.wrap_socket(connection, server_side=True).close()

        thread = Thread(target=answer)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/reports"
        thread.join()


@pytest.mark.parametrize(
    ("days", "is_known", "words"),
    [
        (20, True, None),
        (13, True, "expires in 13.0 days"),
        (20, False, "do not accept the certificate"),
        (-1, True, "certificate has expired"),
    ],
)
def test_a_certificate_is_warned_of_before_browsers_refuse_it(
    days: float, is_known: bool, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "shop.pem", days)
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with server(certificate) as url:
        warnings = list(certificate_warnings([url], days=14))
    assert [warning.kind for warning in warnings] == ["certificate"] * bool(words)
    assert all(warning.subject in url and words and words in warning.reason for warning in warnings)


def test_an_address_without_an_answer_is_a_warning_and_one_without_tls_an_error() -> None:
    (warning,) = certificate_warnings(["https://127.0.0.1:9"], days=14)
    assert "127.0.0.1:9 cannot be read" in warning.reason
    for url in ("http://shop.example", "shop.example", ""):
        with pytest.raises(BadConfig, match="expected https://HOST"):
            list(certificate_warnings([url], days=14))
