"""The contrastive loss worked out by hand, and pairs of which half are alike."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ContrastiveLoss

from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import ContrastiveTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.contrastive import Contrastive, balanced_pairs


def of_classes(codes):
    ids = [f"{number:03}" for number in range(len(codes))]
    return conform(
        pl.DataFrame({"item_id": ids, "image_uri": ids, "category": [f"c{code}" for code in codes]}), "drawn"
    )


def same(codes):
    equal = codes[:, None] == codes
    return equal & ~torch.eye(len(codes), dtype=torch.bool), ~equal


def drawn_vectors(n_rows):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n_rows, 4)).astype(np.float32))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_half_of_the_pairs_are_alike_and_none_appears_twice(codes):
    codes = torch.tensor(codes, dtype=torch.int64)
    alike, unlike = same(codes)
    a, p, b, n = balanced_pairs(alike, unlike)
    assert len(a) == len(b) == min(int(alike.sum()), int(unlike.sum())) // 2
    assert alike[a, p].all()
    assert unlike[b, n].all()
    pairs = {tuple(sorted(pair)) for pair in zip([*a.tolist(), *b.tolist()], [*p.tolist(), *n.tolist()], strict=True)}
    assert len(pairs) == 2 * len(a)


def test_the_pairs_that_are_chosen_are_spread_over_the_batch():
    a, _, b, n = balanced_pairs(*same(torch.arange(64).repeat_interleave(2)))
    assert len(a) == len(b) == 64
    assert len(set(b.tolist()) | set(n.tolist())) > 60


def test_the_loss_is_that_of_pairs_worked_out_by_hand(tiny_embedder):
    # Of any length: only the angle counts. d = 2 sin(angle / 2).
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0], [-1.0, 0.0]])
    objective = Contrastive(tiny_embedder(), TrainingData(of_classes([0, 0, 1, 1])), ContrastiveTraining(margin=1.5))
    alike, unlike = torch.zeros(2, 4, 4, dtype=torch.bool)
    alike[[0, 1, 2, 3], [1, 0, 3, 2]] = True
    unlike[[0, 2, 1, 3], [2, 0, 3, 1]] = True
    loss, figures = objective.compare(vectors, alike, unlike)
    # Alike: (0, 1) at √2, (2, 3) at 2. Unlike: (0, 2) at 0, (1, 3) at √2.
    assert float(loss) == pytest.approx((np.sqrt(2) + 2) / 2 + (1.5 + 1.5 - np.sqrt(2)) / 2)
    assert figures == {}


def test_the_loss_is_that_of_the_library_where_all_pairs_count(tiny_embedder):
    # Of three pictures of a class and one of another, three pairs are alike and three are not.
    codes, vectors = torch.tensor([0, 0, 0, 1]), drawn_vectors(4)
    objective = Contrastive(tiny_embedder(), TrainingData(of_classes([0, 0, 1, 1])), ContrastiveTraining(margin=0.8))
    loss, _ = objective.compare(vectors, *same(codes))
    assert float(loss) == pytest.approx(float(ContrastiveLoss(neg_margin=0.8)(vectors, codes)), rel=1e-6)


def test_unlike_pairs_beyond_the_margin_have_no_gradient(tiny_embedder):
    codes = torch.tensor([0, 0, 0, 1, 1, 1])
    vectors = torch.eye(2)[codes].requires_grad_(True)
    objective = Contrastive(tiny_embedder(), TrainingData(of_classes(codes.tolist())), ContrastiveTraining(margin=1.0))
    loss, _ = objective.compare(vectors, *same(codes))
    loss.backward()
    assert loss == 0
    assert not vectors.grad.any()
