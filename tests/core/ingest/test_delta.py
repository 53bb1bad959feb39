"""A source of changes is applied to production's catalogue, and what it removes is declared."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import read_items
from retrieval_core.artifacts.manifests import Catalog, Ref, Release
from retrieval_core.artifacts.releases import PRODUCTION, point_alias
from retrieval_core.config.stages import IngestConfig, NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.images import thumbnail
from retrieval_core.ingest.catalog import IngestOutcome, plan_change
from retrieval_core.ingest.change import Change
from retrieval_core.maintenance.plan import forecast
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests import ingesting
from tests.core.sealed_runs import SealedRuns, fake_fingerprint

CONFIG = IngestConfig(max_reject_fraction=1)
PICTURES = "abc"
Product = tuple[str, tuple[str, ...], str]  # id, names of pictures, category


def draw_pictures(folder: Path) -> None:
    for level, name in enumerate(PICTURES):
        (folder / f"{name}.jpg").write_bytes(thumbnail(np.full((8, 8, 3), 60 * level, np.uint8), 8))


def write_table(folder: Path, name: str, products: list[tuple[str, tuple[str, ...], str, str]]) -> str:
    """Write a table with up to two pictures a row; return the address of its source."""
    lines = ["sku,front,back,kind,gone"]
    for sku, pictures, kind, gone in products:
        front, back = [f"{picture}.jpg" for picture in pictures] + [""] * (2 - len(pictures))
        lines.append(f"{sku},{front},{back},{kind},{gone}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return f"table:{folder / name}?item_id=sku&image_uri=front&image_uri=back&category=kind"


@lru_cache
def any_release() -> Release:
    with TemporaryDirectory() as folder:
        return SealedRuns(open_store(folder)).seal(["x"])


def publish(store: Store, catalog: Ref, like: Release | None = None) -> None:
    """Seal a release of this catalogue as production, otherwise `like` another, or with artifacts that do not exist."""
    like = like or any_release()
    name, parents = fake_fingerprint(f"release of {catalog.name}"), like.parents | {"catalog": catalog.name}
    like.model_copy(update={"catalog": catalog, "parents": parents, "fingerprint": name}).seal(store)
    point_alias(store, PRODUCTION, name)


def items_of(store: Store, outcome: IngestOutcome) -> pl.DataFrame:
    items = read_items(store, Catalog.open(store, outcome.catalog))
    return items.select("item_id", "image_uri", "product_id", "category", "content_id", "status", "labels")


def ingest_source(store: Store, source: str) -> IngestOutcome:
    return ingesting.ingest_source(Settings.load(store=store.url), source, CONFIG)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    draw_pictures(tmp_path)
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_rows_that_are_not_named_stay_and_those_marked_as_deleted_are_declared(store: Store, shop: Path) -> None:
    release = SealedRuns(store).seal(["x"])  # whose index the plan looks at
    whole = write_table(shop, "all.csv", [(sku, ("a", "b"), "coat", "") for sku in "1234"])
    publish(store, ingest_source(store, whole).catalog, release)
    changes = [("2", ("a",), "hat", ""), ("3", (), "", "1"), ("5", ("c",), "hat", ""), ("9", (), "", "1")]
    source = f"{write_table(shop, 'changes.csv', changes)}&mode=delta&deleted=gone"
    plan = forecast(source, store, NightlyConfig())
    outcome = ingest_source(store, source)
    items = items_of(store, outcome)
    assert items.select("item_id", "category").rows() == [
        ("1", "coat"), ("1/2", "coat"), ("2", "hat"), ("4", "coat"), ("4/2", "coat"), ("5", "hat")
    ]  # fmt: skip
    assert outcome.declared_removals == ("3", "3/2")
    assert outcome.diff.removed == 3
    assert (outcome.diff.added, outcome.diff.changed, outcome.diff.unchanged) == (1, 1, 4)
    assert outcome.n_read == 1, "the picture of 5; every other had been read"
    assert (plan.rows, plan.gone, plan.to_read) == (6, 3, 1)


def test_the_same_changes_make_the_same_catalogue_again(store: Store, shop: Path) -> None:
    publish(store, ingest_source(store, write_table(shop, "all.csv", [("1", ("a",), "coat", "")])).catalog)
    source = f"{write_table(shop, 'changes.csv', [('2', ('b',), 'hat', '')])}&mode=delta"
    first = ingest_source(store, source)
    assert ingest_source(store, source).catalog.name == first.catalog.name
    publish(store, first.catalog)
    again = ingest_source(store, source)
    assert again.catalog.name == first.catalog.name
    assert (again.diff.unchanged, again.n_read) == (2, 0)


def test_without_production_changes_are_refused_with_what_to_do(store: Store, shop: Path) -> None:
    source = f"{write_table(shop, 'changes.csv', [('2', ('b',), 'hat', '')])}&mode=delta"
    for read in (lambda: ingest_source(store, source), lambda: forecast(source, store, NightlyConfig())):
        with pytest.raises(
            BadConfig, match=r"no production release.*run the whole catalogue first, without mode=delta"
        ):
            read()


def test_no_change_leaves_production_as_it_is(store: Store, shop: Path) -> None:
    whole = ingest_source(store, write_table(shop, "all.csv", [("1", ("a",), "coat", "")]))
    publish(store, whole.catalog)
    outcome = ingest_source(store, f"{write_table(shop, 'changes.csv', [])}&mode=delta&deleted=gone")
    assert outcome.catalog.name == whole.catalog.name


def test_changes_of_a_run_that_was_not_published_are_named(
    store: Store, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, ingest_source(store, write_table(shop, "all.csv", [("1", ("a",), "coat", "")])).catalog)
    ingest_source(store, f"{write_table(shop, 'monday.csv', [('2', ('b',), 'hat', '')])}&mode=delta")
    source = f"{write_table(shop, 'tuesday.csv', [('3', ('c',), 'hat', '')])}&mode=delta"
    with caplog.at_level(logging.WARNING):
        outcome = ingest_source(store, source)
    assert items_of(store, outcome)["item_id"].to_list() == ["1", "3"]
    assert "the last run was not published: 1 item of it differ" in outcome.notes[-1]
    assert outcome.notes[-1] in caplog.text


def test_an_update_of_single_items_needs_the_source_that_lists_all(store: Store, shop: Path) -> None:
    whole = write_table(shop, "all.csv", [("1", ("a",), "coat", ""), ("2", ("a",), "coat", "")])
    catalog = ingest_source(store, whole).catalog
    with pytest.raises(BadConfig, match="lists only what changed"):
        plan_change(store, f"{whole}&mode=delta", Catalog.open(store, catalog), Change(changed=("1",)), CONFIG)


def test_a_whole_catalogue_declares_the_rows_that_it_marks_as_deleted(store: Store, shop: Path) -> None:
    whole = write_table(shop, "all.csv", [(sku, ("a", "b"), "coat", "") for sku in "123"])
    publish(store, ingest_source(store, whole).catalog)
    whole = write_table(shop, "all.csv", [("1", ("a",), "coat", ""), ("2", (), "", "1")])
    outcome = ingest_source(store, f"{whole}&deleted=gone")
    assert outcome.declared_removals == ("2", "2/2")
    assert outcome.diff.removed == 5


def test_the_next_night_of_a_feed_declares_the_products_that_it_marks_as_deleted(store: Store, shop: Path) -> None:
    def write_feed(*rows: str) -> str:
        lines = ["id\timage_link\tproduct_type\tgone", *rows]
        (shop / "feed.tsv").write_text("\n".join(lines) + "\n")
        return f"merchant:{shop / 'feed.tsv'}?deleted=gone"

    publish(store, ingest_source(store, write_feed("1\ta.jpg\tcoat\t", "2\tb.jpg\tcoat\t")).catalog)
    unchanged = ingest_source(store, write_feed("1\ta.jpg\tcoat\t", "2\tb.jpg\tcoat\t"))
    assert (unchanged.declared_removals, unchanged.diff.removed) == ((), 0)
    outcome = ingest_source(store, write_feed("1\ta.jpg\tcoat\t", "2\tb.jpg\tcoat\t1"))
    assert (outcome.declared_removals, outcome.diff.removed) == (("2",), 1)


PRODUCTS = st.dictionaries(
    st.sampled_from("1234567"),
    st.tuples(st.lists(st.sampled_from(PICTURES), min_size=1, max_size=2, unique=True).map(tuple),
              st.sampled_from(["coat", "hat"])),
    min_size=1,
)  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(before=PRODUCTS, after=PRODUCTS)
def test_changes_lead_to_the_catalogue_that_a_whole_source_has(
    before: dict[str, tuple[tuple[str, ...], str]], after: dict[str, tuple[tuple[str, ...], str]]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(folder)
        changed = [(sku, *row, "0") for sku, row in after.items() if before.get(sku) != row]
        deleted = [(sku, (), "", "yes") for sku in before if sku not in after]
        stores = [open_store(f"{folder}/{number}") for number in range(2)]
        for store in stores:
            whole = write_table(folder, "before.csv", [(sku, *row, "") for sku, row in before.items()])
            publish(store, ingest_source(store, whole).catalog)
        delta = f"{write_table(folder, 'changes.csv', changed + deleted)}&mode=delta&deleted=gone"
        whole = write_table(folder, "after.csv", [(sku, *row, "") for sku, row in after.items()])
        by_delta, by_whole = ingest_source(stores[0], delta), ingest_source(stores[1], whole)
        assert items_of(stores[0], by_delta).equals(items_of(stores[1], by_whole))
        assert by_delta.catalog.name == by_whole.catalog.name
        gone = {sku for sku, *_ in deleted}
        assert {item.partition("/")[0] for item in by_delta.declared_removals} == gone
