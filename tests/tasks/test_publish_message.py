"""After a nightly run, a mail and a webhook bring what the report says first, with two pictures."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.evaluate.report.sentences import PICTURE_FILES, Answer, FirstScreen
from retrieval_core.settings import Settings
from tasks import publish
from tasks.publish import REPORT_TO
from tests.core.sealed_runs import SealedRuns

PICTURES = dict(zip(PICTURE_FILES, (b"\xff\xd8one", b"\xff\xd8two"), strict=True))
SCREEN = FirstScreen(
    tone="held",
    title="Held back: 172 of 333 items are gone",
    answers=(Answer(question="Was it published?", text="No. Zürich shoppers search `another`.", about="verdict"),),
)
LINK = "https://vitrine.example/reports/e"
send = publish.send_first_screen.fn  # without Prefect
LINE = "Was it published?  No. Zürich shoppers search another."


class Mailbox(socketserver.StreamRequestHandler):
    """Just enough of SMTP (RFC 5321) to take a mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            verb = line.split()[0].upper()
            self.wfile.write({b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
            if verb == b"DATA":
                mail = b"".join(iter(self.rfile.readline, b".\r\n")).replace(b"\r\n..", b"\r\n.")
                self.server.received.append(mail)  # type: ignore[attr-defined]
                self.wfile.write(b"250 ok\r\n")
            elif verb == b"QUIT":
                return


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def listening(server: socketserver.TCPServer) -> Iterator[tuple[int, list[bytes]]]:
    """Give the port of a server and what it receives."""
    received: list[bytes] = []
    server.received = received  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def told(local_store, tmp_path) -> tuple[Settings, str, FirstScreen, str]:
    """A run whose report has two pictures."""
    release = SealedRuns(local_store).seal(["a"])
    parts = put_parts(local_store, f"{Report.folder}/told", PICTURES)
    report = Report(fingerprint="d" * 32, gate="held", gate_reason="", parts=parts).seal(local_store)
    release = release.model_copy(update={"fingerprint": "e" * 32, "report": report.ref}).seal(local_store)
    return Settings(store=str(local_store.url)), release.fingerprint, SCREEN, LINK


def test_a_mail_brings_the_sentences_and_two_pictures(told, monkeypatch):
    with listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)) as (port, mails):
        address = f"mailto://127.0.0.1:{port}?from=shop@shop.example&to=team@shop.example&mode=insecure&format=text"
        monkeypatch.setenv(REPORT_TO, address)
        send(*told)
    (received,) = mails
    mail = email.message_from_bytes(received, policy=email.policy.default)
    assert mail["Subject"] == SCREEN.title
    body = mail.get_body(("plain",)).get_content()
    assert LINE in body
    assert LINK in body
    assert {part.get_filename(): part.get_content() for part in mail.iter_attachments()} == PICTURES


def test_a_webhook_gets_the_same(told, monkeypatch):
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Webhook)) as (port, bodies):
        monkeypatch.setenv(REPORT_TO, f"json://127.0.0.1:{port}/morning")
        send(*told)
    (body,) = map(json.loads, bodies)
    assert body["title"] == SCREEN.title
    assert body["message"].splitlines() == [LINE, LINK]
    assert [base64.b64decode(shown["base64"]) for shown in body["attachments"]] == list(PICTURES.values())


def test_what_cannot_be_sent_is_logged_without_its_secret_and_others_are_told(told, monkeypatch, caplog):
    monkeypatch.setattr(publish, "get_run_logger", lambda: logging.getLogger("run"))
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Webhook)) as (port, bodies):
        monkeypatch.setenv(REPORT_TO, f"nobody://secret json://127.0.0.1:{port}/morning")
        send(*told)
    assert len(bodies) == 1
    messages = [record.message for record in caplog.records if record.name == "run"]
    assert messages == ["the report's first sentences could not be sent to nobody://…"]


def test_nobody_is_told_where_no_address_is_set(told, monkeypatch):
    monkeypatch.delenv(REPORT_TO, raising=False)
    send(*told)
