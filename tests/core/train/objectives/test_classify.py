"""Classes from pictures: of the category or of an attribute, and which catalogues cannot teach them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from retrieval_core.errors import BadConfig
from retrieval_core.train.config import ClassifyTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.classify import Classify
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.split import Split

CONFIG = ClassifyTraining(max_epochs=12, batch_size=8, learning_rate=1e-2)
SCHEMA = {
    "category": pl.String(),
    "labels": pl.List(pl.String()),
    "attributes": pl.List(pl.Struct({"name": pl.String(), "value": pl.String()})),
    "split": pl.String(),
}


def catalog(categories, colours=None, split=None):
    """Rows of a category and an attribute "colour", None where a row has none."""
    given = colours or [None] * len(categories)
    attributes = [[{"name": "colour", "value": colour}] if colour else [] for colour in given]
    rows = {"category": categories, "labels": [[] for _ in given], "attributes": attributes}
    return pl.DataFrame(rows | {"split": split or ["train"] * len(given)}, schema=SCHEMA)


def objective(tiny_embedder, *columns, target="category", **more):
    config = CONFIG.model_copy(update={"target": target})
    return Classify(tiny_embedder(), TrainingData(catalog(*columns, **more)), config)


def test_classes_are_of_the_category_or_of_an_attribute(tiny_embedder):
    categories, colours = ["shoe", "hat", "hat", "shoe"], ["red", "red", "blue", "blue"]
    assert objective(tiny_embedder, categories, colours).classes() == ["hat", "shoe"]
    by_colour = objective(tiny_embedder, categories, colours, target="colour")
    assert by_colour.classes() == ["blue", "red"]
    assert {name: tuple(value.shape) for name, value in by_colour.layers().items()} == {"weight": (2, 16), "bias": (2,)}


def test_a_class_with_one_sample_and_pictures_without_any_are_left_out(tiny_embedder):
    trained = objective(tiny_embedder, ["hat", "shoe", None, "sock", "hat", "shoe"])
    assert trained.classes() == ["hat", "shoe"]
    assert trained.learnable(np.arange(6)).tolist() == [0, 1, 4, 5]


def test_held_out_pictures_make_no_class(tiny_embedder):
    categories = ["hat", "hat", "shoe", "shoe", "sock", "sock"]
    split = ["train", "train", "train", "gallery", "train", "query"]
    trained = objective(tiny_embedder, categories, split=split)
    assert trained.classes() == ["hat", "shoe"]
    assert trained.learnable(np.arange(6)).tolist() == [0, 1, 2, 3]


def test_a_class_that_is_only_validated_on_is_not_scored(tiny_embedder):
    trained = objective(tiny_embedder, ["hat", "hat", "shoe", "shoe", "sock", "sock"])
    assert trained.watchable(np.array([0, 2]), np.array([5, 1, 4, 3])).tolist() == [1, 3]


def test_a_single_class_to_train_on_is_refused(tiny_embedder, coloured, preprocess, tmp_path):
    trained = objective(tiny_embedder, ["hat", "hat", "shoe", "shoe"])
    split = Split(np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(BadConfig, match="all 2 training pictures are of class 'hat'"):
        fit(trained, coloured([0, 0, 1, 1]), split, preprocess, CONFIG, device="cpu", folder=tmp_path)


def test_the_loss_and_the_scores_agree_with_scikit_learn(tiny_embedder, coloured):
    categories = [("hat", "shoe", "sock")[code] for code in np.arange(12) % 3]
    trained, pixels = objective(tiny_embedder, categories), torch.from_numpy(coloured(np.arange(12) % 3))
    rows = np.arange(12)[::-1].copy()
    with torch.no_grad():
        logits = trained.outputs(pixels)
        loss, figures = trained.loss(pixels, torch.from_numpy(rows))
    probabilities, truth = logits.double().softmax(dim=1).numpy(), rows % 3
    expected = {
        "val_loss": log_loss(truth, probabilities, labels=[0, 1, 2]),
        "accuracy": accuracy_score(truth, probabilities.argmax(axis=1)),
    }
    assert trained.score(logits, rows) == pytest.approx(expected, abs=1e-6)
    assert float(loss) == pytest.approx(expected["val_loss"], abs=1e-6)
    assert figures == {"train_accuracy": pytest.approx(expected["accuracy"])}


def test_classes_that_the_pictures_show_are_learned(tiny_embedder, coloured, preprocess, tmp_path):
    codes = np.arange(64) % 4
    trained = build_objective(CONFIG, tiny_embedder(), TrainingData(catalog([f"colour{code}" for code in codes])))
    split = Split(np.arange(16, 64), np.arange(16))
    done = fit(trained, coloured(codes), split, preprocess, CONFIG, device="cpu", folder=tmp_path)
    assert done.metrics["accuracy"] == 1
    assert done.metrics["val_loss"] < 0.5 * done.history[0]["val_loss"]


@pytest.mark.parametrize(
    ("categories", "colours", "target", "says"),
    [
        (["hat"] * 4, None, "category", "1 classes of category, of which 1 have min_count=2 .*two are needed"),
        (["hat", "hat", "shoe"], None, "category", "2 classes of category, of which 1 have min_count=2"),
        (["hat", "shoe", "sock"], None, "category", "3 classes of category, of which 0 have min_count=2"),
        (
            [None] * 3,
            None,
            "category",
            "no picture to train on has a class of category; they have classes of nothing at all",
        ),
        (
            ["hat", "shoe"],
            ["red", None],
            "color",
            "has a class of color; they have classes of category, colour; set target",
        ),
        ([None, None], ["red", "blue"], "category", "has a class of category; they have classes of colour; set target"),
        (["hat", "shoe"] * 2, None, "labels", "has a class of labels; they have classes of category; set target"),
    ],
)
def test_classes_that_teach_nothing_are_refused(categories, colours, target, says, tiny_embedder):
    with pytest.raises(BadConfig, match=says):
        objective(tiny_embedder, categories, colours, target=target)
