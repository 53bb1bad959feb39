"""What a large catalogue would take, foreseen from small runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.capacity.__main__ import main
from retrieval_core.maintenance.capacity.runs import (
    HOUR_S,
    MEASURED,
    Costs,
    Prices,
    StageCost,
    estimate,
    machines_for,
    night_of,
    stage_costs,
)

unhurried = settings(suppress_health_check=[HealthCheck.too_slow])
seconds = st.integers(0, 1000).map(lambda tenths: tenths / 10)
stages = st.builds(StageCost, name=st.just("s"), once_s=seconds, flow_s=seconds, shard_s=seconds)
rates = st.integers(0, 10**6).map(float)
costs = st.builds(
    Costs,
    stages=st.lists(stages, max_size=4).map(tuple),
    shard_rows=st.integers(1, 1000),
    task_s=seconds,
    bytes_per_picture=rates,
    gets_per_picture=rates,
    gets_per_shard=rates,
    puts_per_shard=rates,
)
pictures = st.integers(0, 10**6)
machines = st.integers(1, 1000)
GROWING = ("n_shards", "hours", "flow_hours", "store_bytes", "kept_bytes", "gets", "puts")


def simulated_hours(costs: Costs, n_pictures: int, n_machines: int) -> float:
    """Stage by stage, the first free machine takes the next shard: the oracle."""
    end = 0.0
    for stage in costs.stages:
        end += stage.once_s + n_pictures * stage.flow_s
        free = [0.0] * n_machines
        for start in range(0, n_pictures if stage.shard_s else 0, costs.shard_rows):
            free.sort()
            free[0] += min(costs.shard_rows, n_pictures - start) * stage.shard_s + costs.task_s
        end += max(free)
    return end / HOUR_S


@unhurried
@given(costs, st.integers(0, 40), st.floats(0, 1), st.integers(1, 50))
def test_hours_are_those_of_workers_that_take_shard_after_shard(
    costs: Costs, n_full: int, short: float, n_machines: int
) -> None:
    n_pictures = int((n_full + short) * costs.shard_rows)
    made = estimate(costs, n_pictures, n_machines)
    assert made.hours == pytest.approx(simulated_hours(costs, n_pictures, n_machines))


@unhurried
@given(costs, pictures, pictures, machines)
def test_more_pictures_never_take_less(costs: Costs, some: int, more: int, n_machines: int) -> None:
    small, large = (estimate(costs, n, n_machines) for n in sorted((some, more)))
    assert all(getattr(small, name) <= getattr(large, name) * (1 + 1e-9) for name in GROWING)


@unhurried
@given(costs, pictures, machines, machines)
def test_more_machines_never_take_longer_and_make_the_same(costs: Costs, n: int, few: int, many: int) -> None:
    slow, fast = (estimate(costs, n, w) for w in sorted((few, many)))
    assert slow.flow_hours <= fast.hours * (1 + 1e-9)
    assert fast.hours <= slow.hours * (1 + 1e-9)
    same = {"hours", "n_machines"}
    assert slow.model_dump(exclude=same) == fast.model_dump(exclude=same)


@unhurried
@given(costs, st.integers(0, 500), st.integers(0, 500))
def test_two_catalogues_of_whole_shards_take_what_both_take(costs: Costs, one: int, other: int) -> None:
    costs = costs.model_copy(
        update={"stages": tuple(stage.model_copy(update={"once_s": 0.0}) for stage in costs.stages)}
    )
    parts = [estimate(costs, n * costs.shard_rows, 1) for n in (one, other)]
    whole = estimate(costs, (one + other) * costs.shard_rows, 1)
    for name in GROWING:
        assert getattr(whole, name) == pytest.approx(sum(getattr(part, name) for part in parts), abs=1.01)


@unhurried
@given(costs, pictures, st.floats(0, 1000))
def test_the_machines_for_a_deadline_are_the_fewest(costs: Costs, n: int, hours: float) -> None:
    fewest = machines_for(costs, n, hours)
    if fewest is None:
        assert estimate(costs, n, 10**7).hours > hours
        return
    assert estimate(costs, n, fewest).hours <= hours
    assert fewest == 1 or estimate(costs, n, fewest - 1).hours > hours


def run(n_pictures: int, **seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds | {"total": sum(seconds.values())},
        "catalog": {"rows": n_pictures},
        "masked": n_pictures,
        "embedded": n_pictures,
        "classified": 0,
    }


def test_two_runs_separate_training_from_the_cost_of_a_picture() -> None:
    costs = stage_costs([run(n, mask=200 + 0.01 * n, ingest=0.002 * n, backbone=6.0, embed=3.0) for n in (500, 2000)])
    by_name = {stage.name: stage for stage in costs}
    assert by_name["mask"].once_s == pytest.approx(200)
    assert by_name["mask"].flow_s == pytest.approx(0.01)
    assert by_name["ingest"].once_s == pytest.approx(0)
    assert by_name["ingest"].shard_s == pytest.approx(0.002)
    assert by_name["backbone"] == StageCost(name="backbone", once_s=6.0)
    assert (by_name["embed"].once_s, by_name["embed"].shard_s) == (pytest.approx(3), 0)
    assert "total" not in by_name


@unhurried
@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e5)), min_size=1, max_size=5))
def test_costs_learned_are_never_negative(points: list[tuple[int, float]]) -> None:
    (stage,) = stage_costs(run(n, embed=s) for n, s in points)
    assert (stage.once_s >= 0, stage.shard_s >= 0, stage.flow_s) == (True, True, 0)


def test_a_run_that_embedded_nothing_says_nothing_about_embedding() -> None:
    quiet = run(1000, embed=0.4, ingest=1.0) | {"embedded": 0, "masked": 0}
    assert [stage.name for stage in stage_costs([quiet])] == ["ingest"]
    with pytest.raises(BadConfig, match="no run to learn"):
        stage_costs([])


@pytest.mark.parametrize(("n_pictures", "n_machines"), [(-1, 1), (1, 0)])
def test_impossible_numbers_are_refused(n_pictures: int, n_machines: int) -> None:
    with pytest.raises(BadConfig, match="1 or more machines"):
        estimate(MEASURED, n_pictures, n_machines)


def test_the_tables_have_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "1000", "1000000", "--machines", "1", "16", "--machine-hour", "2"]) == 0
    runs, searching = (table.splitlines() for table in capsys.readouterr().out.split("\n\n"))
    assert [row.split(" | ")[:2] for row in runs[2:]] == [
        ["| 1,000", "1"],
        ["| 1,000", "16"],
        ["| 1,000,000", "1"],
        ["| 1,000,000", "16"],
    ]
    assert [row.split(" | ")[0] for row in searching[2:]] == ["| 1,000", "| 1,000,000"]
    for table in (runs, searching):
        assert len({line.count("|") for line in table}) == 1
    assert main(["--pictures", "1", "--machine-hour", "-1"]) == 2


@unhurried
@given(costs, pictures, machines)
def test_machines_are_paid_for_the_hours_in_which_they_work(costs: Costs, n: int, n_machines: int) -> None:
    alone, together = estimate(costs, n, 1), estimate(costs, n, n_machines)
    assert together.machine_hours == pytest.approx(alone.machine_hours)
    assert alone.machine_hours == pytest.approx(alone.hours)
    prices = Prices(machine_hour=3, gb_month=2, thousand_requests=1)
    night = night_of(costs, alone)
    assert prices.of(alone) == pytest.approx(3 * alone.hours + (alone.gets + alone.puts) / 1000)
    assert prices.of_month(night) == pytest.approx(30 * prices.of(night) + 2 * night.kept_bytes / 1e9)


@unhurried
@given(costs, pictures, machines)
def test_a_night_trains_nothing_and_makes_what_changed(costs: Costs, n: int, n_machines: int) -> None:
    first = estimate(costs, n, n_machines)
    night = night_of(costs, first)
    assert night.flow_hours == pytest.approx(n * sum(stage.flow_s for stage in costs.stages) / HOUR_S)
    assert night.hours <= first.hours * (1 + 1e-9)
    assert night.n_shards == math.ceil(math.ceil(n / 100) / costs.shard_rows)


def test_the_measured_costs_reproduce_the_run_they_come_from() -> None:
    made = estimate(MEASURED, 1_550, 1)
    assert made.hours * HOUR_S == pytest.approx(452.5, rel=0.05)
    assert made.flow_hours < made.hours
