"""Prefect's server or its database is restarted during a run: the run succeeds, and nothing is made twice."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.status import last_run
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.uris import open_store
from tests.faults.processes import Order, Run
from tests.faults.servers import Postgres, PrefectServer, Server, has_postgres, until

N_PICTURES = 48
SHARD_ROWS = 2
N_SHARDS = N_PICTURES // SHARD_ROWS
DOWN_S = 4.0  # so that requests are refused, not merely slow
CONFIG = (
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.size_px=16",
    "embed.background=raw",
    f"embed.shard_rows={SHARD_ROWS}",
    "head.enabled=false",
    "reduce.dims=[8]",
    "evaluate.queries=4",
    "evaluate.synthetic_queries=4",
)


@contextmanager
def serving(folder: Path, database_url: str = "") -> Iterator[PrefectServer]:
    server = PrefectServer(folder, database_url)
    try:
        server.start()
        yield server
    finally:
        server.kill(signal.SIGKILL)


def parts(store: Path) -> dict[str, int]:
    """Return when each part was written, by its key."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("vectors/*/parts/*")}


def flow_runs(server: PrefectServer) -> list[dict[str, Any]]:
    with temporary_settings({PREFECT_API_URL: server.api_url}), get_client(sync_client=True) as client:
        return [run.model_dump(mode="json") for run in client.read_flow_runs()]


def run_through_restart(server: PrefectServer, away: Server, how: signal.Signals, folder: Path) -> None:
    """Run while `away` is ended during the embedding and started again a little later."""
    source = f"synthetic:{folder / 'catalog'}?products={N_PICTURES // 2}&views=2&size_px=64"
    open_source(source).rows()
    store, n_before = folder / "store", len(flow_runs(server))
    run = Run(Order(source, store, CONFIG, server.api_url, folder / "log"))
    until(lambda: len(parts(store)) >= 2 or not run.is_alive, "embedding")
    before = parts(store)
    away.kill(how)
    assert len(before) < N_SHARDS, "it must be ended in the middle of embedding"
    time.sleep(DOWN_S)
    away.start()
    run.end()

    after = parts(store)
    assert {key: after[key] for key in before} == before
    made = re.findall(rf"'embed: pictures (\d+)/{N_SHARDS}' - Finished in state Completed", run.log)
    assert sorted(map(int, made)) == list(range(1, N_SHARDS + 1)), "no shard was made twice"
    summary = last_run(open_store(str(store)))
    assert summary is not None
    assert (summary["gate"], summary["embedded"]) == ("published", N_PICTURES)
    assert verify(open_store(str(store))).ok
    until(lambda: {run["state_name"] for run in flow_runs(server)} == {"Completed"}, "the record of the run's end")
    assert len(flow_runs(server)) == n_before + 1


@pytest.fixture(scope="module")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_prefect_server_is_restarted_in_mid_run(
    sqlite_server: PrefectServer, how: signal.Signals, tmp_path: Path
) -> None:
    run_through_restart(sqlite_server, sqlite_server, how, tmp_path)


@pytest.mark.skipif(not has_postgres(), reason="no PostgreSQL here: `make test` installs Debian's")
def test_postgresql_is_restarted_in_mid_run(tmp_path: Path) -> None:
    database = Postgres()
    try:
        database.start()
        with serving(tmp_path, database.url) as server:
            run_through_restart(server, database, signal.SIGKILL, tmp_path)
    finally:
        database.remove()
