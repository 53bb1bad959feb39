"""Estimate the first run over a catalogue of any size from the measured costs of runs over small ones.

    python -m retrieval_core.maintenance.capacity --pictures 10000000 1000000000 --machines 1 16 256 --shard-rows 8192

The flow's machine does what cannot be spread (listing, fitting, evaluating), one stage after another; the rest goes in
shards to machines like the measured one, and a stage ends with its last shard. So a stage over n pictures takes

    once + n * flow + rows * shard + rounds * task

seconds, where the busiest machine makes rounds = ceil(shards / machines) shards of rows pictures together. Every cost
is a line through measured points: costs that grow more slowly are overestimated, those that grow faster (an index that
is trained on more lists) are underestimated.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.recipes import choose_shards

HOUR_S = 3600
ONCE = frozenset({"backbone", "publish"})  # stages that take as long for few pictures as for many
SHARDED = frozenset({"ingest", "embed", "classify"})
COUNTED_BY = {
    "mask": "masked",
    "embed": "embedded",
    "classify": "classified",
}  # in a run document; else its rows


class StageCost(Value):
    """Seconds of a stage: per run, per picture on the flow's machine, and per picture in shards."""

    name: str
    once_s: float = Field(0.0, ge=0)
    flow_s: float = Field(0.0, ge=0)
    shard_s: float = Field(0.0, ge=0)


class Costs(Value):
    """The costs measured on one machine; `task_s` is the overhead of Prefect and Dask per shard.

    Requests (gets, puts) go to the store and to the pictures; those that do not grow with the catalogue are left out.
    """

    stages: tuple[StageCost, ...]
    shard_rows: int = Field(512, ge=1)
    task_s: float = Field(0.1, ge=0)
    bytes_per_picture: float = Field(0.0, ge=0)
    gets_per_picture: float = Field(0.0, ge=0)
    gets_per_shard: float = Field(0.0, ge=0)
    puts_per_shard: float = Field(0.0, ge=0)


# docs/first-results.md: 1,550 photographs of 550 px, ResNet-18 at 224 px, raw and masked, on 2 cores without a GPU;
# docs/scaling.md says where the other figures are from.
MASKING_S = 0.012
MEASURED = Costs(
    stages=(
        StageCost(name="ingest", shard_s=2.6 / 1550),
        StageCost(name="backbone", once_s=6.0),
        StageCost(name="mask", once_s=384.6 - 1550 * MASKING_S),
        StageCost(name="embed", shard_s=MASKING_S + 56.8 / 1550),
        StageCost(name="head", flow_s=1.3 / 1550),
        StageCost(name="reduce", flow_s=0.2 / 1550),
        StageCost(name="index", flow_s=0.2 / 1550),
        StageCost(name="evaluate", flow_s=0.9 / 1550),
    ),
    bytes_per_picture=14_000.0,
    gets_per_picture=1.0,
    gets_per_shard=34.0,
    puts_per_shard=7.0,
)


# What each night adds at most: a whole index per picture, and all of the pictures that changed. The weekly vacuum keeps
# what is younger than 30 days.
INDEX_BYTES, CHANGED, NIGHTS_KEPT = 2_400.0, 0.01, 37


class Estimate(Value):
    """A run's duration, storage and requests; `flow_hours` is the part of `hours` that more machines do not shorten.

    `kept_bytes` is at most the store after a month of nights that each change 1% of the pictures, `memory_bytes` is
    what the largest stage takes with the default config.
    """

    n_pictures: int
    n_machines: int
    n_shards: int
    hours: float
    flow_hours: float
    store_bytes: int
    kept_bytes: int
    memory_bytes: int
    gets: int
    puts: int


