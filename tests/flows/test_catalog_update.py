"""A change that somebody tells of: what it names is searchable at once, and nothing else is looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingConcurrencySlot, Scheduled

from flows import catalog_update as module
from flows.catalog_update import catalog_update
from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, StoreUnavailable
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings

CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.background=raw",
        "head.enabled=false",
        "reduce.dims=[8]",
        "evaluate.queries=10",
        "evaluate.synthetic_queries=4",
        "ingest.max_reject_fraction=0.5",
        "gate.mode=warn",
    ],
)

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """A table of drawn pictures that can be rewritten, and its store after one night."""

    def __init__(self, folder: Path) -> None:
        drawn = open_source(f"synthetic:{folder / 'catalog'}?products=12&views=3&size_px=64").rows()
        self.every = drawn.select("item_id", "image_uri", "product_id", "category")
        self.table = folder / "items.csv"
        self.source = f"table:{self.table}"
        self.settings = Settings.load(store=str(folder / "store"), threads=1)
        self.store = self.settings.open_store()
        self.sell(self.every.head(30))
        self.first = nightly(self.source, self.settings, CONFIG)

    def sell(self, items: pl.DataFrame) -> None:
        items.write_csv(self.table)

    def update(self, **change: object) -> RunSummary:
        return catalog_update(self.source, self.settings, CONFIG, **change)

    def searchable(self) -> set[str]:
        return {hit.item_id for hit in open_release(self.store).search(self.every["image_uri"][0], k=100)}

    @property
    def ids(self) -> list[str]:
        return self.every["item_id"].to_list()


@pytest.fixture(scope="module")
def shop(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def test_what_is_named_is_searchable_and_what_is_not_named_stays(shop: Shop) -> None:
    before = shop.searchable()
    shop.sell(shop.every.slice(2))  # two are gone, six are new
    run = shop.update(added=(shop.ids[30], shop.every["image_uri"][31]), removed=(shop.ids[0],))
    assert (run.gate, run.embedded) == ("published", 2)
    assert run.catalog.model_dump() == {
        "rows": 31, "added": 2, "changed": 0, "removed": 1, "unchanged": 29, "quarantined": 0, "moved": 0,
        "refreshed": 0,
        "passed_over": 0,
    }  # fmt: skip
    assert shop.searchable() == before - {shop.ids[0]} | set(shop.ids[30:32])
    assert verify(shop.store).ok

    again = shop.update(added=(shop.ids[30], "nobody"), removed=(shop.ids[0],))
    assert (again.release, again.embedded) == (run.release, 0), "the same event twice is one"

    night = nightly(shop.source, shop.settings, CONFIG)
    assert (night.embedded, night.catalog.added, night.catalog.removed) == (4, 4, 1), "the night finds the rest"
    shop.table.with_name("changes.csv").write_text("item_id\n" + "\n".join(shop.ids[2:4]))
    shop.sell(shop.every.slice(3).with_columns(category=pl.lit("hat")))
    listed = shop.update(manifest_uri=str(shop.table.with_name("changes.csv")))
    assert (listed.catalog.changed, listed.catalog.removed, listed.embedded) == (1, 1, 0)


def test_neither_of_two_updates_at_once_is_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sell(shop.every)
    ours, theirs = shop.ids[:2]
    update_catalog: Callable[..., object] = module.update_catalog

    def overtaken(*arguments: object) -> object:
        outcome = update_catalog(*arguments)
        monkeypatch.setattr(module, "update_catalog", update_catalog)
        shop.update(added=(theirs,))
        return outcome

    monkeypatch.setattr(module, "update_catalog", overtaken)
    run = shop.update(added=(ours,))
    release = releases.read_release(shop.store, releases.PRODUCTION)
    assert release is not None
    assert release.fingerprint == run.release
    assert {ours, theirs} <= set(load_items(shop.store, release.parents["catalog"])["item_id"])


def test_a_change_of_nothing_or_of_nobody_changes_nothing_and_says_so(shop: Shop) -> None:
    production = releases.read_release(shop.store, releases.PRODUCTION)
    assert production is not None
    assert shop.update().release == production.fingerprint
    run = shop.update(added=("nobody",), removed=("gone",))
    assert run.release == production.fingerprint
    assert run.notes[-1] == "1 name found in neither the source nor the catalogue: 'nobody'"
    empty = shop.settings.model_copy(update={"store": str(shop.table.with_name("empty"))})
    with pytest.raises(BadConfig, match="run the nightly first"):
        catalog_update(shop.source, empty, CONFIG, added=("a",))


@pytest.mark.parametrize("fails", [False, True], ids=["published", "failed"])
def test_runs_that_wait_are_taken_along_unless_this_one_fails(
    shop: Shop, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are due: two told of names, one of a manifest, one of another source, one of nothing."""
    shop.sell(shop.every)
    where = {"source": shop.source, "settings": shop.settings, "config": CONFIG}
    one, two, three = ({"added": [name]} for name in shop.ids[4:7])
    told = [two, three, {"manifest_uri": "changes.csv"}, {**two, "source": "folder:elsewhere"}, {"added": []}]
    parameters = (catalog_update.serialize_parameters({**where, **more}) for more in (one, *told))
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(catalog_update)
        deployment = client.create_deployment(flow_id, f"updates {fails}", enforce_parameter_schema=False)
        ours, *waiting = (
            client.create_flow_run_from_deployment(deployment, parameters=given, state=AwaitingConcurrencySlot())
            for given in parameters
        )
        tomorrow = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        later = client.create_flow_run_from_deployment(deployment, parameters=waiting[0].parameters, state=tomorrow)
        if fails:
            monkeypatch.setattr(module, "publish_catalog", _out_of_reach)
        with pytest.raises(StoreUnavailable) if fails else nullcontext():
            run_flow(catalog_update, flow_run=ours, parameters={**where, **one})
        states = [client.read_flow_run(run.id).state for run in (*waiting, later)]

    ended = [state.name for state in states if state]
    assert ended[2:] == ["AwaitingConcurrencySlot"] * 3 + ["Scheduled"]
    if fails:
        assert ended[:2] == ["AwaitingConcurrencySlot"] * 2
        return
    assert ended[:2] == ["Merged"] * 2, "not Cancelled, of which the operator is told"
    assert all(ours.name in str(state.message) for state in states[:2] if state)
    release = releases.read_release(shop.store, releases.PRODUCTION)
    assert release is not None
    assert set(shop.ids[4:7]) <= set(load_items(shop.store, release.catalog.name)["item_id"])


def test_items_that_are_listed_as_removed_are_no_loss_of_the_catalogue(shop: Shop) -> None:
    """A third of the items is taken out of the source twice; only the second update lists them as removed."""
    shop.sell(shop.every)
    shop.update(added=tuple(shop.ids))
    shop.sell(shop.every.head(24))
    unlisted = shop.update(changed=tuple(shop.ids[24:]))
    assert "12 of 36 items are gone, more than 0.2 of them" in unlisted.reason
    shop.sell(shop.every.head(16))
    listed = shop.update(removed=tuple(shop.ids[16:24]))
    assert (listed.catalog.rows, listed.gate) == (16, "published")
    assert "are gone" not in listed.reason


def _out_of_reach(*_: object) -> None:
    raise StoreUnavailable("the store does not answer")
