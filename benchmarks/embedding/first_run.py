"""The masks and vectors of a first run, in turn by this checkout and by an earlier commit.

    python -m benchmarks.embedding.first_run SOURCE --against COMMIT [--backbone mobilenetv3] [--rounds 3] [--json FILE]

Every round masks all pictures of the source and embeds them raw and masked, first as the commit does, then as this
checkout does, each in a process of its own and with a store that holds the catalogue, a U-Net of one epoch and the
backbone. Seconds are those of the stages mask and embed. Both have to store the same masks, and vectors that differ by
at most 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl

CHECKOUT = Path(__file__).parents[2]
BEFORE, AFTER = "before", "after"
MADE = ("masks", "vectors")  # removed from the prepared store
MAX_DIFFERENCE = 1e-5
# One epoch on few pictures, whose masks are all used whatever their shape.
CONFIG = (
    "embed.weights=random:0",
    "mask.max_epochs=1",
    "mask.max_pictures=200",
    "mask.min_area=0",
    "mask.max_area=1",
    "mask.min_largest_part=0",
)


class Bench(NamedTuple):
    """The stores of the runs in a folder, and the code that each run uses by its name."""

    folder: Path
    code: dict[str, Path]
    source: str
    backbone: str

    def prepare(self) -> None:
        """Make the catalogue, the source's own masks and the models; what is made of each picture is removed again."""
        self._vitrine(BEFORE, "prepared", "train", "segmenter")
        prepared = self.folder / "prepared"
        kept = set(prepared.rglob("*"))
        self._backfill(BEFORE, "prepared")
        for path in (path for made in MADE for path in prepared.glob(f"{made}/**/*") if path not in kept):
            if path.is_file():
                path.unlink()

    def run(self, name: str) -> dict[str, Any]:
        """Mask and embed with the code of this name in a fresh copy of the prepared store; return what it printed."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "prepared", self.folder / name)
        return self._backfill(name, name)

    def compare(self) -> None:
        """Raise `RuntimeError` if the last runs of both did not store the same."""
        masks, vectors = ([self._table(name, made) for name in self.code] for made in MADE)
        if not masks[0].equals(masks[1]):
            raise RuntimeError("the masks differ from those of the earlier commit")
        if not vectors[0].drop("vector").equals(vectors[1].drop("vector")):
            raise RuntimeError("the vectors are not of the same pictures and families")
        largest = np.abs(vectors[0]["vector"].to_numpy() - vectors[1]["vector"].to_numpy()).max()
        if largest > MAX_DIFFERENCE:
            raise RuntimeError(f"the vectors differ by up to {largest:.1e} from those of the earlier commit")

    def _table(self, name: str, made: str) -> pl.DataFrame:
        parts = (self.folder / name).glob(f"{made}/*/parts/*.parquet")
        tables = [pl.read_parquet(part).with_columns(family=pl.lit(part.parents[1].name)) for part in parts]
        return pl.concat(tables).sort("family", "content_id")

    def _backfill(self, name: str, store: str) -> dict[str, Any]:
        return self._vitrine(name, store, "backfill", "--through=embed")

    def _vitrine(self, name: str, store: str, *words: str) -> dict[str, Any]:
        """Run a command of `vitrine` with the code of this name; return the document that it prints."""
        sets = [f"--set={each}" for each in (*CONFIG, f"embed.backbone={self.backbone}")]
        options = [f"--source={self.source}", f"--store={self.folder / store}", "--json", *sets]
        command, code = [sys.executable, "-m", "deployments.cli.main", *words, *options], self.code[name]
        printed = subprocess.run(
            command, cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.PIPE, check=True
        ).stdout
        document: dict[str, Any] = json.loads(printed)
        return document


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedding.first_run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("source", help="KIND:URI of a catalogue with masks, for example ccp:DIR")
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--backbone", default="mobilenetv3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name, checked_out(arguments.against, Path(name) / "code") as earlier:
        bench = Bench(Path(name), {BEFORE: earlier, AFTER: CHECKOUT}, arguments.source, arguments.backbone)
        figures = measure(bench, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Run both in turn, print the table and return its figures. Raises `RuntimeError` if they store something else."""
    bench.prepare()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.code}
    for _ in range(rounds):
        for name in bench.code:
            runs[name].append(bench.run(name))
        bench.compare()
    n_pictures = runs[AFTER][0]["masked"]
    seconds = {name: [run["seconds"]["mask"] + run["seconds"]["embed"] for run in each] for name, each in runs.items()}
    faster = [before / after for before, after in zip(seconds[BEFORE], seconds[AFTER], strict=True)]
    print(f"{n_pictures:,} pictures masked and embedded raw and masked, {bench.backbone}; {os.cpu_count()} cores\n")
    print("|        | seconds | pictures/s |\n|--------|--------:|-----------:|")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"| {name:6} | {middle:7.1f} | {n_pictures / middle:10.1f} |")
    print(f"\n{statistics.median(faster):.2f} times as fast; by round {' '.join(f'{each:.2f}' for each in faster)}")
    return {"pictures": n_pictures, "cores": os.cpu_count(), "seconds": seconds, "faster": faster}


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a folder for as long as the block lasts."""
    git = ["git", "-C", str(CHECKOUT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


if __name__ == "__main__":
    main()
