"""Every training config has its objective, built in the same way."""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl
import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.captions import CaptionVectors
from retrieval_core.train.config import CONFIG_BY_OBJECTIVE, AnyTraining, CaptionsTraining, DistillTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.registry import OBJECTIVES, build_objective

N = 24


@pytest.fixture
def data() -> TrainingData:
    """Rows that every objective can learn from."""
    ids = [f"{row:03}" for row in range(N)]
    columns = {
        "item_id": ids,
        "image_uri": ids,
        "category": [f"category {row % 2}" for row in range(N)],
        "labels": [[f"label {row % 2}"] for row in range(N)],
    }
    vectors = np.eye(N, 16, dtype=np.float32)
    captions = CaptionVectors(vectors[:2], np.arange(N) % 2, scale=10.0)
    return TrainingData(conform(pl.DataFrame(columns), "drawn"), vectors, captions)


def test_every_config_has_an_objective_and_every_objective_a_config() -> None:
    assert set(OBJECTIVES) == set(get_args(AnyTraining)) == set(CONFIG_BY_OBJECTIVE.values())
    assert len(set(OBJECTIVES.values())) == len(OBJECTIVES)


@pytest.mark.parametrize("kind", OBJECTIVES, ids=lambda kind: kind.__name__)
def test_an_objective_is_built_from_its_config(kind, data, tiny_embedder) -> None:
    embedder = tiny_embedder()
    objective = build_objective(kind(), embedder, data)
    assert type(objective) is OBJECTIVES[kind]
    assert objective.embedder is embedder
    assert objective.learnable(np.arange(N)).tolist() == list(range(N))


def test_captions_without_texts_are_refused(data, tiny_embedder) -> None:
    with pytest.raises(BadConfig, match="captions needs a catalogue whose items have captions"):
        build_objective(CaptionsTraining(), tiny_embedder(), TrainingData(data.items))


def test_a_distillation_without_a_teacher_is_refused(data, tiny_embedder) -> None:
    with pytest.raises(BadConfig, match="distill needs a teacher"):
        build_objective(DistillTraining(), tiny_embedder(), TrainingData(data.items))
