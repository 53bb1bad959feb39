"""Two nightly runs and a catalogue update at once on one store: no change is lost, and production is intact."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.faults.processes import Order, Run

N_RACES = 3
N_READ = 20
SEED = 5
MAX_PAUSE_S = 1.5  # about as long as a run of this size takes
CONFIG = (
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.size_px=16",
    "embed.background=raw",
    "embed.shard_rows=6",
    "head.enabled=false",
    "reduce.dims=[8]",
    "index.shards=2",
    "evaluate.queries=4",
    "evaluate.synthetic_queries=4",
    "ingest.max_reject_fraction=0.2",
    "gate.mode=warn",
)


class Shop(NamedTuple):
    """A store after its first run, and a source with items that the run has not seen."""

    order: Order
    every: pl.DataFrame
    table: Path
    updated: str  # the item of the update


@pytest.fixture(scope="module")
def shop(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    drawn = open_source(f"synthetic:{folder / 'catalog'}?products=12&views=2&size_px=64").rows()
    every = drawn.select("item_id", "image_uri", "product_id", "category")
    order = Order(f"table:{folder / 'items.csv'}", folder / "first", CONFIG, api_url, folder / "first.log")
    every.head(14).write_csv(folder / "items.csv")
    Run(order).end()
    Path(every["image_uri"][1]).write_bytes(b"not a picture")  # its row in the ledger holds a time
    return Shop(order, every, folder, every["item_id"][-1])


def sell(table: Path, items: pl.DataFrame) -> None:
    """Replace the table atomically, so that no run reads half of it."""
    items.write_csv(table.with_suffix(".new"))
    table.with_suffix(".new").replace(table)


def production(store: Path) -> releases.Alias:
    alias = releases.read_alias(open_store(str(store)), releases.PRODUCTION)
    assert alias is not None
    return alias


def broken(store: Store) -> list[str]:
    """Return what `verify` finds wrong with production."""
    return [check.detail for check in verify(store).checks if not check.ok]


def searchable(store: Store, query: Path) -> set[str]:
    settings = Settings.load(store=store.url, threads=1, device="cpu")
    return {hit.item_id for hit in open_release(store, settings=settings).search(query, k=100)}


@pytest.mark.parametrize("number", range(N_RACES))
def test_two_runs_and_an_update_at_once_lose_nothing(shop: Shop, number: int, tmp_path: Path) -> None:
    draw = random.Random(f"{SEED}/{number}")
    pauses_s = [draw.uniform(0, MAX_PAUSE_S) for _ in range(2)] if number else [0.0, 0.0]
    table, folder = tmp_path / "items.csv", tmp_path / "store"
    shutil.copytree(shop.order.store, folder)
    store, before = open_store(str(folder)), production(shop.order.store)
    sell(table, shop.every.slice(1, N_READ))  # the runs find one removed, one broken and seven new

    order = shop.order._replace(source=f"table:{table}", store=folder)
    runs = [Run(order._replace(log=tmp_path / "one.log"))]
    time.sleep(pauses_s[0])
    runs.append(Run(order._replace(log=tmp_path / "two.log")))
    time.sleep(pauses_s[1])
    sell(table, shop.every.slice(1))  # adds the last three, of which the update names one
    runs.append(Run(order._replace(log=tmp_path / "update.log", item_ids=(shop.updated,))))
    for run in runs:
        run.end()
    at = f"seed {SEED}, race {number}, pauses {pauses_s}"

    found = searchable(store, Path(shop.every["image_uri"][5]))
    assert set(shop.every["item_id"].slice(2, N_READ - 1)) <= found, f"{at}: what the runs read is lost"
    assert shop.updated in found, f"{at}: what the update brought is lost"
    assert not found & set(shop.every["item_id"].head(2)), f"{at}: a removed or broken item is still found"
    assert not broken(store), at

    won = production(folder)
    documents = [json.loads(store.get(key)) for key in store.list("runs/")]
    assert [run["gate"] for run in documents] == ["published"] * (1 + len(runs)), f"{at}: the first run and these"
    assert won.history[0] == before.release
    assert {run["release"] for run in documents} <= {*won.history, won.release}, (
        f"{at}: a run's release never was production"
    )
    for run in runs:
        overtaken = "an exception AliasConflict" in run.log
        assert overtaken == ("Starting again from there" in run.log), f"{at}: a run did not go on"
    # Started at once, runs compare with the same release, and the second to publish has to notice that it moved.
    assert number or any("Starting again from there" in run.log for run in runs)


def test_two_first_runs_at_once_make_one_release(shop: Shop, tmp_path: Path) -> None:
    """Both make the same backbone, reducer and lists, and neither spoils the other's."""
    source, store = tmp_path / "items.csv", open_store(str(tmp_path / "store"))
    sell(source, shop.every.slice(1, 20))
    order = shop.order._replace(source=f"table:{source}", store=tmp_path / "store")
    for run in [Run(order._replace(log=tmp_path / f"{name}.log")) for name in ("one", "two")]:
        run.end()
    assert len(list(store.list("releases/"))) == 1
    assert not broken(store)
