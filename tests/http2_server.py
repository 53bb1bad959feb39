"""A web server over TLS that speaks HTTP/2 only, one thread a connection."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h2.config
import h2.connection
import h2.events


class Http2Server:
    """Serves `files` by path; keeps the method and path of each request, by connection."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[list[tuple[str, str]]] = []
        self.url = ""

    def speak(self, stream: ssl.SSLSocket) -> None:
        """Answer the requests of one connection until the client closes it."""
        requests: list[tuple[str, str]] = []
        self.requests.append(requests)
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        state.initiate_connection()
        stream.sendall(state.data_to_send())
        unsent: dict[int, bytes] = {}
        while data := stream.recv(65_536):
            for event in state.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = dict(event.headers or ())
                    requests.append((headers[":method"], headers[":path"]))
                    body = self.files.get(headers[":path"])
                    status = "404" if body is None else "200"
                    is_head = headers[":method"] == "HEAD"
                    state.send_headers(event.stream_id or 0, [(":status", status), ("etag", '"1"')], end_stream=is_head)
                    unsent.update({} if is_head else {event.stream_id or 0: body or b"no such page"})
            self._send_bodies(state, unsent)
            stream.sendall(state.data_to_send())

    def _send_bodies(self, state: h2.connection.H2Connection, unsent: dict[int, bytes]) -> None:
        """Send what the client's windows allow."""
        for stream_id, body in list(unsent.items()):
            while body and (room := min(state.local_flow_control_window(stream_id), state.max_outbound_frame_size)):
                state.send_data(stream_id, body[:room])
                body = body[room:]
            unsent[stream_id] = body
            if not body:
                state.end_stream(stream_id)
                del unsent[stream_id]


@contextmanager
def serve_http2(certificate: Path) -> Iterator[Http2Server]:
    """Run a server until the context ends; the file has a certificate for 127.0.0.1 and its key."""
    server = Http2Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))
    server.url = f"https://127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        while True:
            try:
                plain = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=speak, args=(plain,), daemon=True).start()

    def speak(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                server.speak(stream)
        except OSError:
            pass  # the client went away

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
