"""Triplets agree with pytorch-metric-learning's miner and loss, and hard ones collapse."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner

from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import TripletTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.triplet import Triplet, mine
from retrieval_core.train.split import Split

MINERS = ["all", "semihard", "hard"]


def catalogue(**columns):
    ids = [f"{number:03}" for number in range(len(next(iter(columns.values()))))]
    return conform(pl.DataFrame({"item_id": ids, "image_uri": ids, **columns}), "drawn")


def of_classes(codes):
    return catalogue(category=[f"c{code}" for code in codes])


def drawn_vectors(n_rows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n_rows, 4)).astype(np.float32))


def as_sets(triplets):
    return set(zip(*(part.tolist() for part in triplets), strict=True))


def same(codes):
    equal = codes[:, None] == codes
    return equal & ~torch.eye(len(codes), dtype=torch.bool), ~equal


@pytest.fixture
def constant(tiny_embedder):
    """An embedder that sees one and the same point in every picture."""
    embedder = tiny_embedder(dim=8)
    torch.nn.init.zeros_(embedder.projection.weight)
    return embedder


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_the_mined_triplets_and_their_loss_are_those_of_the_library(tiny_embedder, miner, margin):
    codes, vectors = torch.arange(24) % 5, drawn_vectors(24)
    distance = LpDistance(normalize_embeddings=False)
    theirs = TripletMarginMiner(margin, miner, distance=distance)(vectors, codes)
    mined = mine(distance(vectors), *same(codes), margin, miner)
    assert as_sets(mined[:3]) == as_sets(theirs)
    config = TripletTraining(margin=margin, miner=miner, batch_size=24)
    loss, figures = Triplet(tiny_embedder(), TrainingData(of_classes(codes.tolist())), config).compare(
        vectors, *same(codes)
    )
    expected = TripletMarginLoss(margin, distance=distance)(vectors, codes, theirs)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert figures == {"margin": margin, "active_share": mined.active_share}


@pytest.mark.parametrize("miner", MINERS)
def test_triplets_of_any_relation_are_found_as_by_counting(miner):
    rng = np.random.default_rng(1)
    relation = np.triu(rng.integers(0, 3, (12, 12)), 1)
    relation += relation.T
    alike, unlike = (relation == 1), (relation == 2)
    distances = np.abs(rng.normal(size=(12, 12)))
    distances += distances.T
    within = {"all": (-np.inf, 0.5), "semihard": (1e-12, 0.5), "hard": (-np.inf, 0.0)}[miner]
    gaps = {
        (a, p, n): distances[a, n] - distances[a, p]
        for a, p, n in itertools.product(range(12), repeat=3)
        if alike[a, p] and unlike[a, n]
    }
    mined = mine(*map(torch.from_numpy, (distances, alike, unlike)), 0.5, miner)
    assert as_sets(mined[:3]) == {triplet for triplet, gap in gaps.items() if within[0] <= gap <= within[1]}
    assert mined.active_share == np.mean([gap <= 0.5 for gap in gaps.values()])


def test_a_large_batch_is_mined_in_blocks_with_the_same_result(monkeypatch):
    codes = torch.arange(24) % 5
    distances = torch.cdist(drawn_vectors(24), drawn_vectors(24))
    whole = mine(distances, *same(codes), 0.5, "all")
    monkeypatch.setattr("retrieval_core.train.objectives.triplet.MAX_TRIPLETS", 2_000)
    blocks = mine(distances, *same(codes), 0.5, "all")
    assert all(torch.equal(part, again) for part, again in zip(whole[:3], blocks[:3], strict=True))
    assert whole.active_share == blocks.active_share


def test_the_loss_is_that_of_a_triplet_worked_out_by_hand(tiny_embedder):
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 6.0], [60.0, 60.0]])
    objective = Triplet(tiny_embedder(), TrainingData(of_classes([0, 0, 1, 1])), TripletTraining(margin=2))
    alike, unlike = same(torch.tensor([0, 0, 1, 1]))
    alike[2:] = False  # the far pair alone would add triplets of its own
    loss, figures = objective.compare(vectors, alike, unlike)
    # d(0, 1) = 5, d(0, 2) = 6, d(1, 2) = √13; the far one violates nothing.
    assert float(loss) == pytest.approx(((5 - 6 + 2) + (5 - np.sqrt(13) + 2)) / 2)
    assert figures["active_share"] == 2 / 4


def margins(n_epochs, embedder, **config):
    objective = Triplet(embedder, TrainingData(of_classes([0, 0, 1, 1])), TripletTraining(**config))
    seen = [objective.margin]
    for epoch in range(n_epochs):
        objective.begin_epoch(epoch)
        seen.append(objective.margin)
    assert seen.pop(0) == seen[0]
    return seen


def test_a_growing_margin_starts_small_and_ends_at_its_final_value(tiny_embedder):
    seen = margins(7, tiny_embedder(), margin=1, margin_start=0.2, growth_epochs=4)
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_a_margin_without_a_start_is_fixed(tiny_embedder):
    assert margins(4, tiny_embedder(), margin=0.7, growth_epochs=2) == [0.7] * 4


@pytest.mark.parametrize("miner", ["all", "hard"])
def test_of_one_point_all_triplets_violate_the_margin_by_the_margin(constant, coloured, miner):
    codes = np.arange(24) % 4
    objective = Triplet(
        constant, TrainingData(of_classes(codes)), TripletTraining(margin=0.6, miner=miner, batch_size=24)
    )
    loss, figures = objective.loss(torch.from_numpy(coloured(codes)), torch.arange(24))
    assert float(loss) == pytest.approx(0.6)
    assert figures == {"margin": 0.6, "active_share": 1.0}


def test_a_constant_embedder_is_reported_as_collapsed(constant, coloured, preprocess, tmp_path):
    codes = np.arange(48) % 4
    config = TripletTraining(batch_size=24, max_epochs=1, learning_rate=1e-12)
    objective = Triplet(constant, TrainingData(of_classes(codes)), config)
    split = Split(np.arange(24), np.arange(24, 48))
    row = fit(objective, coloured(codes), split, preprocess, config, device="cpu", folder=tmp_path).metrics
    assert row["collapsed"] == 1
    assert row["active_share"] == 1
    assert row["train_loss"] == pytest.approx(1)
    assert row["val_relevance@5"] < 0.5


def test_the_margin_decides_whether_short_vectors_have_collapsed(tiny_embedder):
    codes = np.arange(60) % 4
    vectors = 0.1 * drawn_vectors(60)
    for margin, collapsed in ((1.0, 1), (0.05, 0)):
        objective = Triplet(tiny_embedder(), TrainingData(of_classes(codes)), TripletTraining(margin=margin))
        score = objective.score(vectors, np.arange(60))
        assert score["spread"] > 0.5
        assert score["collapsed"] == collapsed
    apart = vectors + torch.eye(4)[torch.from_numpy(codes)]
    objective = Triplet(tiny_embedder(), TrainingData(of_classes(codes)), TripletTraining(margin=3))
    assert objective.score(apart, np.arange(60))["collapsed"] == 0  # below the margin, but beyond alike ones


def gradients(embedder, pixels, rows, **config):
    objective = Triplet(
        embedder, TrainingData(of_classes(rows % 4)), TripletTraining(batch_size=24, **config)
    ).requires_grad_(True)
    loss, _ = objective.loss(torch.from_numpy(pixels), torch.from_numpy(rows))
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in embedder.parameters()])


def test_hard_triplets_teach_the_same_whatever_the_margin_and_all_do_not(tiny_embedder, coloured):
    rows = np.arange(24)
    large, small = (
        {
            miner: gradients(tiny_embedder(dim=8), coloured(rows % 4), rows, miner=miner, margin=margin)
            for miner in MINERS
        }
        for margin in (1.0, 0.02)
    )
    torch.testing.assert_close(large["hard"], small["hard"])
    assert not torch.allclose(large["all"], small["all"])


@pytest.mark.parametrize(("miner", "collapsed"), [("hard", 1), ("all", 0)])
def test_where_classes_overlap_hard_triplets_collapse_and_all_do_not(
    tiny_embedder, coloured, preprocess, tmp_path, miner, collapsed
):
    rng, codes = np.random.default_rng(0), np.arange(120) % 4
    pixels = coloured(np.where(rng.random(120) < 0.3, rng.integers(0, 4, 120), codes))
    config = TripletTraining(miner=miner, batch_size=32, max_epochs=12, patience=12, learning_rate=0.02)
    objective = Triplet(tiny_embedder(dim=8), TrainingData(of_classes(codes)), config)
    split = Split(np.arange(80), np.arange(80, 120))
    last = fit(objective, pixels, split, preprocess, config, device="cpu", folder=tmp_path).history[-1]
    assert last["collapsed"] == collapsed
    assert (last["active_share"] > 0.99) == bool(collapsed)


def test_triplets_on_unit_vectors_do_not_depend_on_lengths(tiny_embedder):
    codes, vectors = torch.arange(24) % 5, drawn_vectors(24)
    lengths = torch.linspace(0.1, 9, 24)[:, None]
    data, losses = TrainingData(of_classes(codes.tolist())), {}
    for unit_length in (False, True):
        config = TripletTraining(margin=0.3, batch_size=24, unit_length=unit_length)
        objective = Triplet(tiny_embedder(), data, config)
        losses[unit_length] = [float(objective.compare(rows, *same(codes))[0]) for rows in (vectors, vectors * lengths)]
    assert losses[True][0] == pytest.approx(losses[True][1], rel=1e-5)
    assert losses[False][0] != pytest.approx(losses[False][1], rel=0.1)
