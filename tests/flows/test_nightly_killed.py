"""A run killed with SIGKILL during embedding is picked up where it stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.store.uris import open_store

N_PARTS = 12
PARTS = "vectors/*/parts/*.parquet"
COMMAND = [
    "--set=embed.backbone=pca_pixels",
    "--set=embed.weights=fit:0",
    "--set=embed.size_px=16",
    "--set=embed.shard_rows=4",
    "--set=embed.background=raw",
    "--set=evaluate.queries=10",
    "--set=evaluate.synthetic_queries=4",
    "--set=head.enabled=false",
    "--set=reduce.dims=[8]",
]


def run(source: str, store: Path) -> list[str]:
    return [sys.executable, "-m", "deployments.cli.main", "run", f"--source={source}", f"--store={store}", *COMMAND]


def parts(store: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every vector part, by its place in the store."""
    found = store.glob(PARTS)
    return {str(path.relative_to(store)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def processes() -> list[tuple[int, int, str]]:
    """Process id, parent's id and command of every process."""
    listed = subprocess.run(["ps", "-axwwo", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [(int(row[0]), int(row[1]), row[-1]) for row in rows]


def children(parent: int, name: str) -> set[int]:
    return {pid for pid, parent_id, command in processes() if parent_id == parent and name in command}


def test_completed_shards_are_not_computed_twice(tmp_path: Path) -> None:
    source = f"synthetic:{tmp_path / 'catalog'}?products={N_PARTS}&views=4&size_px=64"
    open_source(source).rows()
    killed = tmp_path / "killed"

    with subprocess.Popen(run(source, killed), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300

        def wait_for(n: int, files: str) -> None:
            while len([*killed.glob(files)]) < n and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)

        wait_for(1, "catalogs/*/manifest.json")
        servers = children(process.pid, "prefect.server")
        wait_for(2, PARTS)
        process.kill()
    before = parts(killed)
    assert 2 <= len(before) < N_PARTS, "the run was to be killed half way through embedding"
    assert not open_store(str(killed)).exists("aliases/production")

    assert len(servers) == 1
    while servers & {pid for pid, _, _ in processes()} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not servers & {pid for pid, _, _ in processes()}, "the embedded server ends with the run"

    subprocess.run(run(source, killed), check=True, capture_output=True)

    after = parts(killed)
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before
    assert open_store(str(killed)).exists("aliases/production")
