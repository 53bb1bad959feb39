"""A catalogue of tiny drawn pictures, as files and a table, to measure what a run costs besides its networks."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

VIEWS = 5  # pictures of one product
CATEGORIES = ("dress", "coat", "shirt", "shoe", "bag", "hat", "skirt", "scarf")
COLUMNS = ("item_id", "image_uri", "product_id", "category", "labels", "attr_season")
FOLDER_SIZE = 1_000  # pictures in a folder


class DrawnCatalogue(NamedTuple):
    """Pictures of `size_px` in a folder, and the table that names them."""

    folder: Path
    size_px: int = 64

    @property
    def source(self) -> str:
        return f"table:{self.folder / 'items.csv'}"

    def draw(self, numbers: Iterable[int], edition: int = 0) -> None:
        """Draw the pictures of these items; another `edition` gives another picture of the same product."""
        for number in numbers:
            path = self.folder / _path_of(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            _picture(number, edition, self.size_px).save(path, "JPEG", quality=85)

    def draw_one_folder(self, n_items: int) -> None:
        """Draw the pictures of the first folder, and link the folders of all other items to it."""
        self.draw(range(FOLDER_SIZE))
        for number in range(1, -(-n_items // FOLDER_SIZE)):
            (self.folder / f"images/{number:04}").symlink_to("0000", target_is_directory=True)

    def write_table(self, numbers: Iterable[int], restyled: Container[int] = ()) -> None:
        """Write the table of these items; those `restyled` get another season."""
        with (self.folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_row_of(number, number in restyled) for number in numbers)

    def path(self, number: int) -> Path:
        """Return the path of an item's picture."""
        return self.folder / _path_of(number)


def item_id(number: int) -> str:
    return f"sku-{number:07}"


def seal_as_seen(catalogue: DrawnCatalogue, store_url: str) -> None:
    """Write to a store what a run leaves that has read every picture of the table: enough for the next ingest.

    Only the first folder's pictures are read; with `draw_one_folder` those of the others are the same.
    """
    import polars as pl

    from retrieval_core.artifacts import releases
    from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, LEDGER, QUARANTINE_SCHEMA, SEEN_ITEMS, row_id
    from retrieval_core.artifacts.manifests import Catalog, Ref, Release
    from retrieval_core.artifacts.parts import put_part, table_bytes
    from retrieval_core.config.stages import IngestConfig
    from retrieval_core.ingest.snapshot import take_snapshot
    from retrieval_core.ingest.sources.registry import open_source
    from retrieval_core.store.uris import open_store

    rows = open_source(catalogue.source).rows()
    read = take_snapshot(rows.head(FOLDER_SIZE), None, IngestConfig(), "").items
    name = pl.col("image_uri").str.split("/").list.last().alias("name")
    facts = read.select("content_id", "mask_id", "size_bytes", "version", "height", "width", "status", name)
    numbers = pl.Series("row_id", [row_id(item) for item in rows["item_id"]], pl.Int64)
    seen = rows.with_columns(name, numbers, split=pl.lit("train")).join(facts, on="name", maintain_order="left")
    items, store = table_bytes(seen.select(*CATALOG_SCHEMA)), open_store(store_url)
    store.put(SEEN_ITEMS, items)
    store.put(LEDGER, table_bytes(pl.DataFrame(schema=QUARANTINE_SCHEMA)))
    part = put_part(store, f"{Catalog.folder}/seen/items.parquet", items, len(seen))
    catalog = Catalog(fingerprint="seen", parts=(part,)).seal(store).ref
    nowhere = Ref(kind="", key="none/none")
    release = Release(
        fingerprint="seen", parents={"catalog": "seen"}, catalog=catalog, backbone=nowhere, vectors=nowhere,
        index=nowhere, report=nowhere, variant="raw", gate="published",
    ).seal(store)  # fmt: skip
    releases.point_alias(store, releases.LATEST, release.fingerprint)


def _row_of(number: int, is_restyled: bool) -> tuple[str, ...]:
    """Return an item's row of the table, by `COLUMNS`."""
    product = number // VIEWS
    category = CATEGORIES[product % len(CATEGORIES)]
    labels = f"{'new' if product % 3 else 'old'}|{category}"
    season = "sale" if is_restyled else f"season-{product % 4}"
    return item_id(number), _path_of(number), f"product-{product}", category, labels, season


def _path_of(number: int) -> str:
    return f"images/{number // FOLDER_SIZE:04}/{number % FOLDER_SIZE:03}.jpg"


def _picture(number: int, edition: int, size_px: int) -> Image.Image:
    """Draw the coarse pattern of a product with the finer one of a view, so that no two pictures are equal."""
    product = np.random.default_rng(number // VIEWS).integers(0, 256, (4, 4, 3))
    view = np.random.default_rng((number, edition)).integers(-40, 41, (8, 8, 3))
    pixels = np.kron(product, np.ones((2, 2, 1), np.int64)) + view
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((size_px, size_px), Image.Resampling.BILINEAR)
