"""The same night in a pool of two worker processes, one of which is lost; errors, deaths, and pools without workers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from benchmarks.scaling.pool_workers import PoolWorkers
from benchmarks.scaling.watching import once
from deployments.cli.main import main
from flows.nightly import nightly
from flows.run import RUNNER, holds_lease
from flows.shards import engines, work_pools
from flows.shards.engines import each_shard
from flows.shards.make_shards import TASKS, make_shards
from flows.shards.orders import write_orders
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.artifacts.shards import ORDERS, Target, WorkPlan
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import ImageRefused, Permanent, VitrineError
from retrieval_core.evaluate.search_shards import Machines
from retrieval_core.maintenance.verify import verify
from retrieval_core.settings import Pools, Settings
from tests.flows.shards.noted_shards import Noted, Wishes, note_shard

CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.shard_rows=4",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
        "mask.max_epochs=1",
        "mask.shard_rows=8",
        "head.enabled=false",
        "reduce.dims=[8]",
        "index.shards=1",
        "evaluate.queries=4",
        "evaluate.synthetic_queries=4",
    ],
)
N_SHARDS = 6
PLAN = WorkPlan(
    targets=(Target(folder="vectors", family="f"),),
    key="k",
    shards=tuple((f"{number:016x}",) for number in range(N_SHARDS)),
)
REF = Ref(kind="VectorSet", key="vectors/é/1")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _few_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a worker: the process of each takes seconds to start."""
    monkeypatch.setattr(work_pools, "RANGES_PER_SLOT", 1)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolWorkers]:
    with PoolWorkers(tmp_path_factory.mktemp("cpu"), "cpu") as pool:
        pool.start_workers(2)
        yield pool


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolWorkers]:
    """A pool with one worker, whose runs make the shards of the index by `note_shard`."""
    with PoolWorkers(tmp_path_factory.mktemp("noted"), "noted") as pool:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("make-shards/noted")
            entrypoint = {"entrypoint": "tests/flows/shards/noted_worker.py:make_shards"}
            client.request("PATCH", f"/deployments/{deployment.id}", json=entrypoint)
        pool.start_workers(1)
        yield pool


