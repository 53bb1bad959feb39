"""A catalogue is sealed once for the same items; what was read is kept for the next run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.artifacts.catalog_rows import LEDGER, SEEN_ITEMS, read_items
from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.artifacts.parts import read_table, read_unsealed, table_bytes
from retrieval_core.artifacts.releases import LATEST, PRODUCTION
from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import NotFound
from retrieval_core.images import thumbnail
from retrieval_core.ingest.catalog import IngestOutcome, seal_selection
from retrieval_core.ingest.change import Change
from retrieval_core.ingest.selection import WHOLE_CATALOG, ItemSelection
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
from tests.ingesting import ingest_change, ingest_source

TOLERANT = IngestConfig(max_reject_fraction=0.5)
NAMES = ("dress/a.jpg", "dress/b.jpg", "shoe/c.jpg")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "shop" / name, number)
    return tmp_path / "shop"


def draw(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(thumbnail(np.full((8, 8, 3), 40 * level, np.uint8), 8))


def settings(store: Store) -> Settings:
    return Settings.load(store=store.url)


def ingest(store: Store, shop: Path) -> IngestOutcome:
    return ingest_source(settings(store), f"folder:{shop}", TOLERANT)


def item_ids(store: Store, catalog: Catalog) -> list[str]:
    return read_items(store, catalog)["item_id"].to_list()


def test_the_same_items_are_sealed_once_and_read_once(store: Store, shop: Path) -> None:
    first = ingest(store, shop)
    again = ingest(store, shop)
    assert (first.n_read, again.n_read) == (3, 0)
    assert again.catalog == first.catalog
    assert Catalog.open(store, first.catalog).counts == {"rows": 3, "ok": 3, "quarantined": 0}
    assert first.diff.added == 3
    assert read_unsealed(store, SEEN_ITEMS)["item_id"].to_list() == list(NAMES)


def test_changes_are_counted_since_production_and_not_since_a_run_that_was_held(store: Store, shop: Path) -> None:
    runs = SealedRuns(store)
    runs.seal(NAMES[:1], alias=PRODUCTION)
    runs.seal(NAMES, alias=LATEST)
    assert ingest(store, shop).diff.added == 2


def test_a_bad_picture_is_a_row_of_the_ledger_and_of_the_log(
    store: Store, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shop / NAMES[1]).write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        outcome = ingest(store, shop)
    assert Catalog.open(store, outcome.catalog).counts == {"rows": 3, "ok": 2, "quarantined": 1}
    assert read_unsealed(store, LEDGER)["item_id"].to_list() == [NAMES[1]]
    assert f"quarantined {NAMES[1]}: is not a JPEG" in caplog.text


def test_a_change_reads_only_what_it_names_and_differs_from_its_base(
    store: Store, shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = Catalog.open(store, ingest(store, shop).catalog)
    draw(shop / "shoe/d.jpg", 5)
    draw(shop / "shoe/e.jpg", 6)
    (shop / NAMES[0]).unlink()
    change = Change(added=("shoe/d.jpg", "nowhere"), removed=(NAMES[0],))
    with caplog.at_level(logging.WARNING):
        outcome = ingest_change(settings(store), f"folder:{shop}", base, change, TOLERANT)
    assert outcome.n_read == 1
    assert (outcome.diff.added, outcome.diff.removed) == (1, 1)
    updated = [NAMES[1], NAMES[2], "shoe/d.jpg"]
    assert item_ids(store, Catalog.open(store, outcome.catalog)) == updated
    assert read_unsealed(store, SEEN_ITEMS)["item_id"].to_list() == updated
    assert "1 name found in neither the source nor the catalogue: 'nowhere'" in caplog.text


def test_selected_items_are_a_catalogue_that_names_the_whole(store: Store, shop: Path) -> None:
    (shop / NAMES[1]).write_bytes(b"no picture")
    whole = Catalog.open(store, ingest(store, shop).catalog)
    dresses = seal_selection(store, whole, ItemSelection(where="category=dress"))
    assert dresses.parents == {WHOLE_CATALOG: whole.fingerprint}
    assert item_ids(store, dresses) == [NAMES[0], NAMES[1]]
    assert dresses.counts == {"rows": 2, "ok": 1, "quarantined": 1}
    assert read_table(store, dresses.part("quarantine.parquet"))["item_id"].to_list() == [NAMES[1]]
    assert seal_selection(store, whole, ItemSelection(where="category in (dress, shoe)")) == whole
    with pytest.raises(NotFound, match="no item of the catalogue is chosen by: where category=hat"):
        seal_selection(store, whole, ItemSelection(where="category=hat"))


def test_a_store_of_a_version_without_fields_keeps_its_catalogue_and_its_readings(store: Store, shop: Path) -> None:
    first = ingest(store, shop)
    store.put(SEEN_ITEMS, table_bytes(read_unsealed(store, SEEN_ITEMS).drop("fields")))
    again = ingest(store, shop)
    assert (again.catalog, again.n_read, again.fields) == (first.catalog, 0, None)
    assert read_unsealed(store, SEEN_ITEMS)["fields"].to_list() == [[]] * len(NAMES)
