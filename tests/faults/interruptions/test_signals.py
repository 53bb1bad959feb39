"""Ctrl-C, SIGTERM and a closed terminal at moments of a run: it ends at once, leaves no lease and no process, Prefect's
server knows of its end, and the store is intact and usable."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from retrieval_core.artifacts.releases import PRODUCTION, read_alias
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.uris import open_store
from tests.faults.processes import PATIENCE_S, Order, Run
from tests.faults.servers import until

SEED, N_MOMENTS = 7, 9
STAGES = ("ingest", "backbone", "embed", "head", "reduce", "index", "evaluate", "publish")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONFIG = (
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.size_px=16",
    "embed.background=raw",
    "head.max_epochs=2",
    "head.min_count=2",
    "reduce.dims=[8]",
    "evaluate.queries=6",
    "evaluate.synthetic_queries=4",
)


def leases(store: Path) -> list[Path]:
    return list(store.glob("runs/going/*"))


@pytest.fixture(scope="module", autouse=True)
def hangup_is_not_ignored() -> Iterator[None]:
    """Processes inherit an ignored SIGHUP, which the tests have under `nohup`."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, inherited)


@pytest.fixture(scope="module")
def first(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Order, float]:
    """A run that has ended, and the seconds that a run of a new catalogue takes."""
    folder = tmp_path_factory.mktemp("shop")
    source = f"synthetic:{folder / 'catalog'}?products=8&views=2&size_px=64"
    open_source(source).rows()
    order = Order(source, folder / "store", CONFIG, api_url, folder / "log")
    return order, Run(order).end()


@pytest.mark.parametrize("number", range(N_MOMENTS))
def test_a_signal_ends_a_run_at_once(first: tuple[Order, float], number: int, tmp_path: Path) -> None:
    order, seconds = first
    rng, sent = random.Random(f"{SEED}/{number}"), SIGNALS[number % len(SIGNALS)]
    run = Run(order._replace(store=tmp_path / "store", log=tmp_path / "log"))
    if number % 2:
        run.wait_for(rng.choice(STAGES))
    else:
        time.sleep(0.2 + rng.random() * seconds * 0.7)
    code = run.interrupt(sent)
    assert code == 128 + sent, run.log[-2000:]
    assert run.log.count("vitrine: interrupted") == 1
    assert "Traceback" not in run.log
    assert not leases(run.order.store)
    assert not run.orphans()
    if number % 2:
        assert state_in_prefect(run) == ("CANCELLED" if sent == signal.SIGINT else "CRASHED")
    if number >= N_MOMENTS - 2:
        Run(run.order).end()
        store = open_store(str(run.order.store))
        assert verify(store).ok
        finished, undisturbed = read_alias(store, PRODUCTION), read_alias(open_store(str(order.store)), PRODUCTION)
        assert finished
        assert undisturbed
        assert finished.release == undisturbed.release


def state_in_prefect(run: Run) -> str:
    run_ids = re.findall(r"/flow-run/([0-9a-f-]{36})", run.log)
    with temporary_settings({PREFECT_API_URL: run.order.api_url}), get_client(sync_client=True) as client:
        state = client.read_flow_run(run_ids[0]).state
    assert state is not None
    return state.type.name


def test_ctrl_c_in_a_terminal_ends_a_command_and_its_server(first: tuple[Order, float], tmp_path: Path) -> None:
    """The command runs in spite of a proxy that is down and a database that another version of Prefect wrote."""
    order, _ = first
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.executescript("create table alembic_version(version_num); insert into alembic_version values('ffff')")
    store, log = tmp_path / "store", tmp_path / "log"
    command = [sys.executable, "-m", "deployments.cli.main", "run", f"--source={order.source}", f"--store={store}"]
    environment = os.environ | {
        "VITRINE_CACHE_DIR": str(tmp_path / "cache"),
        "PREFECT_HOME": str(tmp_path),
        "http_proxy": "http://127.0.0.1:9",
        "MARK": str(tmp_path),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *(f"--set={key}" for key in CONFIG)],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    until(lambda: bool(leases(store)) or process.poll() is not None, "the run's lease")
    assert len(marked(tmp_path)) == 2, "the run and its server"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130, log.read_text()
    assert log.read_text().endswith("vitrine: interrupted; run the same command again to resume\n")
    assert not leases(store)
    until(lambda: not marked(tmp_path), "the server's end")


def marked(folder: Path) -> list[Path]:
    """Return the live processes with `MARK=folder` in their environment."""
    mark = f"MARK={folder}\0".encode()
    return [path for path in Path("/proc").glob("[0-9]*") if is_marked(path, mark)]


def is_marked(process: Path, mark: bytes) -> bool:
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and mark in (process / "environ").read_bytes()
    except OSError:
        return False