@pytest.fixture
def settings(noted: PoolWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(TASKS, "index", note_shard)
    return Settings.load(store=str(tmp_path), runner="pools", pools="index=noted,default=local")


@flow(name="note shards", task_runner=RUNNER)
@holds_lease
def note_shards(settings: Settings, wishes: Wishes) -> list[Noted]:
    return each_shard(note_shard, settings, PLAN, wishes, REF)


def files(store: Path) -> dict[str, bytes]:
    """Every stored part, by its place in the store."""
    folders = ("masks/*/parts/*", "vectors/*/parts/*", "indexes/shards/*/*/*")
    return {str(path.relative_to(store)): path.read_bytes() for folder in folders for path in store.glob(folder)}


def made(store: Path) -> list[int]:
    return [int(line.split()[0]) for line in (store / "made").read_text().splitlines()]


def runs_of_pool(pool: str) -> list[FlowRun]:
    """The runs of a pool's deployment, the oldest first."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"make-shards/{pool}")
        question = {"deployments": {"id": {"any_": [str(deployment.id)]}}, "sort": "EXPECTED_START_TIME_ASC"}
        answer = client.request("POST", "/flow_runs/filter", json=question)
    return [FlowRun.model_validate(run) for run in answer.json()]


def test_two_workers_make_the_bytes_of_one_machine_though_one_is_lost(
    cpu: PoolWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engines, "Machines", partial(Machines, min_pairs=48 * 48, shard_rows=24)
    )  # one search: of every row
    source = f"synthetic:{tmp_path / 'catalog'}?products=12&views=4&size_px=96"
    alone = Settings.load(store=str(tmp_path / "alone"), threads=1)
    together = Settings.load(
        store=str(tmp_path / "together"),
        threads=1,
        runner="pools",
        pools="embed=cpu,index=cpu,evaluate=cpu,default=local",
    )
    expected = nightly(source, alone, CONFIG)
    shutil.copytree(tmp_path / "alone" / "segmenters", tmp_path / "together" / "segmenters")  # no shards of it

    with once(lambda: any((tmp_path / "together").glob("vectors/*/parts/*")), cpu.lose_worker):
        run = nightly(source, together, CONFIG)
    assert (run.release, run.embedded, run.masked) == (expected.release, expected.embedded, expected.masked)
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    assert list((tmp_path / "together").glob("vectors/*/plans/*/found-*.parquet")), "evaluation had shards, too"
    assert verify(together.open_store()).ok
    assert not list((tmp_path / "together" / ORDERS).rglob("*.json")), "orders end with their run"
    states = [run.state_type for run in runs_of_pool("cpu")]
    assert states.count(StateType.CRASHED) == 1
    assert set(states) == {StateType.CRASHED, StateType.COMPLETED}


def test_results_come_back_in_the_order_of_the_shards(settings: Settings, tmp_path: Path) -> None:
    results = note_shards(settings, Wishes(deadly=2))
    assert [(noted.number, noted.counts, noted.rejects[0].item_id) for noted in results] == [
        (number, {"raw": number}, f'"é {number}"') for number in range(N_SHARDS)
    ]
    assert made(tmp_path) == [0, 1, 2, 2, 3, 4, 5], "what was made before the process died is not made again"


def test_a_process_takes_over_the_ranges_that_wait_and_its_death_costs_only_the_shard_in_its_hands(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_pools, "RANGES_PER_SLOT", 3)
    n_before = len(runs_of_pool("noted"))
    results = note_shards(settings, Wishes(deadly=2))
    assert [noted.number for noted in results] == list(range(N_SHARDS))
    assert sorted(made(tmp_path)) == [0, 1, 2, 2, 3, 4, 5]
    pids = [line.split()[1] for line in (tmp_path / "made").read_text().splitlines()]
    assert len(set(pids[:3])) == 1, "the process of the first range died in the second"
    states = [run.state_name for run in runs_of_pool("noted")[n_before:]]
    assert set(states) == {"Crashed", "TakenOver", "Completed"}


def test_a_shard_that_fails_fails_the_run_with_its_message_and_cancels_the_other_ranges(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_pools, "RANGES_PER_SLOT", 2)
    with pytest.raises(ImageRefused, match=r"^shard 2 of 6 cannot be made$"):
        note_shards(settings, Wishes(refused=1))
    assert made(tmp_path) == [0, 1]
    failed, cancelled = runs_of_pool("noted")[-2:]
    assert (failed.state_type, failed.name) == (StateType.FAILED, "index, shards 1 to 3 of 6")
    assert (cancelled.state_type, cancelled.name) == (StateType.CANCELLED, "index, shards 4 to 6 of 6")


def test_a_shard_that_kills_every_process_ends_the_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_pools, "MAX_DEATHS", 1)
    with pytest.raises(Permanent, match=r"1 processes ended at shard 1 of 6 of index, shards 1 to 6 of 6"):
        note_shards(settings, Wishes(deadly=0, n_deaths=9))
    assert made(tmp_path) == [0]


@pytest.mark.parametrize("left", ["its order", "nothing"])
def test_a_range_without_the_run_that_waits_for_it_is_cancelled(left: str, settings: Settings, tmp_path: Path) -> None:
    key = f"{ORDERS}/{uuid4().hex}/plans/0000.json"
    if left == "its order":
        calls = [(settings, shard, Wishes(), REF) for shard in PLAN.split()]
        key = write_orders(settings.open_store(), "index", note_shard, "runs/going/run-killed", calls, 1)[0].key
    state = make_shards(Settings.load(store=str(tmp_path)), key, return_state=True)
    assert state.is_cancelled()
    assert "the run that it is part of has ended" in str(state.message)
    assert not (tmp_path / "made").exists()


@pytest.fixture
def idle_pool() -> str:
    """A pool that no worker takes runs from, and without a deployment."""
    name = f"idle-{uuid4().hex}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return name


@contextmanager
def worker_that_forgets(pool: str) -> Iterator[None]:
    """Take every run of a pool, and start none."""
    over = threading.Event()

    def take_runs() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(0.1):
                client.send_worker_heartbeat(pool, "forgetful")
                for run in runs_of_pool(pool):
                    if run.state_type == StateType.SCHEDULED:
                        client.set_flow_run_state(run.id, Pending())

    worker = threading.Thread(target=copy_context().run, args=(take_runs,))  # Prefect's settings are of the context
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


@pytest.mark.parametrize(
    ("worker", "says"),
    [
        (nullcontext, "has had no worker"),
        (worker_that_forgets, "2 processes ended at shard 1 .* Its worker never started it"),
    ],
)
def test_ranges_that_nobody_starts_end_the_run(
    worker: Callable[[str], AbstractContextManager[None]],
    says: str,
    idle_pool: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_pools, "PATIENCE_S", 0.1)
    monkeypatch.setattr(work_pools, "MAX_DEATHS", 2)
    waiting = settings.model_copy(update={"pools": Pools(default=idle_pool)})
    with PoolWorkers(tmp_path / "log", idle_pool), worker(idle_pool), pytest.raises(VitrineError, match=says):
        note_shards(waiting, Wishes())
    assert {run.state_type for run in runs_of_pool(idle_pool)} <= {StateType.CANCELLED, StateType.CRASHED}


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize("missing", ["server", "pool", "deployment", "worker"])
def test_nothing_is_read_for_a_run_whose_shards_nobody_can_make(
    command: str,
    missing: str,
    idle_pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if missing == "worker":
        PoolWorkers(tmp_path / "log", idle_pool).__enter__()
    monkeypatch.setenv("VITRINE_RUNNER", "pools")
    monkeypatch.setenv("VITRINE_POOLS", "default=absent" if missing == "pool" else f"default={idle_pool}")
    source = f"synthetic:{tmp_path / 'catalog'}?products=2&views=1&size_px=64"
    arguments = [command, f"--source={source}", f"--store={tmp_path / 'store'}"]
    comparison = Path(__file__).parents[3] / "configs" / "compare" / "retrieval_report.toml"
    arguments += [f"--config={comparison}"] if command == "compare" else ["--set=embed.weights=random:0"]
    with temporary_settings(restore_defaults={PREFECT_API_URL} if missing == "server" else None):
        assert main(arguments) == 2
    says = {
        "server": "set PREFECT_API_URL",
        "pool": "python -m deployments.register",
        "deployment": "python -m deployments.register",
        "worker": f"python -m deployments.worker --pool {idle_pool} --limit 1",
    }
    assert says[missing] in capsys.readouterr().err
    assert not (tmp_path / "catalog").exists()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
