"""What a large catalogue would take, foreseen from small runs."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.capacity import (
    HOUR_S,
    MEASURED,
    CatalogueSize,
    Costs,
    Estimate,
    StageCost,
    as_markdown,
    estimate,
    machines_for,
    main,
    stage_bytes,
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


def test_the_table_has_a_row_for_each_size_and_number_of_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "1000", "1000000", "--machines", "1", "16"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| 1,000", "1"],
        ["| 1,000", "16"],
        ["| 1,000,000", "1"],
        ["| 1,000,000", "16"],
    ]
    columns = len(Estimate.model_fields)
    assert {line.count("|") - 1 for line in as_markdown([]).splitlines()} == {columns}


def test_the_measured_costs_reproduce_the_run_they_come_from() -> None:
    made = estimate(MEASURED, 1_550, 1)
    assert made.hours * HOUR_S == pytest.approx(452.5, rel=0.01)
    assert made.flow_hours < made.hours


CONFIG = NightlyConfig()


def size(n_rows: int, dim: int = 512, n_labels: int = 200) -> CatalogueSize:
    return CatalogueSize(n_rows=n_rows, n_masked=n_rows, n_labels=n_labels, table_bytes=130 * n_rows, dim=dim)


def test_the_size_of_a_catalogue_is_read_from_its_rows() -> None:
    rows = [
        {"item_id": "a", "mask_uri": "a.png", "labels": ["red", "new"]},
        {"item_id": "b", "mask_uri": None, "labels": ["red"]},
        {"item_id": "c", "mask_uri": None, "labels": []},
    ]
    read = CatalogueSize.of(pl.DataFrame(rows, schema=SOURCE_SCHEMA), dim=64)
    assert (read.n_rows, read.n_masked, read.n_labels, read.dim) == (3, 1, 2, 64)
    assert read.table_bytes > 0


def test_ten_times_the_rows_take_far_less_than_ten_times_the_memory() -> None:
    small, large = (stage_bytes(size(n), CONFIG, n // 62_500) for n in (1_000_000, 10_000_000))
    vectors = 4 * 512 * 10_000_000
    assert all(small[stage] < large[stage] < vectors for stage in small)
    assert all(large[stage] < 10 * small[stage] for stage in small)


def test_bounds_of_training_bound_its_memory() -> None:
    tight = NightlyConfig.model_validate({"head": {"max_rows": 1_000}, "mask": {"max_pictures": 100}})
    for stage in ("head", "mask"):
        assert stage_bytes(size(500_000), tight, 8)[stage] < stage_bytes(size(500_000), CONFIG, 8)[stage]
    few = stage_bytes(size(1_000), CONFIG, 1)
    assert few["head"] == stage_bytes(size(1_000), tight, 1)["head"]


@pytest.mark.parametrize("stage", ["head", "reduce", "index", "evaluate"])
def test_wider_vectors_take_more(stage: str) -> None:
    narrow, wide = (stage_bytes(size(300_000, dim), CONFIG, 4)[stage] for dim in (512, 1_024))
    assert narrow < wide


def test_more_shards_make_each_smaller() -> None:
    assert stage_bytes(size(10_000_000), CONFIG, 256)["index"] < stage_bytes(size(10_000_000), CONFIG, 1)["index"]
