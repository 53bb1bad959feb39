"""A client that sends or reads slowly loses its own connection and costs nobody else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments import listening
from deployments.listening import MAX_INCOMPLETE, BoundedBodies, bound_connections, listen

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
HALF_SENT = [
    b"",
    b"POST /",
    HEAD,
    HEAD + b"Content-Length: 10\r\n\r\nab",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
]


async def answer(request: Request) -> Response:
    size = len(await request.body())
    return Response(b"x" * 20_000_000 if "large" in request.url.path else str(size))


@contextmanager
def served(app: Any, **bounds: float) -> Iterator[int]:
    """Serve an app on loopback in a thread and yield the port."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(listening, name, value)
        config = uvicorn.Config(app, port=0, log_level="critical")
        bound_connections(config)
        with running(uvicorn.Server(config)) as port:
            yield port


@contextmanager
def running(server: uvicorn.Server) -> Iterator[int]:
    """Run a server in a thread and yield its port."""
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def app() -> Starlette:
    return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])


def drip(client: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client.sendall(b"a")
            time.sleep(0.02)


def is_closed(client: socket.socket) -> bool:
    client.settimeout(20)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def closes_the_oldest(port: int) -> bool:
    """Send one request more by halves than may be open, and return whether the first one makes room for the last."""
    with ExitStack() as stack:
        clients = []
        for _ in range(MAX_INCOMPLETE + 1):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            clients[-1].sendall(b"POST /")
        clients[0].settimeout(10)
        try:
            return clients[0].recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


def test_hundreds_of_half_sent_requests_do_not_keep_others_from_being_answered(app: Any) -> None:
    with served(app) as port, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        for n, client in enumerate(clients):
            client.sendall(HALF_SENT[n % len(HALF_SENT)])
        for size in (0, 1, 100_000):
            assert httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * size).text == str(size)
        assert all(is_closed(client) for client in clients[: 300 - MAX_INCOMPLETE - 3])
        late = clients[-2]
        assert late.send(b"a"), "the newest ones are still waited for"


@pytest.mark.parametrize("beginning", HALF_SENT)
def test_a_request_that_does_not_arrive_is_closed(beginning: bytes, app: Any) -> None:
    with served(app, REQUEST_S=0.2) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(beginning)
        assert is_closed(client)


def test_a_drip_of_bytes_does_not_keep_a_connection(app: Any) -> None:
    with served(app, REQUEST_S=0.2) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        threading.Thread(target=drip, args=(client,)).start()
        assert is_closed(client)


def test_a_large_body_gets_the_time_that_it_needs(app: Any) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(6):
            time.sleep(0.1)
            yield b"a" * 100_000

    with served(app, REQUEST_S=0.3) as port:
        assert httpx.post(f"http://127.0.0.1:{port}/", content=chunks()).text == "600000"


def test_a_client_that_does_not_read_is_closed(app: Any) -> None:
    with served(app, REQUEST_S=0.3) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(1)
        client.settimeout(20)
        n_read = 0
        with suppress(ConnectionResetError):
            while chunk := client.recv(1_000_000):
                n_read += len(chunk)
        assert n_read < 20_000_000


def test_a_connection_is_used_again_and_again(app: Any) -> None:
    with served(app, REQUEST_S=0.3) as port, httpx.Client() as client:
        for size in range(8):
            time.sleep(0.1)
            assert client.post(f"http://127.0.0.1:{port}/", content=b"a" * size).text == str(size)


def test_connections_beyond_the_limit_are_answered_that_there_are_too_many(app: Any) -> None:
    with served(app, MAX_CONNECTIONS=4) as port, ExitStack() as stack:
        url = f"http://127.0.0.1:{port}/"
        assert httpx.get(url).status_code == 200
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert httpx.get(url).status_code == 503


def test_bodies_are_bounded_one_by_one_and_together(app: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    def waiting() -> Iterator[bytes]:
        yield b"a" * 900
        entered.set()
        release.wait(20)

    with served(BoundedBodies(app, 1_000, 1_500)) as port:
        url = f"http://127.0.0.1:{port}/"
        assert httpx.post(url, content=b"a" * 1_000).status_code == 200
        assert httpx.post(url, content=b"a" * 1_001).status_code == 413
        assert httpx.post(url, content=iter([b"a" * 600] * 2)).status_code == 413
        statuses: list[int] = []
        first = threading.Thread(target=lambda: statuses.append(httpx.post(url, content=waiting()).status_code))
        first.start()
        entered.wait(20)
        end = time.monotonic() + 20
        while httpx.post(url, content=b"a" * 700).status_code != 503:
            assert time.monotonic() < end
        release.set()
        first.join()
        assert statuses == [200]
        assert httpx.post(url, content=b"a" * 900).status_code == 200, "the bodies answered count no longer"


def test_the_connections_of_a_listener_send_small_answers_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
