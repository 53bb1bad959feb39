"""The search service on this machine: item queries, pictures against the bare engine, and a mixed load.

    python -m benchmarks.serving [--rows 22249] [--seconds 10] [--rounds 3] [--soak 60] [--workers 1] [--json FILE]

The release is made of drawn vectors with the default backbone. The service is a process of its own on loopback, the
callers are in this one. Pictures and the bare engine, which embeds the same pictures without decoding them, are
measured in turn; the median of the rounds counts. The mixed load moves production between two releases meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import faiss
import numpy as np

from benchmarks.measuring.drawn_release import DrawnRelease, publish_drawn
from benchmarks.serving.callers import call, post, post_picture
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import load_backbone, save_backbone
from retrieval_core.embed.engine import Engine, open_engine
from retrieval_core.images import decode, fit, thumbnail
from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

CALLERS = 16
N_PICTURES, PICTURE_PX = 32, 800
SWITCH_EVERY_S = 7.0  # the service looks every five seconds
START_S = 120.0


class Bench(NamedTuple):
    """The release and the pictures, and where the service answers."""

    store: Store
    drawn: DrawnRelease
    engine: Engine
    pictures: Sequence[bytes]
    process: subprocess.Popen[bytes]
    port: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=22_249)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, default=60.0, help="seconds of mixed load with switches of the release")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name, _started(Path(name), arguments.rows, arguments.workers) as bench:
        figures = {"rows": arguments.rows, "workers": arguments.workers, "cores": os.cpu_count()}
        figures |= _items(bench, arguments.seconds)
        figures |= _pictures(bench, arguments.seconds, arguments.rounds)
        figures |= _mixed(bench, arguments.soak)
    for key, value in figures.items():
        print(f"{key:28}{value:>12,.2f}" if isinstance(value, float) else f"{key:28}{value:>12}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _started(folder: Path, n_rows: int, workers: int) -> Iterator[Bench]:
    """Publish a release and start the service over its store."""
    settings = Settings.load(store=str(folder / "store"))
    store, files = settings.open_store(), folder / "backbone"
    files.mkdir()
    save_backbone(load_backbone(EmbedConfig(backbone="efficientnet_lite0")), files)
    engine = open_engine(files, settings.torch_device, settings.n_threads)
    parts = put_parts(store, f"{Backbone.folder}/bench", {file.name: file for file in sorted(files.iterdir())})
    size_px = engine.preprocess.size_px
    backbone = Backbone(fingerprint="bench", parts=parts, card=engine.card.name, dim=engine.dim, size_px=size_px)
    drawn = publish_drawn(store, folder, n_rows, engine.dim, backbone.seal(store).ref)
    drawn.release.model_copy(update={"fingerprint": "bench-2", "sha256": ""}).seal(store)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "deployments.cli.main", "serve", f"--store={settings.store}", f"--port={port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command, f"--workers={workers}"], stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", process)
        yield Bench(store, drawn, engine, _draw_pictures(), process, port)
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the service does not start") from error
            time.sleep(0.2)


def _draw_pictures() -> list[bytes]:
    """Return JPEGs of 800 x 600 pixels with as much detail as photographs have."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (N_PICTURES, 60, 80, 3)).astype(np.uint8)
    return [thumbnail(picture.repeat(10, 0).repeat(10, 1), PICTURE_PX) for picture in coarse]


def _items(bench: Bench, seconds: float) -> dict[str, float]:
    """Measure item queries: of many callers, and of one beside the same searches in this process."""
    requests = [_item_request(item_id) for item_id in bench.drawn.item_ids]
    call(bench.port, requests, CALLERS, 1.0)
    before = _cpu_s(bench.process.pid)
    many = call(bench.port, requests, CALLERS, seconds)
    cpu_s = _cpu_s(bench.process.pid) - before
    faiss.omp_set_num_threads(1)  # as in the service
    release = open_release(bench.store, settings=Settings.load(store=bench.store.url))
    queries = [Query(item_ids=(item_id,)) for item_id in bench.drawn.item_ids]
    inside = statistics.median(_ms(partial(release.search, query, 10, by_product=True)) for query in queries)
    alone = call(bench.port, requests, 1, min(seconds, 5.0))
    return {
        "items_per_s": many.per_s,
        "items_p95_ms": many.p95_ms,
        "items_failed": many.n_failed,
        "item_cpu_ms": 1e3 * cpu_s / max(1, round(many.per_s * seconds)),
        "item_in_process_ms": inside,
        "item_single_ms": alone.p50_ms,
    }


def _item_request(item_id: str) -> bytes:
    return post("/v1/search", json.dumps({"item_ids": [item_id]}).encode())


def _pictures(bench: Bench, seconds: float, rounds: int) -> dict[str, float]:
    requests = [post_picture("/v1/search", data) for data in bench.pictures]
    squares = np.stack([fit(decode(data), bench.engine.preprocess) for data in bench.pictures])
    call(bench.port, requests, CALLERS, 1.0)
    bare, served = [], []
    for _ in range(rounds):
        bare.append(_forward_rate(bench.engine, squares, seconds))
        served.append(call(bench.port, requests, CALLERS, seconds))
    rate = statistics.median(load.per_s for load in served)
    return {
        "pictures_per_s": rate,
        "pictures_p95_ms": statistics.median(load.p95_ms for load in served),
        "pictures_failed": sum(load.n_failed for load in served),
        "engine_per_s": statistics.median(bare),
        "of_the_engine": rate / statistics.median(bare),
    }


def _forward_rate(engine: Engine, squares: Any, seconds: float) -> float:
    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        engine.embed(squares)
        n += len(squares)
    return n / (time.perf_counter() - started)


def _mixed(bench: Bench, seconds: float) -> dict[str, float]:
    """Send items, filters and pictures while production moves between two releases."""
    requests = [_item_request(item_id) for item_id in bench.drawn.item_ids[:40]]
    requests += [post("/v1/search", b'{"item_ids":["sku-0000001"],"where":"category=dress","facets":["colour"]}')] * 4
    requests += [post_picture("/v1/search", data) for data in bench.pictures[:4]]
    call(bench.port, requests, CALLERS, min(seconds, 5.0))
    before, switches = _usage(bench.process.pid), _Switches(bench.store)
    load = call(bench.port, requests, CALLERS, seconds)
    n_switches = switches.end()
    after = _usage(bench.process.pid)
    return {
        "mixed_per_s": load.per_s,
        "mixed_p95_ms": load.p95_ms,
        "mixed_failed": load.n_failed,
        "mixed_switches": n_switches,
        "mixed_growth_mb": after[0] - before[0],
        "mixed_growth_descriptors": after[1] - before[1],
    }


class _Switches:
    """Moves production back and forth in a thread until `end`."""

    def __init__(self, store: Store) -> None:
        self._store, self._ended, self._n = store, threading.Event(), 0
        self._thread = threading.Thread(target=self._move)
        self._thread.start()

    def end(self) -> int:
        """Return how often production moved."""
        self._ended.set()
        self._thread.join()
        return self._n

    def _move(self) -> None:
        while not self._ended.wait(SWITCH_EVERY_S):
            self._n += 1
            releases.point_alias(self._store, releases.PRODUCTION, "bench-2" if self._n % 2 else "bench")


def _usage(pid: int) -> tuple[float, int]:
    """Return the memory of a process that no file backs, in MB, and its open descriptors."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    return own * 1024 / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process; where others compute, it says more than the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
