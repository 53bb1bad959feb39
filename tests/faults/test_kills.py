"""SIGKILL at any moment of a run: what was published stays readable, finished work is not repeated, and the next run
ends as an undisturbed one does.

The moments are drawn from each stage in turn rather than from the whole run, as the shortest stages publish.
`TEST_KILLS=100` draws more of them.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from retrieval_core.artifacts.releases import PRODUCTION, read_alias
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.status import last_run
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.uris import open_store
from tests.faults.processes import PATIENCE_S, Order, Run

SEED = 5
STAGES = ("ingest", "backbone", "mask", "embed", "head", "reduce", "index", "evaluate", "publish")
N_KILLS = int(os.environ.get("TEST_KILLS", len(STAGES)))
CONFIG = (
    "embed.backbone=resnet18",
    "embed.weights=random:0",
    "embed.size_px=64",
    "embed.background=masked",
    "embed.shard_rows=5",
    "mask.encoder=resnet18",
    "mask.weights=random:0",
    "mask.size_px=64",
    "mask.max_epochs=1",
    "mask.shard_rows=5",
    "mask.refit_after_change=1",
    "head.max_epochs=2",
    "head.min_count=2",
    "reduce.dims=[8]",
    "index.shards=2",
    "evaluate.queries=6",
    "evaluate.synthetic_queries=4",
    "ingest.max_reject_fraction=0.2",
    "gate.mode=warn",
)
N_FIRST, N_DRAWN, N_CHANGED = 20, 30, 3

# Everything is compared that a search, a later run or a question about quality depends on.
# Not compared: what a run printed, and its plans of what was missing.
OWN_NOTES = ("/runs/", "/plans/")
# Not compared: the pages drawn from metrics.json, which show times.
DRAWN = ("report.html", "fixes.html")
# Not compared in metrics.json: times, speed, and how the work was divided between this run and the killed one.
OF_THIS_RUN = {
    "created",
    "sha256",
    "manifest",
    "seconds",
    "costs",
    "fitted",
    "trained",
    "n_shards_built",
    "last_seen",
    "attempts",
}
SPEED = ("latency_ms", "seconds", "_per_second", "_ms")


class Shop(NamedTuple):
    """A source that changed since the first run, the store after it, and the store after an undisturbed second run."""

    order: Order
    first: Path
    undisturbed: Path
    query: Path
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def shop(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    drawn = open_source(f"synthetic:{folder / 'catalog'}?products={N_DRAWN // 2}&views=2&size_px=64").rows()
    every = drawn.with_columns(pl.col("labels").list.join("|")).drop("attributes", "fields")
    pictures = [Path(uri) for uri in every["image_uri"]]
    table = folder / "items.csv"
    order = Order(f"table:{table}", folder / "first", CONFIG, api_url, folder / "log")
    every.head(N_FIRST).write_csv(table)
    Run(order).end()

    every.slice(2).write_csv(table)  # two removed, ten new, three changed, one broken
    for picture in pictures[2 : 2 + N_CHANGED]:
        picture.write_bytes(picture.read_bytes()[:-2] + b"\x00\x00\xff\xd9")
    pictures[2 + N_CHANGED].write_bytes(b"not a picture")
    undisturbed, query = folder / "undisturbed", pictures[N_FIRST]
    shutil.copytree(order.store, undisturbed)
    with searched(undisturbed, query):
        Run(order._replace(store=undisturbed)).end()
    run = last_run(open_store(str(undisturbed)))
    assert run is not None
    return Shop(order, order.store, undisturbed, query, run["seconds"])


class Searches:
    """What a searcher in a loop encountered."""

    def __init__(self) -> None:
        self.n, self.errors = 0, list[Exception]()


@contextmanager
def searching(live: LiveRelease, query: Path) -> Iterator[Searches]:
    """Search in a loop while the block runs."""
    stop, met = threading.Event(), Searches()

    def search() -> None:
        while not stop.wait(0.05):
            try:
                assert len(live.current.search(query, 5)) == 5
                met.n += 1
            except Exception as error:
                met.errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        yield met
    finally:
        stop.set()
        thread.join()


def files(store: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of writing of every object, by its key."""
    found = ((path, path.stat()) for path in store.rglob("[!.]*") if path.is_file() and ".tmp" not in path.parts)
    return {str(path.relative_to(store)): (stat.st_ino, stat.st_mtime_ns) for path, stat in found}


def finished(keys: set[str]) -> set[str]:
    """Return the files of finished work: parts of sets, complete shards, templates, and artifacts with a manifest."""
    folders = {key.rpartition("/")[0] for key in keys if key.endswith(("/manifest.json", "/vectors.arrow"))}
    return {key for key in keys if key.rpartition("/")[0] in folders or "/parts/" in key or "/templates/" in key}


