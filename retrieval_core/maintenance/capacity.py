"""What a first night over a catalogue of any size would take, from what a night over a small one took.

    python -m retrieval_core.capacity --pictures 10000000 1000000000 --machines 1 16 256 --shard-rows 8192

The flow's machine does what cannot be spread (ingest, fitting, evaluation), one stage after the other; the rest goes in
shards to machines like the one that was measured. A stage ends with its last shard. So one of n pictures takes

    once + n * flow + rows * shard + rounds * task

seconds, where rounds = ceil(shards / machines) is how many shards the busiest machine makes, and rows their pictures.
Every cost is a line through measured points: what grows more slowly is overestimated, what grows faster (an index
trained on more lists) is not foreseen.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig

HOUR_S = 3600
ONCE = frozenset({"backbone", "publish"})  # take as long for few pictures as for many
SHARDED = frozenset({"mask", "embed", "classify"})
COUNTED_BY = {"mask": "masked", "embed": "embedded", "classify": "classified"}  # in a run's document; else its rows


class StageCost(Value):
    """Seconds of a stage: whatever the size, for each picture on the flow's machine, for each picture in shards."""

    name: str
    once_s: float = Field(0.0, ge=0)
    flow_s: float = Field(0.0, ge=0)
    shard_s: float = Field(0.0, ge=0)


class Costs(Value):
    """What was measured on one machine; `task_s` is Prefect's and Dask's part of a shard.

    Requests are to the store and to where the pictures lie; those that do not grow with the catalogue are left out.
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
        StageCost(name="ingest", flow_s=2.6 / 1550),
        StageCost(name="backbone", once_s=6.0),
        StageCost(name="mask", once_s=384.6 - 1550 * MASKING_S, shard_s=MASKING_S),
        StageCost(name="embed", shard_s=56.8 / 1550),
        StageCost(name="head", flow_s=1.3 / 1550),
        StageCost(name="reduce", flow_s=0.2 / 1550),
        StageCost(name="index", flow_s=0.2 / 1550),
        StageCost(name="evaluate", flow_s=0.9 / 1550),
    ),
    bytes_per_picture=14_000.0,
    gets_per_picture=6.0,
    gets_per_shard=34.0,
    puts_per_shard=7.0,
)


class Estimate(Value):
    """`flow_hours` are those within `hours` that more machines do not shorten; `gets` count every reading request."""

    n_pictures: int
    n_machines: int
    n_shards: int
    hours: float
    flow_hours: float
    store_bytes: int
    gets: int
    puts: int


def estimate(costs: Costs, n_pictures: int, n_machines: int) -> Estimate:
    """A night that makes everything of `n_pictures`. Raises `BadConfig` for a negative number or no machine."""
    if n_pictures < 0 or n_machines < 1:
        raise BadConfig(f"expected 0 or more pictures on 1 or more machines, got {n_pictures} on {n_machines}")
    n_shards = math.ceil(n_pictures / costs.shard_rows)
    flow_s = sum(stage.once_s + n_pictures * stage.flow_s for stage in costs.stages)
    rounds = math.ceil(n_shards / n_machines)
    rows = _busiest_rows(costs.shard_rows, n_pictures, n_machines)
    shard_s = sum(rows * stage.shard_s + rounds * costs.task_s for stage in costs.stages if stage.shard_s)
    return Estimate(
        n_pictures=n_pictures,
        n_machines=n_machines,
        n_shards=n_shards,
        hours=(flow_s + shard_s) / HOUR_S,
        flow_hours=flow_s / HOUR_S,
        store_bytes=math.ceil(n_pictures * costs.bytes_per_picture),
        gets=math.ceil(n_pictures * costs.gets_per_picture + n_shards * costs.gets_per_shard),
        puts=math.ceil(n_shards * costs.puts_per_shard),
    )


def machines_for(costs: Costs, n_pictures: int, hours: float) -> int | None:
    """The fewest machines that are done within `hours`; None where no number of them is."""
    most = max(1, math.ceil(n_pictures / costs.shard_rows))
    if estimate(costs, n_pictures, most).hours > hours:
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if estimate(costs, n_pictures, middle).hours <= hours:
            high = middle
        else:
            low = middle + 1
    return low


def stage_costs(runs: Iterable[Mapping[str, Any]]) -> tuple[StageCost, ...]:
    """What the stages cost in the runs of these documents (`runs/TIME.json` of a store): a line through each's points.

    Of one run, all seconds are laid on its pictures, training too: two runs of different sizes tell both apart.
    Raises `BadConfig` where no run made anything.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        for name, seconds in run["seconds"].items():
            n_pictures = run[COUNTED_BY[name]] if name in COUNTED_BY else run["catalog"]["rows"]
            if name != "total" and (n_pictures or name not in COUNTED_BY):
                points.setdefault(name, []).append((n_pictures, seconds))
    if not points:
        raise BadConfig("no run to learn costs from: give the documents of runs that embedded pictures")
    return tuple(_stage_cost(name, found) for name, found in points.items())


def as_markdown(estimates: Iterable[Estimate]) -> str:
    """One row an estimate."""
    lines = [
        "| pictures | machines | shards | hours | of them the flow's | stored | reading requests | writing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in estimates:
        stored = f"{one.store_bytes / 1e9:,.0f} GB"
        hours = f"{one.hours:,.1f} | {one.flow_hours:,.1f}"
        counts = f"{one.n_pictures:,} | {one.n_machines:,} | {one.n_shards:,}"
        lines.append(f"| {counts} | {hours} | {stored} | {one.gets:,} | {one.puts:,} |")
    return "\n".join(lines)


def _busiest_rows(shard_rows: int, n_pictures: int, n_machines: int) -> int:
    """Pictures of the machine that makes most; only the last shard is short, which matters where it is made alone."""
    full, short = divmod(n_pictures, shard_rows)
    rounds, over = divmod(full, n_machines)
    return (rounds + bool(over)) * shard_rows + (0 if over else short)


def _stage_cost(name: str, points: Sequence[tuple[int, float]]) -> StageCost:
    once_s, slope_s = (max(s for _, s in points), 0.0) if name in ONCE else _line(points)
    return StageCost(name=name, once_s=once_s, **{"shard_s" if name in SHARDED else "flow_s": slope_s})


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept and slope by least squares, neither below 0; through the origin where all sizes are one."""
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
    """Print the table for the costs that were measured on photographs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_core.capacity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pictures", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--machines", type=int, nargs="+", default=[1], metavar="N", help="like the one measured")
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
