"""A catalogue that a model cannot learn from is found before anything is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.evaluate.compare.check import why_unlearnable
from retrieval_core.train.config import (
    AnyTraining,
    CaptionsTraining,
    ClassifyTraining,
    DistillTraining,
    MultilabelTraining,
    RotationTraining,
    TripletTraining,
)

N = 24


def catalogue(**columns: Any) -> pl.DataFrame:
    """Rows of good pictures with these `columns` and nothing else."""
    known = {
        "item_id": [f"item-{row:02}" for row in range(N)],
        "content_id": [f"{row:032x}" for row in range(N)],
        "split": ["train"] * N,
        "status": ["ok"] * N,
        "product_id": [None] * N,
        "category": [None] * N,
        "labels": [[]] * N,
        "attributes": [[]] * N,
    }
    schema = {
        "product_id": pl.String,
        "category": pl.String,
        "labels": pl.List(pl.String),
        "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
    }
    return pl.DataFrame(known | columns, schema_overrides=schema)


LABELLED = {"labels": [["red"], ["red", "dress"], ["dress"]] * (N // 3)}


@pytest.mark.parametrize(
    ("config", "columns", "says"),
    [
        (MultilabelTraining(), {}, "label"),
        (MultilabelTraining(min_count=50), LABELLED, "min_count=50"),
        (ClassifyTraining(), {}, "category"),
        (ClassifyTraining(), {"category": ["dress"] * N}, "1 classes"),
        (ClassifyTraining(target="season"), {"category": ["dress", "shoe"] * (N // 2)}, "season"),
        (TripletTraining(), {}, "alike"),
        (TripletTraining(batch_size=2), LABELLED, "batch_size"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AnyTraining) else None,
)
def test_the_reason_why_a_catalogue_cannot_be_learned_from_is_one_sentence(
    config: AnyTraining, columns: dict[str, Any], says: str
) -> None:
    reason = why_unlearnable(config, catalogue(**columns))
    assert says in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        (MultilabelTraining(), LABELLED),
        (ClassifyTraining(), {"category": ["dress", "shoe"] * (N // 2)}),
        (TripletTraining(alike_iou=0.9), LABELLED),
        (RotationTraining(), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AnyTraining) else None,
)
def test_a_catalogue_that_can_be_learned_from_gives_no_reason(config: AnyTraining, columns: dict[str, Any]) -> None:
    assert why_unlearnable(config, catalogue(**columns)) == ""


def test_a_teacher_of_another_catalogue_is_refused() -> None:
    config = DistillTraining(teacher="abc")
    teacher = np.full((N, 12), np.nan, np.float32)
    assert f"0 of {N}" in why_unlearnable(config, catalogue(), teacher)
    assert why_unlearnable(config, catalogue(), np.eye(N, 12, dtype=np.float32) + 1) == ""


def test_captions_are_looked_at_before_any_text_is_read() -> None:
    config = CaptionsTraining()
    assert f"of {N} pictures to train on 0 have a caption" in why_unlearnable(
        config, catalogue(), captions=pl.Series([None] * N, dtype=pl.String)
    )
    assert why_unlearnable(config, catalogue(), captions=pl.Series([f"title {row}" for row in range(N)])) == ""
