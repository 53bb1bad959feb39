"""Margin softmax: which classes it tells apart, by which loss, with which samples, and on which leading dimensions."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import ArcFaceLoss
from torch.nn.functional import cross_entropy, normalize

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import MarginTraining
from retrieval_core.train.fit import LAST, fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.margin import Margin, sample_with
from retrieval_core.train.optimiser import build_optimiser
from retrieval_core.train.split import Split


class Killed(BaseException):
    """An error that nothing in the loop catches."""


CONFIG = MarginTraining(max_epochs=6, batch_size=8, learning_rate=2e-2, network_rate=0.5)


def products(codes, column="product_id", split=None):
    ids = [f"{number:03}" for number in range(len(codes))]
    columns = {"item_id": ids, "image_uri": ids, column: [f"p{code}" for code in codes]}
    return TrainingData(conform(pl.DataFrame(columns | {"split": split or ["train"] * len(codes)}), "drawn"))


@torch.no_grad()
def test_arcface_adds_the_margin_to_the_angle_of_the_right_product(tiny_embedder, coloured):
    config = CONFIG.model_copy(update={"margin": 0.25, "scale": 8.0})
    objective = Margin(tiny_embedder(), products([0, 0, 1, 1, 2, 2]), config)
    pixels = torch.from_numpy(coloured([0, 0, 1, 1, 2, 2]))
    cosines = normalize(objective.embedder(pixels)) @ normalize(objective.centres["16"]).t()
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    right = torch.arange(6), classes
    cosines[right] = torch.cos(torch.acos(cosines[right]) + 0.25)
    loss, _ = objective.loss(pixels, torch.arange(6))
    assert float(loss) == pytest.approx(float(cross_entropy(8 * cosines, classes)), rel=1e-4)


@pytest.mark.parametrize("loss", ["arcface", "cosface", "proxy_anchor"])
def test_products_that_the_pictures_show_find_each_other(loss, tiny_embedder, coloured, preprocess, tmp_path):
    codes = np.arange(96) % 4
    config = CONFIG.model_copy(update={"loss": loss})
    objective, split = Margin(tiny_embedder(), products(codes), config), Split(np.arange(32, 96), np.arange(32))
    done = fit(objective, coloured(codes), split, preprocess, config, device="cpu", folder=tmp_path)
    assert done.metrics["val_relevance@5"] > 0.9


def test_held_out_products_have_no_class(tiny_embedder):
    data = products([0, 0, 1, 1, 2, 2], split=["train"] * 4 + ["query"] * 2)
    assert Margin(tiny_embedder(), data, CONFIG).centres["16"].shape == (2, 16)


def test_categories_take_the_place_of_products(tiny_embedder):
    data = products([0, 0, 1, 1, 2], "category")
    objective = Margin(tiny_embedder(), data, CONFIG)
    assert objective.learnable(np.arange(5)).tolist() == [0, 1, 2, 3]
    with pytest.raises(BadConfig, match="alike=product"):
        Margin(tiny_embedder(), data, CONFIG.model_copy(update={"alike": "product"}))


def test_a_catalogue_of_labels_alone_is_refused(tiny_embedder):
    ids = [f"{number:03}" for number in range(4)]
    labelled = pl.DataFrame({"item_id": ids, "image_uri": ids, "labels": [["a"], ["a"], ["b"], ["b"]]})
    with pytest.raises(BadConfig, match="the catalogue has neither; train attributes"):
        Margin(tiny_embedder(), TrainingData(conform(labelled, "drawn")), CONFIG)


@torch.no_grad()
def test_leading_dimensions_are_told_apart_by_themselves_too(tiny_embedder, coloured):
    objective = Margin(tiny_embedder(), products([0, 0, 1, 1]), CONFIG.model_copy(update={"slices": (4, 8)}))
    pixels, classes = torch.from_numpy(coloured([0, 0, 1, 1])), torch.tensor([0, 0, 1, 1])
    vectors = objective.embedder(pixels)
    expected = []
    for dim in (16, 4, 8):
        alone = ArcFaceLoss(2, dim, margin=math.degrees(CONFIG.margin), scale=CONFIG.scale)
        alone.W.copy_(objective.centres[str(dim)].t())
        expected.append(float(alone(vectors[:, :dim], classes)))
    loss, _ = objective.loss(pixels, torch.arange(4))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


@given(st.data())
def test_a_sample_has_a_batchs_own_classes_and_distinct_others(data):
    n_classes = data.draw(st.integers(1, 40))
    own = np.array(sorted(data.draw(st.sets(st.integers(0, n_classes - 1), min_size=1))), np.int64)
    n_sampled = data.draw(st.integers(1, n_classes))
    sample = sample_with(own, n_sampled, n_classes, np.random.default_rng(data.draw(st.integers(0, 9))))
    assert len(sample) == max(n_sampled, len(own))
    assert set(own) <= set(sample) <= set(range(n_classes))
    assert (np.diff(sample) > 0).all()


def test_every_other_class_is_equally_likely():
    rng, own, counts = np.random.default_rng(0), np.array([0, 3, 4, 9]), np.zeros(10)
    for _ in range(3000):
        counts[sample_with(own, 6, 10, rng)] += 1
    assert counts[own].tolist() == [3000] * 4
    assert np.delete(counts, own) == pytest.approx(np.full(6, 1000), abs=100)


def numpy_loss(config, vectors, centres, numbers):
    """The three losses as their papers write them, in float64; `numbers` are places among the centres."""
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (vectors, centres)]
    cosines, is_own = unit[0] @ unit[1].T, np.eye(len(centres), dtype=bool)[numbers]
    if config.loss == "proxy_anchor":
        pull = np.log1p((np.exp(-config.scale * (cosines - config.margin)) * is_own).sum(axis=0))
        push = np.log1p((np.exp(config.scale * (cosines + config.margin)) * ~is_own).sum(axis=0))
        return pull.sum() / is_own.any(axis=0).sum() + push.mean()
    harder = np.cos(np.arccos(cosines) + config.margin) if config.loss == "arcface" else cosines - config.margin
    logits = config.scale * np.where(is_own, harder, cosines)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[is_own])


@pytest.mark.parametrize("loss", ["arcface", "cosface", "proxy_anchor"])
def test_the_loss_is_that_over_the_sampled_centres_and_moves_no_other(loss, tiny_embedder, coloured):
    config = CONFIG.model_copy(update={"loss": loss, "sampled_classes": 9, "scale": 8.0, "slices": (4,)})
    codes = np.arange(60) % 30
    objective = Margin(tiny_embedder(), products(10 + codes), config).requires_grad_(True)
    optimiser, rows = build_optimiser(objective, config), np.array([3, 33, 7, 12, 42, 29])
    before = {dim: centres.detach().clone() for dim, centres in objective.centres.items()}
    samples = []
    for _ in range(2):
        optimiser.zero_grad()
        value, _ = objective.loss(torch.from_numpy(coloured(rows % 4)), torch.from_numpy(rows))
        torch.autograd.backward(value)
        [sample] = {tuple(c.grad.coalesce().indices()[0].tolist()) for c in objective.centres.values()}
        assert len(sample) == 9
        assert set(codes[rows]) <= set(sample)
        samples.append(sample)
        vectors = objective.embedder(torch.from_numpy(coloured(rows % 4))).detach().double().numpy()
        parts = [
            numpy_loss(config, vectors[:, :dim], centres.detach().double().numpy()[list(sample)], numbers)
            for dim, centres in ((16, objective.centres["16"]), (4, objective.centres["4"]))
            for numbers in [np.searchsorted(sample, codes[rows])]
        ]
        assert float(value.detach()) == pytest.approx(np.mean(parts), rel=1e-4)
        optimiser.step()
    assert samples[0] != samples[1]
    left_out = sorted(set(range(30)) - set(samples[0]) - set(samples[1]))
    for dim, centres in objective.centres.items():
        moments = optimiser.state[centres]
        assert torch.equal(centres[left_out], before[dim][left_out])
        assert not moments["exp_avg"][left_out].any()
        assert not moments["exp_avg_sq"][left_out].any()
        moved = sorted(set(samples[0]) | set(samples[1]))
        assert (centres[moved] != before[dim][moved]).any(dim=1).all()


def test_with_as_many_samples_as_classes_all_are_compared(tiny_embedder, coloured):
    pixels, rows, data = torch.from_numpy(coloured([0, 0, 1, 1])), torch.arange(4), products(np.arange(60) % 30)
    losses = []
    for n_sampled in (0, 30, 31):
        config = CONFIG.model_copy(update={"sampled_classes": n_sampled})
        objective = Margin(tiny_embedder(), data, config)
        losses.append(objective.loss(pixels, rows)[0])
        torch.autograd.backward(losses[-1])
        assert not objective.centres["16"].grad.is_sparse
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_killed_in_the_middle_a_training_on_samples_ends_with_the_same_weights(
    schedule, tiny_embedder, coloured, preprocess, tmp_path
):
    codes, split = np.arange(96) % 24, Split(np.arange(48, 96), np.arange(48))
    config = CONFIG.model_copy(update={"max_epochs": 4, "sampled_classes": 10, "schedule": schedule})
    whole, killed, resumed = (Margin(tiny_embedder(), products(codes), config) for _ in range(3))

    def train(objective, name, on_epoch=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        pixels = coloured(codes % 4)
        fit(objective, pixels, split, preprocess, config, device="cpu", folder=folder, on_epoch=on_epoch)

    def kill(row):
        if row["epoch"] == 2:
            raise Killed

    train(whole, "whole")
    with pytest.raises(Killed):
        train(killed, "killed", kill)
    assert (tmp_path / "killed" / LAST).exists()
    train(resumed, "killed")
    states = whole.state_dict(), resumed.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
