"""Labels from pictures: what is learned and scored, and which catalogues cannot teach it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, log_loss, precision_score, recall_score

from retrieval_core.embed.networks import build_network
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.train.config import MultilabelTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.multilabel import Multilabel
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.split import Split

CONFIG = MultilabelTraining(min_count=2, max_epochs=12, batch_size=8, learning_rate=1e-2)


def catalog(labels, split=None):
    """Rows with these labels, None for an unlabelled picture."""
    schema = {"category": pl.String(), "labels": pl.List(pl.String()), "split": pl.String()}
    attributes = pl.List(pl.Struct({"name": pl.String(), "value": pl.String()}))
    rows = {"category": [None] * len(labels), "labels": [given or [] for given in labels]}
    rows["split"] = split or ["train"] * len(labels)
    return pl.DataFrame(rows, schema=schema).with_columns(pl.lit([], attributes).alias("attributes"))


def objective(tiny_embedder, labels, config=CONFIG, split=None):
    return Multilabel(tiny_embedder(), TrainingData(catalog(labels, split)), config)


MIXED = [["hat"], ["hat", "coat"], None, ["coat"], ["hat", "sock"], None, ["coat", "hat"]]


def test_classes_are_the_frequent_labels_in_order(tiny_embedder):
    trained = objective(tiny_embedder, MIXED)
    assert trained.classes() == ["coat", "hat"]
    assert {name: tuple(value.shape) for name, value in trained.layers().items()} == {"weight": (2, 16), "bias": (2,)}


def test_unlabelled_pictures_are_not_learned_from(tiny_embedder):
    assert objective(tiny_embedder, MIXED).learnable(np.array([6, 2, 0, 5, 4])).tolist() == [6, 0, 4]


def test_held_out_pictures_do_not_count_towards_the_labels(tiny_embedder):
    labels = [*MIXED, ["scarf"], ["scarf"], ["sock"]]
    trained = objective(tiny_embedder, labels, split=["train"] * 7 + ["query", "val", "test"])
    assert trained.classes() == ["coat", "hat"]
    assert trained.learnable(np.arange(10)).tolist() == [0, 1, 3, 4, 6]


def test_the_loss_is_the_mean_over_pictures_and_labels(tiny_embedder, coloured):
    trained, pixels = objective(tiny_embedder, MIXED), torch.from_numpy(coloured([0, 1, 2]))
    rows = torch.tensor([4, 0, 3])  # coat, hat: (0, 1), (0, 1), (1, 0)
    probabilities = trained.outputs(pixels).sigmoid().detach().numpy()
    loss, _ = trained.loss(pixels, rows)
    truth = [0, 1, 0, 1, 1, 0]
    assert float(loss.detach()) == pytest.approx(log_loss(truth, probabilities.ravel().astype(float)), abs=1e-6)


def test_the_logits_are_the_kept_layer_on_the_embedding(tiny_embedder, coloured):
    trained, pixels = objective(tiny_embedder, MIXED), torch.from_numpy(coloured([0, 1]))
    layer = trained.layers()
    expected = tiny_embedder()(pixels) @ layer["weight"].T + layer["bias"]
    torch.testing.assert_close(trained.outputs(pixels).detach(), expected)


def test_scores_agree_with_scikit_learn_at_the_threshold_of_the_best_f1(tiny_embedder):
    rng = np.random.default_rng(0)
    truth = rng.random((40, 5)) < 0.4
    truth[:, 0] |= ~truth.any(axis=1)  # a picture without any label would be an unlabelled one
    labels = [[name for name, has in zip("abcde", row, strict=True) if has] for row in truth]
    trained = objective(tiny_embedder, labels)
    logits = torch.from_numpy(2 * truth - 1 + rng.normal(size=truth.shape)).float()
    scores = trained.score(logits, np.arange(40))
    probabilities = logits.double().sigmoid().numpy()
    predicted = probabilities >= scores["threshold"]
    expected = {
        "val_loss": np.mean([log_loss(truth[:, i], probabilities[:, i]) for i in range(5)]),
        "f1_example": f1_score(truth, predicted, average="samples", zero_division=0),
        "accuracy_example": jaccard_score(truth, predicted, average="samples", zero_division=0),
        "precision_example": precision_score(truth, predicted, average="samples", zero_division=0),
        "recall_example": recall_score(truth, predicted, average="samples", zero_division=0),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    others = [f1_score(truth, probabilities >= t / 100, average="samples", zero_division=0) for t in range(1, 100)]
    assert scores["f1_example"] == pytest.approx(max(others), abs=1e-9)


def test_labels_that_the_pictures_show_are_learned(tiny_embedder, coloured, preprocess, tmp_path):
    codes = np.arange(64) % 4
    labels = [[f"colour{code}", "warm" if code in (0, 3) else "cold"] for code in codes]
    trained = build_objective(CONFIG, tiny_embedder(), TrainingData(catalog(labels)))
    split = Split(np.arange(16, 64), np.arange(16))
    done = fit(trained, coloured(codes), split, preprocess, CONFIG, device="cpu", folder=tmp_path)
    assert done.metrics["f1_example"] > 0.95
    assert done.metrics["val_loss"] < 0.5 * done.history[0]["val_loss"]
    assert set(done.metrics) >= {"accuracy_example", "precision_example", "recall_example", "threshold", "train_loss"}


def test_the_new_layer_is_drawn_by_the_seed_alone(tiny_embedder):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = objective(tiny_embedder, MIXED).layers()["weight"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, objective(tiny_embedder, MIXED).layers()["weight"])
    other = objective(tiny_embedder, MIXED, CONFIG.model_copy(update={"seed": 1}))
    assert not torch.equal(first, other.layers()["weight"])


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3"])
def test_a_network_from_scratch_starts_by_kaiming(name):
    network = build_network(get_card(name), 224, seed=0)
    large = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.numel() > 5000]
    for convolution in large:
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2 // convolution.groups
        weight, kaiming = convolution.weight.detach(), (2 / fan_out) ** 0.5
        assert float(weight.std()) == pytest.approx(kaiming, rel=0.05)
        assert abs(float(weight.mean())) < 0.1 * kaiming


@pytest.mark.parametrize(
    ("labels", "split", "says"),
    [
        ([None] * 6, None, "none of the 6 pictures to train on has a label; add labels, or train rotation"),
        ([["hat"], ["hat"], None], ["query", "test", "train"], "none of the 1 pictures to train on"),
        ([["hat"], ["coat"]], None, "each of 2 labels is on fewer than min_count=2 .* most frequent, 'hat', on 1"),
        ([["hat"], ["hat"], None], None, "'hat' is on each of the 2 labelled pictures"),
        ([["hat", "coat"], ["hat"]], None, "'hat' is on each of the 2 labelled pictures"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, split, says, tiny_embedder):
    with pytest.raises(BadConfig, match=says):
        objective(tiny_embedder, labels, split=split)