def embedded(store: Path) -> int:
    """Return the number of pictures with a vector of the backbone; only what is made shard by shard has plans."""
    (family,) = {path.parent.parent for path in store.glob("vectors/*/plans/*")}
    return sum(pl.read_parquet(path).height for path in family.glob("parts/*"))


def comparable(store: Path) -> dict[str, Any]:
    """Return what is compared of every object: its contents without times and notes of the run."""
    keys = [key for key in files(store) if not any(note in f"/{key}" for note in OWN_NOTES) and not key.endswith(DRAWN)]
    return {_without_content(key): _comparable(store / key) for key in keys}


def _without_content(key: str) -> str:
    """Leave out the name of a folder that depends on times: of a report, or of a catalogue with a ledger."""
    return re.sub(r"^((?:reports|catalogs)/[0-9a-f]{32})/[0-9a-f]{32}/", r"\1/", key)


def _comparable(path: Path) -> Any:
    if path.name == "quarantine.parquet":  # a killed run has counted an attempt, too
        return pl.read_parquet(path).drop("last_seen", "attempts").rows()
    if path.name in ("manifest.json", "metrics.json") or path.parent.name == "aliases":
        return _timeless(json.loads(path.read_bytes()))
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("key", "").endswith((*DRAWN, "quarantine.parquet", "metrics.json")):  # its bytes differ
        return {"key": _without_content(value["key"])}
    if "key" in value:
        value = value | {"key": _without_content(value["key"])}
    kept = {name: each for name, each in value.items() if name not in OF_THIS_RUN and not any(s in name for s in SPEED)}
    return {name: _timeless(each) for name, each in kept.items()}


@contextmanager
def searched(store: Path, query: Path) -> Iterator[Searches]:
    """Search production during the block, and after it until its release is being searched."""
    settings = Settings.load(store=str(store), threads=1, device="cpu")
    with LiveRelease(settings.open_store(), settings=settings, check_s=0.05) as live, searching(live, query) as met:
        yield met
        deadline = time.monotonic() + PATIENCE_S
        while live.current.release.fingerprint != production(store) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert live.current.release.fingerprint == production(store), "the searcher follows production"
    assert met.n
    assert not met.errors, met.errors[:3]


def production(store: Path) -> str:
    alias = read_alias(open_store(str(store)), PRODUCTION)
    assert alias is not None
    return alias.release


def check_readable(store: Path, query: Path) -> None:
    """Check that production is intact and can be opened and searched."""
    settings = Settings.load(store=str(store), threads=1, device="cpu")
    checked = verify(settings.open_store())
    assert checked.ok, checked
    assert len(open_release(settings.open_store(), settings=settings).search(query, 5)) == 5


def resume(shop: Shop, killed: Run) -> None:
    """Run again after a kill: finished work is unchanged, and the result is that of an undisturbed run."""
    store = killed.order.store
    assert not killed.orphans(), "a killed run leaves no process behind"
    check_readable(store, shop.query)
    before, n_done = files(store), embedded(store)
    Run(killed.order._replace(log=killed.order.log.with_name("again.log"))).end()
    after = files(store)
    repeated = [key for key in finished(set(before)) if before[key] != after.get(key)]
    assert not repeated, "made twice"
    run = last_run(open_store(str(store)))
    assert run is not None
    assert run["embedded"] == embedded(shop.undisturbed) - n_done, "embedded twice"
    assert comparable(store) == comparable(shop.undisturbed)
    check_readable(store, shop.query)


@pytest.mark.parametrize("number", range(N_KILLS))
def test_a_killed_run_harms_no_search_and_is_resumed(shop: Shop, number: int, tmp_path: Path) -> None:
    stage = STAGES[number % len(STAGES)]
    share = random.Random(f"{SEED}/{number}").random()
    store, log = tmp_path / "store", tmp_path / "killed.log"
    shutil.copytree(shop.first, store)
    with searched(store, shop.query):
        run = Run(shop.order._replace(store=store, log=log))
        run.wait_for(stage)
        moment_s = time.monotonic() + share * shop.seconds[stage]
        while run.stage == stage and time.monotonic() < moment_s:  # it may be faster than the undisturbed run was
            time.sleep(0.002)
        assert run.kill(), "the run ended before it could be killed"
        try:
            resume(shop, run)
        except AssertionError as error:
            error.add_note(f"seed {SEED}, kill {number}: {share:.0%} into stage {stage}, while it logged {run.stage}")
            raise
