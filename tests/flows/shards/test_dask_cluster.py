"""The same night on two worker processes; a worker that dies, and a cluster that is not there."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import pytest
from prefect import Task, flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.scaling.dask_cluster import ROOT, DaskCluster
from deployments.cli.main import main
from flows.nightly import nightly
from flows.run import RUNNER
from flows.shards import dask_cluster, engines
from flows.shards.engines import each_shard, in_shards
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.artifacts.shards import Target, WorkPlan, WorkShard
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.config.stages import IndexConfig, NightlyConfig
from retrieval_core.errors import BadConfig, ImageRefused
from retrieval_core.evaluate.analysis.analyse import QUERIES_FILE
from retrieval_core.evaluate.measure.kept_searches import LISTS_FILE, ROWS_FILE
from retrieval_core.evaluate.search_shards import Machines, SearchShard
from retrieval_core.index.recipes import choose_recipe
from retrieval_core.index.versions import IndexPlan
from retrieval_core.maintenance.verify import verify
from retrieval_core.settings import Settings
from tasks.stage import stage

N_WORKERS = 2
MAX_MESSAGE_BYTES = 10_000
MAX_SENT_BYTES = 60_000  # with what Prefect adds, most of it the form of the flow
CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.shard_rows=8",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
        "mask.max_epochs=1",
        "mask.shard_rows=8",
        "head.max_epochs=1",
        "head.min_count=2",
        "reduce.dims=[8]",
        "index.shards=2",
        "evaluate.queries=4",
        "evaluate.synthetic_queries=4",
    ],
)
PLAN = WorkPlan(
    targets=(Target(folder="vectors", family="f"),), key="k", shards=tuple((f"{number:016x}",) for number in range(6))
)

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with DaskCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(started: DaskCluster) -> DaskCluster:
    started.start_workers(N_WORKERS)
    return started


class Messages(NamedTuple):
    """What goes to the cluster for each shard, what comes back of it, and how many bytes Prefect makes of the first."""

    asked: list[dict[str, Any]]
    answered: list[Any]
    sent_bytes: list[int]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Messages:
    """All of one test."""
    from distributed import Client
    from prefect_dask import DaskTaskRunner

    seen = Messages([], [], [])
    submit, send = DaskTaskRunner.submit, Client.submit

    def asked(self: DaskTaskRunner, task: Task[..., Any], parameters: dict[str, Any]) -> Any:
        seen.asked.append(parameters)
        seen.answered.append(submit(self, task, parameters))
        return seen.answered[-1]

    def sent(self: Client, function: Callable[..., Any], **arguments: Any) -> Any:
        seen.sent_bytes.append(len(cloudpickle.dumps((function, arguments))))
        return send(self, function, **arguments)

    monkeypatch.setattr(DaskTaskRunner, "submit", asked)
    monkeypatch.setattr(Client, "submit", sent)
    return seen


def files(store: Path) -> dict[str, bytes]:
    """Every stored part, by its place in the store."""
    folders = ("masks/*/parts/*", "vectors/*/parts/*", "indexes/shards/*/*/*")
    return {str(path.relative_to(store)): path.read_bytes() for folder in folders for path in store.glob(folder)}


def searched(store: Path) -> list[bytes]:
    """What the report of a store says of each query, and its neighbours."""
    return [
        path.read_bytes()
        for name in (QUERIES_FILE, ROWS_FILE, LISTS_FILE)
        for path in store.glob(f"reports/*/*/{name}")
    ]


def test_two_workers_make_the_bytes_that_one_machine_makes(
    cluster: DaskCluster, messages: Messages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "Machines", partial(Machines, min_pairs=1, shard_rows=20))
    source = f"synthetic:{tmp_path / 'catalog'}?products=12&views=4&size_px=96"
    alone = Settings.load(store=str(tmp_path / "alone"), threads=1)
    together = Settings.load(store=str(tmp_path / "together"), threads=1, runner="dask", dask_address=cluster.address)
    expected = nightly(source, alone, CONFIG)
    shutil.copytree(tmp_path / "alone" / "segmenters", tmp_path / "together" / "segmenters")  # no shards of it
    assert not messages.asked
    run = nightly(source, together, CONFIG)
    assert (run.release, run.embedded, run.masked) == (expected.release, expected.embedded, expected.masked)
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    assert len(files(tmp_path / "together")) > 3 * 48 / 8
    assert searched(tmp_path / "together") == searched(tmp_path / "alone")
    assert verify(together.open_store()).ok

    derived = {wanted.variant for asked in messages.asked for wanted in getattr(asked["shard"], "sets", ())}
    assert derived == {Variant("raw", boosted=True), Variant("masked", boosted=True), Reduced(8)}

    sources = {shard.source for asked in messages.asked if isinstance(shard := asked["shard"], SearchShard)}
    assert len(sources) == 5, "every representation was searched in shards"

    sizes = [len(pickle.dumps(asked)) for asked in messages.asked]
    sizes += [len(pickle.dumps(future.result())) for future in messages.answered]
    assert len(sizes) >= 2 * 48 / 8, "masks and vectors were made on the cluster"
    assert max(sizes) < MAX_MESSAGE_BYTES, "vectors went through the scheduler"
    assert max(messages.sent_bytes) < MAX_SENT_BYTES, "what Prefect adds grew"


@stage("note shard")
def note_shard(settings: Settings, shard: WorkShard, deadly: int) -> int:
    """Write down who makes which shard; the first to be given `deadly` dies of it."""
    folder = Path(settings.store)
    with (folder / "made").open("a") as made:
        made.write(f"{shard.number} {os.getpid()}\n")
    if shard.number == deadly and not (folder / "died").exists():
        (folder / "died").touch()
        time.sleep(2)  # so that what this worker made before has been fetched
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number


@flow(name="note shards", task_runner=RUNNER)
def note_shards(settings: Settings, deadly: int) -> list[int]:
    return each_shard(note_shard, settings, PLAN, deadly)


@stage("refuse shard")
def refuse_shard(settings: Settings, shard: WorkShard) -> None:
    raise ImageRefused(f"{shard.label} cannot be made")


@flow(name="refuse shards", task_runner=RUNNER)
def refuse_shards(settings: Settings) -> None:
    each_shard(refuse_shard, settings, PLAN)


def test_an_error_on_a_worker_is_the_error_of_the_run(cluster: DaskCluster, tmp_path: Path) -> None:
    settings = Settings.load(store=str(tmp_path), runner="dask", dask_address=cluster.address)
    with pytest.raises(ImageRefused, match="of 6 cannot be made"):
        refuse_shards(settings)


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 0.5)
    settings = Settings.load(store=str(tmp_path), runner="dask", dask_address="tcp://127.0.0.1:9")
    with pytest.raises(BadConfig, match=r"tcp://127\.0\.0\.1:9.*VITRINE_RUNNER=local"):
        note_shards(settings, 0)


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize("missing", ["cluster", "server"])
def test_nothing_is_read_for_a_run_whose_shards_nobody_can_make(
    command: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"synthetic:{tmp_path / 'catalog'}?products=2&views=1&size_px=64"
    comparison = ROOT / "configs" / "compare" / "retrieval_report.toml"
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setenv("VITRINE_RUNNER", "dask")
    monkeypatch.setenv("VITRINE_DASK_ADDRESS", "tcp://127.0.0.1:9")
    arguments = [command, f"--source={source}", f"--store={tmp_path / 'store'}"]
    arguments += [f"--config={comparison}"] if command == "compare" else ["--set=embed.weights=random:0"]
    with temporary_settings(restore_defaults={PREFECT_API_URL} if missing == "server" else None):
        assert main(arguments) == 2
    named = {"cluster": "no Dask cluster with a worker at tcp://127.0.0.1:9", "server": "set PREFECT_API_URL"}
    assert named[missing] in capsys.readouterr().err
    assert not (tmp_path / "catalog").exists()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@flow(name="note two of many shards", task_runner=RUNNER)
def note_two_of_many_shards(settings: Settings, n_shards: int) -> list[int]:
    plan = PLAN.model_copy(update={"shards": tuple((f"{number:016x}",) for number in range(n_shards))})
    return in_shards(note_shard, settings, plan.split()[:2], -1)


def test_a_message_is_as_small_of_a_hundred_thousand_shards(
    cluster: DaskCluster, messages: Messages, tmp_path: Path
) -> None:
    settings = Settings.load(store=str(tmp_path), runner="dask", dask_address=cluster.address)
    for n_shards in (2, 100_000):
        assert note_two_of_many_shards(settings, n_shards) == [0, 1]
    few, many = max(messages.sent_bytes[:2]), max(messages.sent_bytes[2:])
    assert many < MAX_SENT_BYTES
    assert many - few < 100
    assert max(len(pickle.dumps(asked)) for asked in messages.asked) < 1_000


def test_a_worker_that_dies_costs_the_shard_in_its_hands(cluster: DaskCluster, tmp_path: Path) -> None:
    """The last test that uses the cluster, so that no worker has to be started in place of the dead one."""
    settings = Settings.load(store=str(tmp_path), runner="dask", dask_address=cluster.address)
    numbers = list(range(len(PLAN.shards)))
    deadly = numbers[-1]
    assert note_shards(settings, deadly) == numbers
    made = [line.split() for line in (tmp_path / "made").read_text().splitlines()]
    assert sorted(int(number) for number, _ in made) == sorted([*numbers, deadly])
    by_whom = [process for number, process in made if int(number) == deadly]
    assert len(set(by_whom)) == 2, "another worker took the shard over"
    assert [worker.wait(10) for worker in cluster.workers if str(worker.pid) == by_whom[0]] == [-signal.SIGKILL]


def test_a_shard_of_a_large_index_is_asked_for_in_few_bytes() -> None:
    ref = Ref(kind="VectorSet", key=f"vectors/{'0' * 64}/{'1' * 64}")
    many = range(100_000)
    plan = IndexPlan(
        catalog=ref,
        vectors=ref,
        candidates=ref,
        recipe=choose_recipe(10**9, 128, 512, IndexConfig()),
        template=f"{'0' * 64}-{'1' * 64}",
        shards=tuple(f"indexes/shards/{number:064x}" for number in many),
        missing=tuple(many[1:]),
        n_rows=10**9,
        previous=ref,
        when_new={},
    )
    shards = plan.split()
    assert [(shard.number, shard.folder) for shard in shards] == list(enumerate(plan.shards))[1:]
    settings = Settings(store="s3://bucket/prefix")
    assert max(len(pickle.dumps((settings, shard))) for shard in shards[::1_000]) < MAX_MESSAGE_BYTES
