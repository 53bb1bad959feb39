"""Ctrl-C, SIGTERM and a closed terminal at moments of every command.

It ends at once and leaves no lease, no process and no temporary folder; Prefect's server knows of its end, and the
store is intact and usable. `TEST_SIGNALS=200` draws more moments.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.uris import open_store
from tests.faults.processes import PATIENCE_S, Order, Run
from tests.faults.servers import free_port, until

SEED, N_MOMENTS = 7, int(os.environ.get("TEST_SIGNALS", "14"))
STAGES = ("ingest", "backbone", "embed", "head", "reduce", "index", "evaluate", "publish")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OLD_STORE = Path(__file__).parents[2] / "fixtures" / "store-format-1.tar.xz"
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
SET = " ".join(f"--set={key}" for key in CONFIG)
COMPARISON = """
title = "Two widths"
[defaults]
backbone = "pca_pixels"
weights = "fit:0"
size_px = 16
[evaluate]
queries = 6
[[variants]]
name = "plain"
[[variants]]
name = "narrow"
dim = 4
[[tables]]
title = "Both"
metrics = ["map@5"]
"""


class Command(NamedTuple):
    """Arguments of the command line with the names of what `prepare` makes, and the seconds that they take about.

    A program imports what it needs, which is part of what is interrupted; others have imported it.
    """

    arguments: str
    seconds: float
    is_program: bool = False


TRAIN = "train backbone rotation -v --source={source} --store={store} --name=ours --set=size_px=32 --set=max_epochs=2"
COMMANDS = {
    "run": Command(f"run -v --source={{source}} --store={{store}} {SET}", 4),
    "train": Command(TRAIN, 4),
    "compare": Command("compare -v --source={source} --store={store} --config={comparison}", 4),
    "backfill": Command(f"backfill -v --source={{source}} --store={{store}} {SET} --set=embed.size_px=20", 4),
    "repair": Command("repair --store={store}", 2, is_program=True),
    "vacuum": Command("vacuum --store={store} --keep=1 --older-than-days=0 --safe-hours=0", 2, is_program=True),
    "backup": Command("backup --store={store} --to={other}", 2, is_program=True),
    "restore": Command("restore --store={other} --from={store}", 2, is_program=True),
    "migrate": Command("migrate --store={old} --apply", 2, is_program=True),
    "search": Command("search --store={store} --image={picture}", 2, is_program=True),
    "app": Command("app --store={store} --port={port}", 10, is_program=True),
    "verify": Command("verify --store={store} --all", 2, is_program=True),
    "report": Command("report --store={store}", 3, is_program=True),
    "a run in a new process": Command(f"run --source={{source}} --store={{other}} {SET}", 10, is_program=True),
}


class Shop(NamedTuple):
    """A drawn catalogue and a store with two releases of it."""

    source: str
    store: Path
    api_url: str

    def prepare(self, name: str, folder: Path) -> Order:
        """Return the order of a command on a copy of the store, which is damaged for a repair and empty for a run."""
        names = {"source": self.source, "store": folder / "store", "other": folder / "other", "old": folder / "old"}
        names |= {"comparison": folder / "comparison.toml", "port": free_port()}
        names |= {"picture": min(Path(self.source.partition(":")[2].partition("?")[0], "images").iterdir())}
        (folder / "comparison.toml").write_text(COMPARISON)
        if name != "run":
            shutil.copytree(self.store, folder / "store")
        if name == "repair":
            for file in filter(Path.is_file, (folder / "store" / "indexes" / "shards").rglob("*")):
                file.write_bytes(b"damaged")
        if name == "migrate":
            with tarfile.open(OLD_STORE) as archive:
                archive.extractall(folder / "old", filter="data")
        command = COMMANDS[name]
        words = tuple(command.arguments.format(**names).split())
        store = next(Path(word.partition("=")[2]) for word in words if word.startswith("--store="))
        return Order(self.source, store, (), self.api_url, folder / "log", command=words, is_program=command.is_program)


def leases(store: Path) -> list[Path]:
    return list(store.glob("runs/going/*"))


@pytest.fixture(scope="module", autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """Processes inherit ignored signals: the tests ignore SIGHUP under `nohup`, and SIGINT in a script's background."""
    inherited = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in inherited.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def shop(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    source = f"synthetic:{folder / 'catalog'}?products=8&views=2&size_px=64"
    open_source(source).rows()
    for config in (CONFIG, (*CONFIG, "embed.size_px=24", "gate.mode=off")):
        Run(Order(source, folder / "store", config, api_url, folder / "log")).end()
    return Shop(source, folder / "store", api_url)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(N_MOMENTS))
def test_a_signal_ends_a_command_at_once(shop: Shop, number: int, tmp_path: Path) -> None:
    rng, name = random.Random(f"{SEED}/{number}"), [*COMMANDS][number % len(COMMANDS)]
    number_of_round, sent = number // len(COMMANDS), rng.choice(SIGNALS)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    order = shop.prepare(name, tmp_path)
    run = Run(order._replace(temporary=temporary))
    until(lambda: run.handles_signals or not run.is_alive, "the start")
    if name == "run" and number_of_round % 2:
        run.wait_for(rng.choice(STAGES))
    else:
        time.sleep(rng.random() * COMMANDS[name].seconds)
    sent_s = time.monotonic()
    code = run.interrupt(sent)
    print(f"{name}: {sent.name} in {run.stage or 'no stage'}: {code} after {time.monotonic() - sent_s:.2f} s")
    assert code in (0, 128 + sent, -sent), run.log[-2000:]  # -sent: while Python exits, after the command has ended
    assert run.log.count("vitrine: interrupted") == (code == 128 + sent)
    assert "Traceback" not in run.log
    assert not leases(order.store)
    assert not run.orphans()
    if code == 128 + sent and run.stage and not order.is_program:
        assert state_in_prefect(run) in ("CANCELLED" if sent == signal.SIGINT else "CRASHED", "COMPLETED")
    assert not marked(order.store)
    assert not [*temporary.iterdir()]
    if name not in ("run", "repair", "restore", "a run in a new process"):
        assert verify(open_store(str(order.store))).ok
    if name not in ("app", "train"):  # the one serves for ever, of the other only the export takes long
        Run(order._replace(is_program=False)).end()
        assert verify(open_store(str(order.store))).ok


def state_in_prefect(run: Run) -> str:
    run_ids = re.findall(r"/flow-run/([0-9a-f-]{36})", run.log)
    with temporary_settings({PREFECT_API_URL: run.order.api_url}), get_client(sync_client=True) as client:
        state = client.read_flow_run(run_ids[0]).state
    assert state is not None
    return state.type.name


def test_ctrl_c_in_a_terminal_ends_a_command_and_its_server(shop: Shop, tmp_path: Path) -> None:
    """The command runs in spite of a proxy that is down and a database that another version of Prefect wrote."""
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.executescript("create table alembic_version(version_num); insert into alembic_version values('ffff')")
    store, log = tmp_path / "store", tmp_path / "log"
    command = [sys.executable, "-m", "deployments.cli.main", "run", f"--source={shop.source}", f"--store={store}"]
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