def estimate(costs: Costs, n_pictures: int, n_machines: int) -> Estimate:
    """Estimate a run that makes everything for `n_pictures`. Raises `BadConfig` for a negative number or no machine."""
    if n_pictures < 0 or n_machines < 1:
        raise BadConfig(f"expected 0 or more pictures on 1 or more machines, got {n_pictures} on {n_machines}")
    n_shards = math.ceil(n_pictures / costs.shard_rows)
    flow_s = sum(stage.once_s + n_pictures * stage.flow_s for stage in costs.stages)
    rounds = math.ceil(n_shards / n_machines)
    night_bytes = INDEX_BYTES + CHANGED * costs.bytes_per_picture
    rows = _busiest_rows(costs.shard_rows, n_pictures, n_machines)
    shard_s = sum(rows * stage.shard_s + rounds * costs.task_s for stage in costs.stages if stage.shard_s)
    return Estimate(
        n_pictures=n_pictures,
        n_machines=n_machines,
        n_shards=n_shards,
        hours=(flow_s + shard_s) / HOUR_S,
        flow_hours=flow_s / HOUR_S,
        store_bytes=math.ceil(n_pictures * costs.bytes_per_picture),
        kept_bytes=math.ceil(n_pictures * (costs.bytes_per_picture + NIGHTS_KEPT * night_bytes)),
        memory_bytes=_memory_bytes(n_pictures),
        gets=math.ceil(n_pictures * costs.gets_per_picture + n_shards * costs.gets_per_shard),
        puts=math.ceil(n_shards * costs.puts_per_shard),
    )


def machines_for(costs: Costs, n_pictures: int, hours: float) -> int | None:
    """Return the smallest number of machines that finish within `hours`; None if no number does."""
    low, high = 1, max(1, math.ceil(n_pictures / costs.shard_rows))
    if estimate(costs, n_pictures, high).hours > hours:
        return None
    while low < high:
        middle = (low + high) // 2
        if estimate(costs, n_pictures, middle).hours <= hours:
            high = middle
        else:
            low = middle + 1
    return low


def stage_costs(runs: Iterable[Mapping[str, Any]]) -> tuple[StageCost, ...]:
    """Fit the stages' costs to runs, given by their documents (`runs/TIME.json` of a store): a line per stage.

    From a single run, all seconds are attributed to its pictures, training too; two runs of different sizes separate
    the two. Raises `BadConfig` if no run made anything.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        for name, seconds in run["seconds"].items():
            n_pictures = run[COUNTED_BY[name]] if name in COUNTED_BY else run["catalog"]["rows"]
            if name != "total" and (n_pictures or name not in COUNTED_BY):
                points.setdefault(name, []).append((n_pictures, seconds))
    if not points:
        raise BadConfig("no run to learn costs from: give the documents of runs that embedded pictures")
    return tuple(_stage_cost(name, measured) for name, measured in points.items())


# Of memory that no file backs, measured with `python -m benchmarks.memory`; docs/scaling.md explains the terms.
# What a process takes over a handful of items: libraries, the networks that it runs, the weights that it trains.
PROCESS_BYTES = {"mask": 700e6, "head": 600e6, "reduce": 200e6, "index": 200e6, "evaluate": 700e6}
PREFECT_BYTES = 200e6
ACTIVATION_BYTES = 1_000  # of the U-Net, per pixel of a training batch
MASK_BYTES = 3_000  # a compressed mask and its facts
HEAD_COPIES = 3  # of the head's vectors: as loaded, standardised, and one of either for the training rows
LABEL_COPIES = 2  # of the matrix of labels: of all rows, and of those of the gallery or of the training
SHARD_COPIES = 2  # of the vectors of an index shard: as loaded, and in the order of the shard
TABLE_COPIES = 3  # of the catalogue's rows while they are read, sorted and filtered
ROW_BYTES = 150  # columns that ingest adds to a row, and the hash that finds its vector
DIM_ROWS = 200_000  # that decide in how many dimensions candidates are searched
BLOCK_BYTES = 4 * 32_768 * 3  # per dimension: blocks of vectors that are compared, joined and checked


class CatalogueSize(Value):
    """What the memory of a run depends on; `table_bytes` are those of the source's rows in memory."""

    n_rows: int
    n_masked: int
    n_labels: int
    table_bytes: int
    dim: int

    @classmethod
    def of(cls, rows: pl.DataFrame, dim: int) -> CatalogueSize:
        """Return the size of a source's rows with vectors of `dim` dimensions."""
        return cls(
            n_rows=len(rows),
            n_masked=rows["mask_uri"].count(),
            n_labels=rows["labels"].explode().drop_nulls().n_unique(),
            table_bytes=int(rows.estimated_size()),
            dim=dim,
        )


