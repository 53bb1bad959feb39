"""The parts that all metric objectives share: the score, the collapse, and a whole training."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import ContrastiveTraining, SupconTraining, TripletTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.objectives.relations import MIN_BATCH
from retrieval_core.train.split import Split

CONFIGS = [TripletTraining, ContrastiveTraining, SupconTraining]
NAMES = ("bag", "boots", "coat", "dress", "hat")


def catalogue(**columns):
    ids = [f"{number:03}" for number in range(len(next(iter(columns.values()))))]
    return conform(pl.DataFrame({"item_id": ids, "image_uri": ids, **columns}), "drawn")


def of_classes(codes):
    return catalogue(category=[f"c{code}" for code in codes])


def drawn_vectors(n_rows, dim=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n_rows, dim)).astype(np.float32))


def neighbours(vectors, k=5):
    found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(vectors.numpy())
    return found.kneighbors(return_distance=False)  # of each row, itself left out


@pytest.fixture(params=CONFIGS, ids=lambda config: config.__name__)
def objective(request, tiny_embedder):
    """`objective(items)`: an objective of this kind over these items."""
    return lambda items, **config: build_objective(request.param(**config), tiny_embedder(dim=8), TrainingData(items))


def test_the_score_is_the_share_of_like_pictures_among_the_nearest(objective):
    codes = np.arange(42) % 10  # of four or five pictures each: three or four others can be found
    vectors = drawn_vectors(42)
    alike = codes[neighbours(vectors)] == codes[:, None]
    expected = (alike.sum(axis=1) / (np.bincount(codes)[codes] - 1)).mean()
    assert objective(of_classes(codes)).score(vectors, np.arange(42))["val_relevance@5"] == pytest.approx(expected)


def test_the_score_by_labels_is_the_mean_share_of_labels_in_common(objective):
    rng = np.random.default_rng(0)
    labels = rng.random((60, len(NAMES))) < 0.4
    labels[~labels.any(axis=1), 0] = True
    items = catalogue(labels=[[NAMES[column] for column in np.flatnonzero(row)] for row in labels])
    rows = np.arange(10, 60)
    vectors = drawn_vectors(50)
    found = labels[rows][neighbours(vectors)]
    shared, either = (found & labels[rows][:, None]).sum(axis=2), (found | labels[rows][:, None]).sum(axis=2)
    score = objective(items).score(vectors, rows)
    assert score["val_relevance@5"] == pytest.approx((shared / either).mean())


@pytest.mark.parametrize("length", [0.0, 3.0])
def test_vectors_in_one_point_score_as_chance_and_are_reported_as_collapsed(objective, length):
    codes = np.append(np.zeros(150, np.int64), np.repeat(np.arange(1, 51), 3))  # half of one class, and it stands first
    score = objective(of_classes(codes)).score(torch.full((300, 8), length), np.arange(300))
    by_chance = (149 / 299 + 5 * 2 / 299 / 2) / 2
    assert score["val_relevance@5"] == pytest.approx(by_chance, abs=0.03)
    assert (score["collapsed"], score["spread"], score["unlike_distance"]) == (1, 0, 0)


def test_a_spread_too_small_for_a_matrix_product_is_still_measured(objective):
    far = drawn_vectors(60) * 1e-4 + 10
    codes = np.arange(60) % 4
    score = objective(of_classes(codes)).score(far, np.arange(60))
    distances = (far[:, None].double() - far.double()).norm(dim=2).numpy()
    expected = distances[codes[:, None] != codes].mean()
    assert score["unlike_distance"] == pytest.approx(expected, rel=0.05)
    assert score["spread"] == pytest.approx(expected / (10 * np.sqrt(8)), rel=0.05)
    assert score["collapsed"] == 1


def test_pictures_that_are_well_apart_have_not_collapsed_whatever_their_scale(objective):
    codes = np.arange(60) % 4
    vectors = torch.eye(8)[torch.from_numpy(codes)] * 5 + 0.1 * drawn_vectors(60)
    for scale in (1, 1000):
        score = objective(of_classes(codes)).score(vectors * scale, np.arange(60))
        assert score["val_relevance@5"] == 1
        assert score["collapsed"] == 0
        assert score["spread"] == pytest.approx(np.sqrt(2), rel=0.05)
        assert score["alike_distance"] < 0.1 * score["unlike_distance"]


def test_the_same_outputs_get_the_same_score(objective):
    made = objective(of_classes(np.arange(60) % 4))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = made.score(drawn_vectors(60), np.arange(60))
    assert made.score(drawn_vectors(60), np.arange(60)) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_in_which_nothing_can_be_compared_are_refused(objective):
    with pytest.raises(BadConfig, match=f"batch_size is {MIN_BATCH - 1}.*set {MIN_BATCH} or more"):
        objective(of_classes(np.arange(60) % 4), batch_size=MIN_BATCH - 1)


def test_items_without_anything_alike_are_refused(objective):
    with pytest.raises(BadConfig, match="of 60 categories 0 have two pictures"):
        objective(of_classes(np.arange(60)))


def test_a_batch_without_anything_unlike_teaches_nothing(objective):
    made = objective(of_classes([0, 0, 0, 1, 1])).requires_grad_(True)
    loss, _ = made.loss(torch.zeros(3, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in made.parameters())


def test_a_training_brings_together_what_is_alike(objective, coloured, preprocess, tmp_path):
    codes = np.arange(96) % 4
    light = np.random.default_rng(0).uniform(0.15, 1, (96, 1, 1, 1))  # hides the colour that tells the class
    pixels = (coloured(codes) * light).astype(np.uint8)
    config = {"batch_size": 32, "max_epochs": 6, "learning_rate": 0.01}
    made = objective(of_classes(codes), **config)
    untrained = made.score(made.outputs(torch.from_numpy(pixels[64:, 2:30, 2:30])), np.arange(64, 96))
    split = Split(np.arange(64), np.arange(64, 96))
    trained = fit(made, pixels, split, preprocess, TripletTraining(**config), device="cpu", folder=tmp_path)
    assert trained.metrics["val_relevance@5"] > untrained["val_relevance@5"] + 0.1
    assert trained.history[-1]["collapsed"] == 0


def test_a_training_uses_labels_without_products_and_categories(objective, coloured, preprocess, tmp_path):
    codes = np.arange(96) % 4
    worn = [["bag"], ["bag", "hat"], ["dress"], ["dress", "coat"]]
    config = {"batch_size": 32, "max_epochs": 5, "learning_rate": 0.01}
    made = objective(catalogue(labels=[worn[code] for code in codes]), **config)
    split = Split(np.arange(64), np.arange(64, 96))
    trained = fit(made, coloured(codes), split, preprocess, TripletTraining(**config), device="cpu", folder=tmp_path)
    assert trained.metrics["val_relevance@5"] > 0.7


def test_a_validation_set_without_anything_alike_is_refused_before_training(objective, coloured, preprocess, tmp_path):
    codes = np.append(np.arange(32) % 4, [4, 5, 6])
    made = objective(of_classes(np.append(codes, [4, 5])))
    split = Split(np.arange(32), np.arange(32, 35))
    with pytest.raises(BadConfig, match="32 training and 0 validation pictures"):
        fit(made, coloured(codes % 4), split, preprocess, TripletTraining(), device="cpu", folder=tmp_path)
