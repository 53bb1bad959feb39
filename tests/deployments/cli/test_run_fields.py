"""A night in which only prices moved: nothing is embedded, trained, indexed or measured, and hits have new prices."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flows.catalog_update import catalog_update
from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import SEEN_ITEMS, FieldSet
from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.parts import read_unsealed
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.backup import back_up
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import Policy, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.hits import Hit
from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.uris import open_store

N = 10
SETTINGS = [
    "embed.backbone=pca_pixels", "embed.weights=fit:0", "embed.size_px=16", "embed.background=raw", "reduce.dims=[4]",
    "evaluate.queries=4", "evaluate.synthetic_queries=4",
]  # fmt: skip
CONFIG = NightlyConfig.load(None, [*SETTINGS, "gate.mode=warn"])

pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """A feed of lamps with two pictures each, which cost 10 EUR, 11 EUR and so on, and its store."""

    def __init__(self, folder: Path) -> None:
        self.feed = folder / "feed.tsv"
        self.settings = Settings.load(store=str(folder / "store"), threads=1, device="cpu")
        self.store = self.settings.open_store()
        for number in range(2 * N):
            coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(folder / f"{number}.png")
        self.write("EUR")

    def write(self, currency: str, *without: str) -> None:
        header = "id\timage_link\tadditional_image_link\tproduct_type\ttitle\tprice\tlink"
        rows = [
            f"l{n}\t{n}.png\t{n + N}.png\t{'ab'[n % 2]}\tLamp {n}\t{10 + n} {currency}\thttps://shop.example/{n}"
            for n in range(N)
            if f"l{n}" not in without
        ]
        self.feed.write_text("\n".join([header, *rows]) + "\n")

    def night(self, config: NightlyConfig = CONFIG) -> RunSummary:
        return nightly(f"merchant:{self.feed}", self.settings, config)

    def hits(self, where: str = "") -> list[Hit]:
        return open_release(self.store).search(Query(item_ids=("l3",)), 2 * N, where=where, by_product=True)

    def production(self) -> Release:
        release = releases.read_release(self.store, releases.PRODUCTION)
        assert release
        return release

    def keys(self, *folders: str) -> set[str]:
        return {key for folder in folders for key in self.store.list(f"{folder}/")}


@pytest.fixture(scope="module")
def shop(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    assert shop.night().gate == "published"
    return shop


MADE = ("catalogs/parts", "vectors", "heads", "reducers", "indexes", "reports")


def test_hits_have_fields_and_are_filtered_by_them(shop: Shop) -> None:
    hits = shop.hits("price <= 12")
    assert {hit.product_id for hit in hits} == {"l0", "l1", "l2"}
    assert len(hits) == 3
    cheap = next(hit for hit in hits if hit.product_id == "l1")
    assert cheap.fields == {
        "title": "Lamp 1", "link": "https://shop.example/1",
        "price": {"amount": 11, "currency": "EUR", "text": "11 EUR"},
    }  # fmt: skip
    assert len(shop.hits()) == N, "the other picture of the query's product, and one of each other product"


def test_a_night_in_which_only_prices_moved_makes_only_fields(shop: Shop) -> None:
    before, made = shop.production(), shop.keys(*MADE)
    shop.write("USD")
    run = shop.night()
    assert (run.gate, run.embedded, run.trained) == ("published", 0, [])
    assert run.reason.startswith("It is searched as production is")
    counts = run.catalog
    assert (counts.refreshed, counts.unchanged, counts.added, counts.changed, counts.removed) == (2 * N, 2 * N, 0, 0, 0)
    assert shop.keys(*MADE) == made
    after = shop.production()
    assert (after.catalog, after.index, after.report) == (before.catalog, before.index, before.report)
    assert (after.fields, after.fingerprint) != (before.fields, before.fingerprint)
    assert {hit.fields["price"]["currency"] for hit in shop.hits("price < '12 USD'")} == {"USD"}  # type: ignore[index]
    assert verify(shop.store).ok


@pytest.mark.parametrize(("mode", "gate"), [("block", "published"), ("hold", "held")])
def test_prices_move_after_a_promotion_by_hand_too_unless_every_release_waits(shop: Shop, mode: str, gate: str) -> None:
    config = NightlyConfig.load(None, [*SETTINGS, "evaluate.queries=3", f"gate.mode={mode}"])
    held = shop.night(config)
    assert held.gate == "held", "too few queries to compare"
    promotion = releases.Promotion(release=held.release, by="a", at="2026-01-01", why="b")
    releases.promote_by_hand(shop.store, promotion, anyway=True)
    shop.write("CHF" if mode == "block" else "GBP")
    assert shop.night(config).gate == gate


def test_an_update_of_one_item_keeps_the_fields_of_the_others(shop: Shop) -> None:
    shop.write("SEK")
    shop.night()
    shop.write("NOK", "l9")
    run = catalog_update(f"merchant:{shop.feed}", shop.settings, CONFIG, changed=("l1",), removed=("l9",))
    assert (run.catalog.refreshed, run.catalog.removed) == (2, 2)
    assert {hit.product_id for hit in shop.hits("price > '0 NOK'")} == {"l1"}
    assert len(shop.hits("price > '0 SEK'")) == N - 2
    assert shop.hits("price is null") == []


def test_a_feed_of_changes_keeps_the_fields_of_what_it_does_not_name(shop: Shop) -> None:
    shop.write("DKK")
    shop.night()
    changes = shop.feed.with_name("changes.tsv")
    changes.write_text("id\timage_link\tadditional_image_link\tproduct_type\tprice\nl2\t2.png\t12.png\ta\t5 EUR\n")
    run = nightly(f"merchant:{changes}?mode=delta", shop.settings, CONFIG)
    assert (run.gate, run.catalog.refreshed) == ("published", 2)
    hits = {hit.product_id: hit.fields for hit in shop.hits()}
    assert hits["l2"] == {"price": {"amount": 5, "currency": "EUR", "text": "5 EUR"}}
    assert hits["l4"]["title"] == "Lamp 4"
    assert {hit.product_id for hit in shop.hits("price > '0 DKK'")} == {f"l{n}" for n in range(N)} - {"l2"}


def test_what_filters_can_name_includes_fields(shop: Shop) -> None:
    shop.write("JPY")
    shop.feed.write_text(shop.feed.read_text().replace("\n", "\tin stock\n").replace("in stock", "availability", 1))
    shop.night()
    values = open_release(shop.store).facets()
    assert (list(values["availability"]), values["title"], values["price"]) == (["in stock"], {}, {})
    assert [*values][:4] == ["item_id", "product_id", "category", "split"]


def test_damaged_fields_are_found_and_rebuilt_and_those_of_removed_releases_go(shop: Shop, tmp_path: Path) -> None:
    store, ref = shop.store, shop.production().fields
    assert ref is not None
    part, seen = FieldSet.open(store, ref).parts[0], store.get(SEEN_ITEMS)
    data = store.get(part.key)
    store.put(part.key, data[:-1])
    assert not verify(store).ok
    assert repair(store).ok
    assert store.get(part.key) == data
    store.put(SEEN_ITEMS, seen[:-1])
    assert repair(store).ok
    assert read_unsealed(store, SEEN_ITEMS)["fields"].to_list() == fields_of(seen)
    before = {key.split("/")[1] for key in shop.keys("fields")}
    vacuum(store, Policy(keep=0, older_than_days=0, safe_hours=0), time.time() + 60)
    kept = {release.fields.name for release in releases.list_releases(store) if release.fields}
    assert {key.split("/")[1] for key in shop.keys("fields")} == kept
    assert len(before) > len(kept)
    back_up(store, target := open_store(str(tmp_path / "copy")))
    assert verify(store).ok
    assert [hit.fields for hit in open_release(target).search(Query(item_ids=("l3",)), 3)] == [
        hit.fields for hit in open_release(store).search(Query(item_ids=("l3",)), 3)
    ]


def fields_of(table: bytes) -> list[list[dict[str, str]]]:
    return pl.read_parquet(io.BytesIO(table))["fields"].to_list()


def test_a_release_without_fields_is_searched_and_refuses_to_filter_by_them(shop: Shop) -> None:
    release = shop.production()
    assert release.fields
    assert FieldSet.open(shop.store, release.fields).counts["rows"] == len(shop.hits()) * 2
    older = release.model_copy(update={"fields": None, "fingerprint": "0" * 32}).seal(shop.store)
    hits = open_release(shop.store, older.fingerprint).search(Query(item_ids=("l3",)), 3)
    assert [hit.fields for hit in hits] == [{}, {}, {}]
    with pytest.raises(BadConfig, match="'price', which the catalogue does not have"):
        open_release(shop.store, older.fingerprint).search(Query(item_ids=("l3",)), 3, where="price < 3")