def stage_bytes(size: CatalogueSize, config: NightlyConfig, n_shards: int) -> dict[str, int]:
    """Return the most bytes that each stage takes in a process of its own, without the pages of mapped files."""
    n_headed, n_pictures = min(size.n_rows, config.head.max_rows), min(size.n_masked, config.mask.max_pictures)
    tables = TABLE_COPIES * (size.table_bytes + ROW_BYTES * size.n_rows)
    reduced = sum(dim for dim in config.reduce.dims if dim < size.dim)
    compared = 4 * min(size.n_rows, DIM_ROWS) * (size.dim + reduced)
    of_shard = SHARD_COPIES * 4 * size.n_rows // n_shards * (size.dim + max(config.reduce.dims))
    grows = {
        "mask": ACTIVATION_BYTES * config.mask.batch_size * config.mask.size_px**2 + MASK_BYTES * n_pictures,
        "head": 4 * n_headed * (HEAD_COPIES * size.dim + LABEL_COPIES * size.n_labels),
        "reduce": BLOCK_BYTES * size.dim,
        "index": max(compared, of_shard),
        "evaluate": BLOCK_BYTES * size.dim + LABEL_COPIES * size.n_rows * size.n_labels,
    }
    return {stage: round(PROCESS_BYTES[stage] + tables + n_bytes) for stage, n_bytes in grows.items()}


def as_markdown(estimates: Iterable[Estimate]) -> str:
    """Return a Markdown table with a row per estimate."""
    lines = [
        "| pictures | machines | shards | hours | of them the flow's | stored | after a month | memory | read requests "
        "| write requests |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in estimates:
        stored = " | ".join(_gigabytes(n) for n in (row.store_bytes, row.kept_bytes, row.memory_bytes))
        hours = f"{row.hours:,.1f} | {row.flow_hours:,.1f}"
        counts = f"{row.n_pictures:,} | {row.n_machines:,} | {row.n_shards:,}"
        lines.append(f"| {counts} | {hours} | {stored} | {row.gets:,} | {row.puts:,} |")
    return "\n".join(lines)


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.0f} GB" if n_bytes >= 10e9 else f"{n_bytes / 1e9:.1f} GB"


def _memory_bytes(n_pictures: int) -> int:
    """Return what the largest stage of a run with the default config takes, with 512 dimensions and 300 labels."""
    config = NightlyConfig()
    size = CatalogueSize(n_rows=n_pictures, n_masked=0, n_labels=300, table_bytes=130 * n_pictures, dim=512)
    return round(PREFECT_BYTES + max(stage_bytes(size, config, choose_shards(n_pictures, config.index)).values()))


def _busiest_rows(shard_rows: int, n_pictures: int, n_machines: int) -> int:
    """Return the pictures of the busiest machine; the short last shard counts only if it is made in a round alone."""
    n_full, short_rows = divmod(n_pictures, shard_rows)
    rounds, remaining = divmod(n_full, n_machines)
    return (rounds + bool(remaining)) * shard_rows + (0 if remaining else short_rows)


def _stage_cost(name: str, points: Sequence[tuple[int, float]]) -> StageCost:
    once_s, slope_s = (max(s for _, s in points), 0.0) if name in ONCE else _line(points)
    return StageCost(name=name, once_s=once_s, **{"shard_s" if name in SHARDED else "flow_s": slope_s})


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return intercept and slope by least squares, neither below 0; through the origin if all sizes are equal."""
    mean_n = sum(n for n, _ in points) / len(points)
    mean_s = sum(s for _, s in points) / len(points)
    variance = sum((n - mean_n) ** 2 for n, _ in points)
    if variance:
        slope = sum((n - mean_n) * (s - mean_s) for n, s in points) / variance
        if slope < 0:
            return mean_s, 0.0
        if mean_s >= slope * mean_n:
            return mean_s - slope * mean_n, slope
    squares = sum(n * n for n, _ in points)
    return (0.0, sum(n * s for n, s in points) / squares) if squares else (mean_s, 0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table for the costs measured on photographs; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_core.maintenance.capacity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pictures", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--machines", type=int, nargs="+", default=[1], metavar="N", help="like the measured one")
    parser.add_argument("--shard-rows", type=int, default=MEASURED.shard_rows, metavar="N", help="pictures in a shard")
    arguments = parser.parse_args(argv)
    costs = MEASURED.model_copy(update={"shard_rows": max(1, arguments.shard_rows)})
    try:
        print(as_markdown(estimate(costs, n, w) for n in arguments.pictures for w in arguments.machines))
    except BadConfig as error:
        print(f"vitrine: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
