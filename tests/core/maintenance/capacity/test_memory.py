"""What memory each stage of a run takes, foreseen from the size of its catalogue."""

from __future__ import annotations

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import SOURCE_SCHEMA
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.maintenance.capacity.memory import CatalogueSize, run_bytes, stage_bytes

CONFIG = NightlyConfig()


def size(n_rows: int, dim: int = 512, n_labels: int = 200) -> CatalogueSize:
    labels = {"n_labels": n_labels, "n_given": 3 * n_rows}
    return CatalogueSize(n_rows=n_rows, n_masked=n_rows, table_bytes=130 * n_rows, dim=dim, **labels)


def test_the_size_of_a_catalogue_is_read_from_its_rows() -> None:
    rows = [
        {"item_id": "a", "mask_uri": "a.png", "labels": ["red", "new"]},
        {"item_id": "b", "mask_uri": None, "labels": ["red"]},
        {"item_id": "c", "mask_uri": None, "labels": []},
    ]
    read = CatalogueSize.of(pl.DataFrame(rows, schema=SOURCE_SCHEMA), dim=64)
    assert (read.n_rows, read.n_masked, read.n_labels, read.n_given, read.dim) == (3, 1, 2, 3, 64)
    assert read.table_bytes > 0


def test_ten_times_the_rows_take_far_less_than_ten_times_the_memory() -> None:
    small, large = (stage_bytes(size(n), CONFIG, n // 62_500) for n in (1_000_000, 10_000_000))
    vectors = 4 * 512 * 10_000_000
    assert all(small[stage] < large[stage] < vectors for stage in small)
    assert all(large[stage] < 10 * small[stage] for stage in small)


@pytest.mark.parametrize(("n_rows", "measured_mb"), [(1_000_000, 467), (3_000_000, 594)])
def test_ingest_takes_at_most_what_is_foreseen_and_not_far_less(n_rows: int, measured_mb: int) -> None:
    assert measured_mb < stage_bytes(size(n_rows), CONFIG, 16)["ingest"] / 1e6 < 1.25 * measured_mb


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


def test_a_run_takes_what_its_largest_stage_takes_and_prefect() -> None:
    stages = stage_bytes(size(1_000_000, n_labels=300), CONFIG, 16)
    assert max(stages.values()) < run_bytes(1_000_000) < 1.5 * max(stages.values())
