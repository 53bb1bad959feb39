"""Measure how fast a catalogue's pictures are read from a web server, and what it costs when none of them changed.

    python -m benchmarks.ingest.web_pictures --pictures 20000 --latency-ms 50

The server is another process of this machine, which answers each request after the latency. Prints, for a first and an
unchanged run, the pictures a second, the requests a picture, and the bytes of pictures and of headers
sent.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import time
from collections import Counter
from multiprocessing.connection import Connection

import numpy as np
import polars as pl

from retrieval_core.config.stages import IngestConfig
from retrieval_core.images import thumbnail
from retrieval_core.ingest.snapshot import Snapshot, take_snapshot
from retrieval_core.ingest.sources.base import conform

SIZE_PX = 224
_PICTURES, _HEADERS, _SAME = "bytes of pictures", "bytes of headers", "not modified"
N_DISTINCT = 64  # pictures that are served, in turn


class _Server:
    def __init__(self, latency_s: float, port_pipe: Connection) -> None:
        self._latency_s, self._pipe = latency_s, port_pipe
        random = np.random.default_rng(0)
        noise = random.integers(0, 256, (N_DISTINCT, 14, 14, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
        self._pictures = [thumbnail(pixels, SIZE_PX) for pixels in noise]
        self._counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Send the port, then the counts since the last question for each message, until the message is empty."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self._pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(self._pipe.recv):
            self._pipe.send(self._counts)
            self._counts = Counter()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await self._head(reader)):
            method, path, *_ = head[0].split()
            await asyncio.sleep(self._latency_s)
            data = self._pictures[int(path.strip("/").removesuffix(".jpg")) % N_DISTINCT]
            etag = f'"{hashlib.md5(data).hexdigest()}"'
            is_known = f"if-none-match: {etag}" in (line.lower() for line in head)
            body = b"" if is_known or method == "HEAD" else data
            status = "304 Not Modified" if is_known else "200 OK"
            length = "" if is_known else f"Content-Length: {len(data)}\r\n"
            headers = f"HTTP/1.1 {status}\r\nETag: {etag}\r\n{length}\r\n".encode()
            self._counts += Counter({method: 1, _PICTURES: len(body), _HEADERS: len(headers), _SAME: int(is_known)})
            writer.write(headers + body)
            await writer.drain()
        writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> list[str]:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return []


def _run_server(latency_s: float, pipe: Connection) -> None:
    asyncio.run(_Server(latency_s, pipe).run())


def main() -> None:
    """Read the pictures twice and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    arguments = parser.parse_args()
    os.environ["VITRINE_FETCH_ALLOW"] = "127.0.0.1/32"
    pipe, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_run_server, args=(arguments.latency_ms / 1000, other), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{pipe.recv()}"
    names = [f"{number:06}" for number in range(arguments.pictures)]
    table = pl.DataFrame({"item_id": names, "image_uri": [f"{url}/{name}.jpg" for name in names]})
    rows = conform(table, "benchmark")
    previous: Snapshot | None = None
    for run in ("first", "unchanged"):
        start_s = time.perf_counter()
        previous = take_snapshot(rows, previous, IngestConfig(), "now")
        seconds = time.perf_counter() - start_s
        pipe.send("counts")
        counts = pipe.recv()
        n_bytes, n_header_bytes, n_same = (counts.pop(name, 0) for name in (_PICTURES, _HEADERS, _SAME))
        print(
            f"{run}: {len(rows) / seconds:,.0f} pictures/s, {counts.total() / len(rows):.3f} requests a picture "
            f"({', '.join(f'{method} {n:,}' for method, n in counts.items())}; {n_same:,} not modified), "
            f"{n_bytes / 1e6:,.1f} MB of pictures and {n_header_bytes / 1e6:,.1f} MB of headers sent, "
            f"{previous.n_read:,} read"
        )
    pipe.send("")


if __name__ == "__main__":
    main()
