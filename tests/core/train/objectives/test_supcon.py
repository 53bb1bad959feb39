"""The supervised contrastive loss agrees with the library and the paper, and its projection is dropped."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import SupconTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.supcon import Supcon

DIM = 16


def of_classes(codes):
    ids = [f"{number:03}" for number in range(len(codes))]
    return conform(
        pl.DataFrame({"item_id": ids, "image_uri": ids, "category": [f"c{code}" for code in codes]}), "drawn"
    )


def same(codes):
    equal = codes[:, None] == codes
    return equal & ~torch.eye(len(codes), dtype=torch.bool), ~equal


def drawn_vectors(n_rows):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n_rows, DIM)).astype(np.float32))


@pytest.fixture
def supcon(tiny_embedder):
    return lambda **config: Supcon(tiny_embedder(), TrainingData(of_classes([0, 0, 1, 1])), SupconTraining(**config))


@torch.no_grad()
def test_the_loss_is_that_of_the_library_on_the_projection(supcon):
    codes, vectors, objective = torch.arange(20) % 4, drawn_vectors(20), supcon(temperature=0.2, projection_dim=6)
    loss, figures = objective.compare(vectors, *same(codes))
    assert float(loss) == pytest.approx(float(SupConLoss(0.2)(objective.head(vectors), codes)), rel=1e-6)
    assert figures == {}


@torch.no_grad()
def test_pictures_that_are_neither_alike_nor_unlike_are_left_out_of_the_paper_s_formula(supcon):
    rng = np.random.default_rng(1)
    relation = np.triu(rng.integers(0, 3, (12, 12)), 1)
    relation += relation.T
    alike, unlike = relation == 1, relation == 2
    vectors, objective = drawn_vectors(12), supcon(temperature=0.5)
    rows = objective.head(vectors).double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    odds = np.exp(rows @ rows.T / 0.5)
    log_shares = np.log(odds / (odds * (alike | unlike)).sum(axis=1, keepdims=True))
    expected = np.mean([-log_shares[row][alike[row]].mean() for row in range(12) if alike[row].any()])
    loss, _ = objective.compare(vectors, torch.from_numpy(alike), torch.from_numpy(unlike))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_projection_starts_from_the_seed_and_leaves_torch_s_generator_alone(supcon):
    first = supcon(seed=3).head.state_dict()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again, other = supcon(seed=3).head.state_dict(), supcon(seed=4).head.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_the_embedding_is_what_lies_under_the_projection_and_nothing_else_is_kept(supcon, coloured):
    objective, pixels = supcon(projection_dim=6), torch.from_numpy(coloured([0, 1]))
    assert objective.outputs(pixels).shape == (2, DIM)
    torch.testing.assert_close(objective.outputs(pixels), objective.embedder(pixels))
    assert objective.layers() == {}
    assert objective.classes() == []


def test_training_only_the_dropped_projection_is_refused(supcon, tiny_embedder):
    with pytest.raises(BadConfig, match="set embedding_dim, or train all"):
        supcon(trained_layers="projection")
    Supcon(tiny_embedder(dim=8), TrainingData(of_classes([0, 0, 1, 1])), SupconTraining(trained_layers="projection"))
