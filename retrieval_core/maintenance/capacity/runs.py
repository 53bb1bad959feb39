"""Estimate the first run over a catalogue of any size, and the nights after it, from measured costs.

The flow's machine does what cannot be spread (comparing rows, fitting, judging), one stage after another; the rest
goes in shards to machines like the measured one, and a stage ends with its last shard. So a stage over n pictures takes

    once + n * flow + rows * shard + rounds * task

seconds, where the busiest machine makes rounds = ceil(shards / machines) shards of rows pictures together. Every cost
is a line through measured points: costs that grow more slowly are overestimated, those that grow faster (an index that
is trained on more lists) are underestimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from retrieval_core.artifacts.manifests import Value
from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.capacity.memory import run_bytes

HOUR_S = 3600
ONCE = frozenset({"backbone", "publish"})  # stages that take as long for few pictures as for many
# All but training, which is once, and evaluation, of which the flow's machine does too much to count it as spread.
SHARDED = frozenset({"ingest", "embed", "classify", "head", "reduce", "index"})
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
MASKING_S, BOOSTING_S, REDUCING_S = 0.012, 27e-6, 14e-6
MEASURED = Costs(
    stages=(
        StageCost(name="ingest", flow_s=36e-6, shard_s=2.6 / 1550),
        StageCost(name="backbone", once_s=6.0),
        StageCost(name="mask", once_s=384.6 - 1550 * MASKING_S),
        StageCost(name="embed", flow_s=15e-6, shard_s=MASKING_S + 56.8 / 1550),
        StageCost(name="head", once_s=1.3, shard_s=2 * BOOSTING_S),
        StageCost(name="reduce", once_s=0.2, shard_s=REDUCING_S),
        StageCost(name="index", flow_s=4e-6, shard_s=0.2 / 1550),
        StageCost(name="evaluate", once_s=20.0, flow_s=131e-6, shard_s=248e-6),
    ),
    bytes_per_picture=14_000.0,
    gets_per_picture=1.0,
    gets_per_shard=34.0,
    puts_per_shard=7.0,
)


# What each night adds at most: a whole index per picture, and all of the pictures that changed. The weekly vacuum keeps
# what is younger than 30 days.
INDEX_BYTES, CHANGED, NIGHTS_KEPT, NIGHTS_A_MONTH = 2_400.0, 0.01, 37, 30


class Estimate(Value):
    """A run's duration, storage and requests; `flow_hours` is the part of `hours` that more machines do not shorten.

    `machine_hours` are those in which a machine works: the flow's, and those that make shards. `kept_bytes` is at most
    the store after a month of nights that each change 1% of the pictures, `memory_bytes` is what the largest stage
    takes with the default config.
    """

    n_pictures: int
    n_machines: int
    n_shards: int
    hours: float
    flow_hours: float
    machine_hours: float
    store_bytes: int
    kept_bytes: int
    memory_bytes: int
    gets: int
    puts: int


def estimate(costs: Costs, n_pictures: int, n_machines: int, n_made: int | None = None) -> Estimate:
    """Estimate a run over `n_pictures` of which `n_made` are new; without that number all are, and models are trained.

    Raises `BadConfig` for a negative number or no machine.
    """
    n_new = n_pictures if n_made is None else n_made
    if not 0 <= n_new <= n_pictures or n_machines < 1:
        raise BadConfig(
            f"expected 0 or more pictures on 1 or more machines, got {n_pictures} with {n_new} new on {n_machines}"
        )
    n_shards = math.ceil(n_new / costs.shard_rows)
    once_s = sum(stage.once_s for stage in costs.stages) if n_made is None else 0.0
    flow_s = once_s + sum(n_pictures * stage.flow_s for stage in costs.stages)
    rounds = math.ceil(n_shards / n_machines)
    night_bytes = INDEX_BYTES + CHANGED * costs.bytes_per_picture
    rows = _busiest_rows(costs.shard_rows, n_new, n_machines)
    in_shards = [stage.shard_s for stage in costs.stages if stage.shard_s]
    shard_s = sum(rows * seconds + rounds * costs.task_s for seconds in in_shards)
    work_s = sum(n_new * seconds + n_shards * costs.task_s for seconds in in_shards)
    return Estimate(
        n_pictures=n_pictures,
        n_machines=n_machines,
        n_shards=n_shards,
        hours=(flow_s + shard_s) / HOUR_S,
        flow_hours=flow_s / HOUR_S,
        machine_hours=(flow_s + work_s) / HOUR_S,
        store_bytes=math.ceil(n_pictures * costs.bytes_per_picture),
        kept_bytes=math.ceil(n_pictures * (costs.bytes_per_picture + NIGHTS_KEPT * night_bytes)),
        memory_bytes=run_bytes(n_pictures),
        gets=math.ceil(n_pictures * costs.gets_per_picture + n_shards * costs.gets_per_shard),
        puts=math.ceil(n_shards * costs.puts_per_shard),
    )


class Prices(Value):
    """What is paid for an hour of a machine, for a gigabyte (10^9 bytes) a month, and for 1,000 requests."""

    machine_hour: float = Field(0.0, ge=0)
    gb_month: float = Field(0.0, ge=0)
    thousand_requests: float = Field(0.0, ge=0)

    def of(self, run: Estimate) -> float:
        """Return what a run costs, without storage."""
        return run.machine_hours * self.machine_hour + (run.gets + run.puts) / 1000 * self.thousand_requests

    def of_month(self, night: Estimate) -> float:
        """Return what a month of nights costs, with the store that it leaves."""
        return NIGHTS_A_MONTH * self.of(night) + night.kept_bytes / 1e9 * self.gb_month


def night_of(costs: Costs, first: Estimate) -> Estimate:
    """Return the estimate of a night that changes 1% of the pictures of a first run, on as many machines."""
    return estimate(costs, first.n_pictures, first.n_machines, math.ceil(CHANGED * first.n_pictures))


def runs_table(costs: Costs, runs: Iterable[Estimate], prices: Prices) -> str:
    """Return a Markdown table with a row per first run, and what the nights after it take."""
    lines = [
        "| pictures | machines | first run, hours | of them the flow's | machine hours | a night, hours | memory "
        "| stored | after a month | read requests | write requests | first run costs | a month costs |",
        "|" + "---:|" * 13,
    ]
    for run in runs:
        night = night_of(costs, run)
        cells = [
            f"{run.n_pictures:,}",
            f"{run.n_machines:,}",
            *(f"{hours:,.1f}" for hours in (run.hours, run.flow_hours, run.machine_hours, night.hours)),
            *(gigabytes(n_bytes) for n_bytes in (run.memory_bytes, run.store_bytes, run.kept_bytes)),
            f"{run.gets:,}",
            f"{run.puts:,}",
            f"{prices.of(run):,.0f}",
            f"{prices.of_month(night):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gigabytes(n_bytes: float) -> str:
    """Return a size for people, in 10^9 bytes."""
    return f"{n_bytes / 1e9:,.0f} GB" if n_bytes >= 10e9 else f"{n_bytes / 1e9:.1f} GB"


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
