"""Peak memory of each stage over a catalogue of drawn vectors, each stage in a process of its own.

    python -m benchmarks.memory [--rows 1000000] [--no-head] [--shards] [--limit-mb 4000] [--folder DIR] [--json FILE]

The catalogue has 512-dimensional vectors, stored as the parts of a vector set, and one picture that all items share.
The first run trains a head on two epochs, boosts, reduces, indexes, evaluates and publishes; the second one indexes and
evaluates a catalogue in which one in a hundred items was replaced, against the first.

`own` is memory that no file backs: it has to fit. `all` also counts the mapped pages of files, which the kernel drops
when it needs the memory. CPU time is of all cores; with `--shards`, exact searches are made in shards as other machines
make them, whose time is shown apart. Exits with 1 where the own memory of a stage exceeds the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring.process_usage import run_measured
from benchmarks.memory.drawn_run import DIM, DrawnRun

STAGES = ("draw", "head", "reduce", "index", "evaluate", "update", "index the update", "evaluate the update")
NOT_MEASURED = {"draw", "update"}
STAGE = "--stage"  # hidden: run by the fresh process


def main() -> int:
    if STAGE in sys.argv:
        stage, rows, folder = sys.argv[2:]
        DrawnRun(Path(folder), int(rows)).run(stage)
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--limit-mb", type=float, default=4_000, metavar="MB", help="largest own memory of a stage")
    parser.add_argument("--folder", type=Path, help="where the store is written: 11 kB a row")
    parser.add_argument("--no-head", action="store_true", help="publish the vectors as they are")
    parser.add_argument("--shards", action="store_true", help="search exactly in shards, to measure what these take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="vitrine-memory-") as folder:
        peaks = list(_measure(arguments.rows, Path(folder), not arguments.no_head, arguments.shards))
    if arguments.json:
        arguments.json.write_text(json.dumps([peak._asdict() for peak in peaks], indent=1) + "\n", encoding="utf-8")
    return int(any(peak.own_mb > arguments.limit_mb for peak in peaks))


class Peak(NamedTuple):
    """The most memory of a stage, in 10^6 bytes, and how long it took; `shards_s` is part of `cpu_s`."""

    stage: str
    own_mb: float
    all_mb: float
    wall_s: float
    cpu_s: float
    shards_s: float


def _measure(n_rows: int, folder: Path, has_head: bool, in_shards: bool) -> Iterator[Peak]:
    print(f"{n_rows:,} rows of {DIM} dimensions", flush=True)
    for stage in STAGES if has_head else [stage for stage in STAGES if stage != "head"]:
        step = f"{stage} in shards" if in_shards and stage.startswith("evaluate") else stage
        usage = run_measured([sys.executable, "-m", "benchmarks.memory", STAGE, step, str(n_rows), str(folder)])
        if stage not in NOT_MEASURED:
            shards_s = sum(map(float, usage.stdout.split()))
            peak = Peak(stage, usage.peak_own_mb, usage.peak_mb, usage.wall_s, usage.cpu_s, shards_s)
            print(
                f"  {stage:20} {peak.own_mb:7,.0f} MB own {peak.all_mb:7,.0f} MB all {peak.wall_s:7.1f} s "
                f"{peak.cpu_s - shards_s:7.1f} s of CPU, {shards_s:.1f} s in shards",
                flush=True,
            )
            yield peak


if __name__ == "__main__":
    sys.exit(main())
