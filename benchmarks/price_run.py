"""Time a run in which only prices moved, beside the run that made the catalogue: `python -m benchmarks.price_run`.

Draws a table of small pictures with titles, prices and links, runs it, moves every price and runs it again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from retrieval_core.images import thumbnail

SETTINGS = [
    "embed.backbone=pca_pixels",
    "embed.weights=fit:0",
    "embed.background=raw",
    "embed.size_px=32",
    "reduce.dims=[32]",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    with tempfile.TemporaryDirectory() as name:
        folder, n_items = Path(name), parser.parse_args().items
        _draw(folder, n_items)
        for currency in ("EUR", "USD"):
            _write_table(folder, n_items, currency)
            run = _run(folder)
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["seconds"].items())
            counts = {key: run["catalog"][key] for key in ("rows", "added", "changed", "refreshed")}
            print(f"prices in {currency}: {run['gate']}, {counts}, {run['embedded']} embedded; seconds: {stages}")


def _draw(folder: Path, n_items: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(n_items):
        pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
        (folder / f"{number}.jpg").write_bytes(thumbnail(pixels, 48))


def _write_table(folder: Path, n_items: int, currency: str) -> None:
    number = pl.int_range(n_items, eager=True).cast(pl.String)
    table = pl.DataFrame({"item_id": number, "image_uri": number + ".jpg", "title": "Lamp number " + number})
    table.with_columns(
        price=number + f".50 {currency}", link="https://shop.example/" + number, category=number.str.tail(1)
    ).write_csv(folder / "items.csv")


def _run(folder: Path) -> dict[str, Any]:
    options = [f"--set={setting}" for setting in SETTINGS]
    command = [
        sys.executable,
        "-m",
        "deployments.cli.main",
        "run",
        "--source=table:items.csv",
        "--store=store",
        "--json",
    ]
    done = subprocess.run([*command, *options], cwd=folder, stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    main()
