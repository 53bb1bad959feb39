"""The masks and vectors of a run by each engine: this machine, two Dask workers, two workers of a pool; and one lost.

    python -m benchmarks.scaling [--products 200] [--size-px 256] [--shard-rows 50] [--rounds 3] [--json FILE]
        [--engines local dask dask-lost pool pool-lost]

Each run starts with a store that holds the catalogue, the U-Net and the backbone. This machine uses all of its cores in
one process; workers are processes of one thread. Those of Dask have imported what they need before; a pool starts a
process for each range, which is part of its time. A worker is killed when half of the parts are stored. All runs must
store the same bytes. The Prefect server is that of `PREFECT_API_URL`, else one with SQLite, which is slower.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

from distributed import Client
from prefect import flow
from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness

from benchmarks.measuring.interleaved_timing import Seconds, interleaved, ratio
from benchmarks.scaling.dask_cluster import START_TIMEOUT_S, DaskCluster
from benchmarks.scaling.pool_workers import PoolWorkers
from benchmarks.scaling.watching import once
from flows.pictures import Masking, mask_and_embed, snapshot_catalog
from flows.run import RUNNER, holds_lease
from retrieval_core.artifacts.manifests import Fitted, Ref, Value
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.settings import Settings
from tasks.ingest import collect_truth_masks
from tasks.mask import fit_segmenter
from tasks.pictures import prepare_backbone

VIEWS = 4  # pictures of one product
PARTS_OF_A_SHARD = 3  # masks, raw vectors, masked vectors
LOCAL = "local"
ENGINES = {
    LOCAL: "this machine, all cores",
    "dask": "Dask, 2 workers",
    "dask-lost": "Dask, one of 2 lost half way",
    "pool": "pool, 2 workers",
    "pool-lost": "pool, one of 2 lost half way",
}
N_WORKERS = 2
STAGES = ("tasks.pictures", "onnxruntime", "torch")


class Prepared(Value):
    """The artifacts that are in the store before a run."""

    catalog: Ref
    segmenter: Fitted
    backbone: Ref


class Bench(NamedTuple):
    """A folder with the prepared store, and beside it one store for each run."""

    folder: Path
    source: str
    config: NightlyConfig
    n_parts: int

    def prepare(self) -> Prepared:
        return prepare(self.source, Settings(store=str(self.folder / "prepared")), self.config)

    def run(self, name: str, prepared: Prepared, **engine: Any) -> None:
        """Mask and embed in a fresh copy of the prepared store, on the engine of these settings."""
        mask_and_embed_all(Settings(store=str(self._copy_store(name)), **engine), prepared, self.config)

    def run_and_lose(self, name: str, prepared: Prepared, lose: Callable[[], None], **engine: Any) -> None:
        """Do the same, and call `lose` when half of the parts are stored."""
        store = self._copy_store(name)
        with once(lambda: len(_parts(store)) >= self.n_parts // 2, lose):
            mask_and_embed_all(Settings(store=str(store), **engine), prepared, self.config)

    def digests(self, name: str) -> dict[str, str]:
        """Return the SHA-256 of every part that a run stored."""
        store = self.folder / name
        return {str(part.relative_to(store)): hashlib.sha256(part.read_bytes()).hexdigest() for part in _parts(store)}

    def _copy_store(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return Path(shutil.copytree(self.folder / "prepared", self.folder / name, copy_function=os.link))


@flow(name="prepare", task_runner=RUNNER)
def prepare(source: str, settings: Settings, config: NightlyConfig) -> Prepared:
    """Make the catalogue and the models. Raises `RuntimeError` if the source has no masks to train on."""
    catalog = snapshot_catalog(settings, source, config.ingest).catalog
    backbone = prepare_backbone(settings, catalog, config.embed, config.ingest)
    truth = collect_truth_masks(settings, source, catalog)
    segmenter = fit_segmenter(settings, catalog, truth, config.mask, config.ingest)
    if segmenter is None:
        raise RuntimeError(f"{source} has no masks")
    return Prepared(catalog=catalog, segmenter=segmenter, backbone=backbone)


@flow(name="mask and embed", task_runner=RUNNER)
@holds_lease
def mask_and_embed_all(settings: Settings, prepared: Prepared, config: NightlyConfig) -> None:
    """Run the stages that workers take part in, with their planning and sealing."""
    masking = Masking(segmenter=prepared.segmenter)
    mask_and_embed(settings, prepared.catalog, masking, prepared.backbone, config)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=int, default=200, help=f"of {VIEWS} pictures each")
    parser.add_argument("--size-px", type=int, default=256, help="of the pictures drawn")
    parser.add_argument("--shard-rows", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=[*ENGINES], help="beside local, which is always"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    has_server = bool(get_current_settings().api.url)
    server = nullcontext() if has_server else prefect_test_harness(server_startup_timeout=120)
    with TemporaryDirectory() as name, server:
        result = _measure(arguments, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    n_pictures = arguments.products * VIEWS
    sets = [
        "embed.backbone=resnet18",
        "embed.weights=random:0",
        f"embed.shard_rows={arguments.shard_rows}",
        "mask.max_epochs=1",
        "mask.max_pictures=40",
    ]
    source = f"synthetic:{folder / 'catalog'}?products={arguments.products}&views={VIEWS}&size_px={arguments.size_px}"
    n_shards = -(-n_pictures // arguments.shard_rows)
    bench = Bench(folder, source, NightlyConfig.load(None, sets), PARTS_OF_A_SHARD * n_shards)
    prepared = bench.prepare()
    seconds: Seconds = {ENGINES[name]: [] for name in ENGINES if name in (LOCAL, *arguments.engines)}
    with DaskCluster(folder / "cluster") as cluster, PoolWorkers(folder / "workers", "bench") as pool:
        dask = {"threads": 1, "runner": "dask", "dask_address": cluster.address}
        pools = {"runner": "pools", "pools": f"default={pool.pool}"}
        contenders = {
            "local": lambda: bench.run("local", prepared),
            "dask": lambda: bench.run("dask", prepared, **dask),
            "dask-lost": lambda: bench.run_and_lose("dask-lost", prepared, cluster.workers[0].kill, **dask),
            "pool": lambda: bench.run("pool", prepared, **pools),
            "pool-lost": lambda: bench.run_and_lose("pool-lost", prepared, pool.lose_worker, **pools),
        }
        chosen = {name: contenders[name] for name in ENGINES if ENGINES[name] in seconds}
        for _ in range(arguments.rounds):
            if {"dask", "dask-lost"} & chosen.keys():
                _warm(cluster, N_WORKERS)  # one of them was killed in the previous round
            if {"pool", "pool-lost"} & chosen.keys():
                pool.start_workers(N_WORKERS)
            for name, taken in interleaved(chosen, rounds=1).items():
                seconds[ENGINES[name]] += taken
            _compare(bench, [*chosen])
    _print(seconds, n_pictures, n_shards)
    return {"pictures": n_pictures, "shards": n_shards, "cores": os.cpu_count(), "seconds": seconds}


def _warm(cluster: DaskCluster, n_workers: int) -> None:
    """Wait until `n_workers` run and have imported what a shard needs."""
    cluster.start_workers(n_workers)
    with cast(Any, Client)(cluster.address, timeout=START_TIMEOUT_S) as client:
        client.wait_for_workers(n_workers, timeout=START_TIMEOUT_S)
        client.run(_import_stages)


def _import_stages() -> None:
    for name in STAGES:
        import_module(name)


def _parts(store: Path) -> list[Path]:
    """Return the parts of growing sets that a run wrote; those of the prepared store are linked and have more links."""
    return [part for part in store.glob("*/*/parts/*.parquet") if part.stat().st_nlink == 1]


def _compare(bench: Bench, names: Sequence[str]) -> None:
    """Raise `RuntimeError` if the runs did not store the same bytes."""
    expected = bench.digests(LOCAL)
    differing = [name for name in names if bench.digests(name) != expected]
    if len(expected) < bench.n_parts or differing:  # sealing adds those that it merges small ones into
        raise RuntimeError(f"expected {bench.n_parts} parts and the same in every run, got others of {differing}")


def _print(seconds: Seconds, n_pictures: int, n_shards: int) -> None:
    local = ENGINES[LOCAL]
    print(f"{n_pictures:,} pictures masked, and embedded raw and masked, in {n_shards} shards; {os.cpu_count()} cores")
    print(f"\n| {'engine':28} | seconds | pictures/s | x the time of this machine | by round         |")
    print(f"|{'-' * 30}|{'-' * 8}:|{'-' * 11}:|{'-' * 27}:|{'-' * 18}|")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        rounds = " ".join(f"{this / one:.2f}" for one, this in zip(seconds[local], taken, strict=True))
        print(f"| {name:28} | {middle:7.1f} | {n_pictures / middle:10.1f} ", end="")
        print(f"| {ratio(seconds, name, local):26.2f} | {rounds:16} |")


if __name__ == "__main__":
    main()
