"""Five nights of a drawn shop with prices and links, on the backbone that needs no network."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.cli.main import main
from retrieval_core.ingest.sources.synthetic import SyntheticSource

PRODUCTS, VIEWS, NEW = 80, 4, 6
SIZE_PX = 128
CONFIG = (
    "embed.backbone=efficientnet_lite0",
    "mask.enabled=false",
    "head.enabled=false",
    "evaluate.synthetic_queries=20",
)
COLUMNS = ("item_id", "image_uri", "product_id", "category", "labels", "title", "price", "link")
REPORT_URL = "https://vitrine.example/reports"
SHOP = "https://shop.example/p/"

Row = dict[str, str]
HELD = 3  # exit code of a run that the gate holds back


class Made(NamedTuple):
    """What a night left: what the terminal showed at its end, and the report's page."""

    terminal: str
    page: Path


class Night(NamedTuple):
    """A night: the one before it, what happens to the shop's rows in between, and what is set."""

    name: str
    before: str
    change: Callable[[list[Row], Path], list[Row]]
    overrides: tuple[str, ...] = ()


def _same(rows: list[Row], folder: Path) -> list[Row]:
    return rows[: -NEW * VIEWS]


def _ordinary(rows: list[Row], folder: Path) -> list[Row]:
    """Sell two products out, take in new ones, lower prices, mistake three categories and spoil three new pictures."""
    kept = [row for row in rows if row["product_id"] not in {"p0007", "p0031"}]
    for row in kept[:60]:
        row["price"] = f"{float(row['price'].split()[0]) * 0.8:.2f} EUR"
    others = {row["category"] for row in rows}
    for row in kept[13:100:40]:
        row["category"] = min(others - {row["category"]})
    _spoil(kept[-3:], folder)
    kept[101]["image_uri"] = kept[201]["image_uri"]  # one picture under two products
    return kept


def _shrunk(rows: list[Row], folder: Path) -> list[Row]:
    """Lose every other product of the feed."""
    kept = _ordinary(rows, folder)
    return [row for row in kept if int(row["product_id"][1:]) % 2]


def _unreadable(rows: list[Row], folder: Path) -> list[Row]:
    kept = _ordinary(rows, folder)
    _spoil(kept[5:200:15], folder)
    return kept


NIGHTS = (
    Night("first", "", _same),
    Night("published", "first", _ordinary),
    Night("loss", "published", _ordinary, ("embed.weights=random:0",)),
    Night("shrunk", "published", _shrunk),
    Night("unreadable", "published", _unreadable, ("gate.max_quarantine_rate=0.02",)),
)


def make(night: Night, work: Path) -> Made:
    """Run one night in its own folder below `work`."""
    folder = work / night.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if night.before:
        shutil.copytree(work / night.before / "store", folder / "store")
    write_shop(work, night.change)
    sets = [part for override in (*CONFIG, *night.overrides) for part in ("--set", override)]
    os.environ["VITRINE_REPORT_URL"] = REPORT_URL
    with redirect_stdout(StringIO()) as printed, chdir(work):
        code = main(["run", "--source", "table:shop/items.csv", "--store", f"{night.name}/store", *sets])
    if code not in (0, HELD):
        raise SystemExit(code)
    pages = (folder / "store/reports").glob("*/*/report.html")
    return Made(printed.getvalue(), max(pages, key=lambda page: page.stat().st_mtime).absolute())


def write_shop(work: Path, change: Callable[[list[Row], Path], list[Row]]) -> None:
    """Write the shop of a night: its pictures, which are drawn once, and the list of its items."""
    shop = work / "shop"
    drawn = SyntheticSource(f"{work / 'drawn'}?products={PRODUCTS + NEW}&views={VIEWS}&size_px={SIZE_PX}").rows()
    shutil.copytree(work / "drawn/images", shop / "images", dirs_exist_ok=True)
    rows = change(list(_rows(drawn)), shop)
    with (shop / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _rows(drawn: pl.DataFrame) -> Iterator[Row]:
    for number, row in enumerate(drawn.iter_rows(named=True)):
        product = row["product_id"]
        yield {
            "item_id": row["item_id"],
            "image_uri": f"images/{Path(row['image_uri']).name}",
            "product_id": product,
            "category": row["category"],
            "labels": "|".join(row["labels"]),
            "title": f"{row['labels'][0]} {row['category']}",
            "price": f"{19 + 7 * (number // VIEWS % 9)}.00 EUR",
            "link": SHOP + product,
        }


def _spoil(rows: list[Row], folder: Path) -> None:
    """Cut the pictures of these rows off."""
    for row in rows:
        path = folder / row["image_uri"]
        path.write_bytes(path.read_bytes()[:500])
