"""Callers of an HTTP service: each sends the next request as soon as its last one is answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Load(NamedTuple):
    """What the callers saw: answers a second, their latencies and how many had which status (0: no answer)."""

    per_s: float
    p50_ms: float
    p95_ms: float
    statuses: dict[int, int]

    @property
    def n_failed(self) -> int:
        """Answers other than 200."""
        return sum(n for status, n in self.statuses.items() if status != 200)


def call(port: int, requests: Sequence[bytes], n_callers: int, seconds: float) -> Load:
    """Send requests, one after the other and again from the first, over a connection for each caller."""
    return asyncio.run(_call(port, requests, n_callers, seconds))


async def _call(port: int, requests: Sequence[bytes], n_callers: int, seconds: float) -> Load:
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    turns = itertools.cycle(requests)
    end = time.perf_counter() + seconds

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                status = await _answer(reader, writer, next(turns))
            except (OSError, EOFError):
                status = 0
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            statuses[status] += 1
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(caller() for _ in range(n_callers)))
    p50, p95 = (1e3 * float(np.quantile(latencies, share)) for share in (0.5, 0.95))
    return Load(statuses[200] / seconds, p50, p95, dict(statuses))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head[9:12])


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return a request as it is sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def post_picture(path: str, data: bytes) -> bytes:
    """Return a request with a picture as a file of a form."""
    head = b'--part\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return post(path, head + data + b"\r\n--part--\r\n", "multipart/form-data; boundary=part")
