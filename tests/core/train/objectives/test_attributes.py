"""All that a catalogue says of a picture is learned at once, through one embedding."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import log_softmax

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import AttributesTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.attributes import Attributes
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.split import Split

CONFIG = AttributesTraining(max_epochs=8, batch_size=8, learning_rate=2e-2, min_count=2)


def catalogue(categories, colours=None, labels=None, split=None):
    """Rows with a category, an attribute "colour" and labels; None where a row has none."""
    n_rows = len(categories)
    ids = [f"{number:03}" for number in range(n_rows)]
    named = [[{"name": "colour", "value": colour}] if colour else [] for colour in colours or [None] * n_rows]
    columns = {"item_id": ids, "image_uri": ids, "category": categories, "attributes": named}
    columns |= {"labels": labels or [[]] * n_rows, "split": split or ["train"] * n_rows}
    return TrainingData(conform(pl.DataFrame(columns, schema_overrides={"category": pl.String}), "drawn"))


MIXED = catalogue(
    ["hat", "shoe", None, "hat", "shoe", None],
    ["red", None, "blue", "blue", "red", None],
    [["wool", "soft"], ["wool"], ["soft"], [], ["wool", "soft"], []],
)


def test_the_loss_is_the_weighted_cross_entropy_of_the_tasks_that_pictures_have(tiny_embedder, coloured):
    objective = Attributes(
        tiny_embedder(), MIXED, CONFIG.model_copy(update={"label_smoothing": 0.0, "category_weight": 2.0})
    )
    pixels, rows = torch.from_numpy(coloured(np.arange(6) % 4)), torch.arange(6)
    with torch.no_grad():
        logits = objective.logits(pixels).double().numpy()
        loss, _ = objective.loss(pixels, rows)
    category, colour, labels = (log_softmax(part, axis=1) for part in np.split(logits, 3, axis=1))
    expected = [
        np.mean([category[0, 0], category[1, 1], category[3, 0], category[4, 1]]),
        np.mean([colour[0, 1], colour[2, 0], colour[3, 0], colour[4, 1]]),
        np.mean([labels[0].mean(), labels[1, 1], labels[2, 0], labels[4].mean()]),
    ]
    assert float(loss) == pytest.approx(-np.average(expected, weights=[2, 1, 1]), rel=1e-5)


def test_pictures_that_have_nothing_and_held_out_ones_teach_nothing(tiny_embedder):
    assert Attributes(tiny_embedder(), MIXED, CONFIG).learnable(np.arange(6)).tolist() == [0, 1, 2, 3, 4]
    held = catalogue(["hat", "shoe"] * 3, split=["train"] * 4 + ["query", "val"])
    assert Attributes(tiny_embedder(), held, CONFIG).learnable(np.arange(6)).tolist() == [0, 1, 2, 3]


def test_the_score_is_the_share_of_neighbours_with_the_same_value_in_each_task(tiny_embedder):
    categories = ["hat", "shoe"] * 8
    colours = ["red", "blue", "blue", "red"] * 4
    objective = Attributes(tiny_embedder(), catalogue(categories, colours), CONFIG)
    by_category = torch.eye(16)[[row % 2 for row in range(16)]]
    score = objective.score(by_category, np.arange(16))
    assert score["relevance@5/category"] == 1
    assert score["val_relevance@5"] == pytest.approx((1 + score["relevance@5/colour"]) / 2)
    assert score["relevance@5/colour"] < 0.7


def test_category_and_attribute_that_the_pictures_show_are_learned(tiny_embedder, coloured, preprocess, tmp_path):
    codes = np.arange(96) % 4
    data = catalogue([f"c{code // 2}" for code in codes], [f"a{code % 2}" for code in codes])
    objective, split = Attributes(tiny_embedder(), data, CONFIG), Split(np.arange(32, 96), np.arange(32))
    done = fit(objective, coloured(codes), split, preprocess, CONFIG, device="cpu", folder=tmp_path)
    assert done.metrics["val_relevance@5"] > 0.9
    assert {"relevance@5/category", "relevance@5/colour"} <= done.metrics.keys()


def test_a_catalogue_that_says_nothing_is_refused(tiny_embedder):
    with pytest.raises(BadConfig, match=r"no category, attribute or label of the 3 pictures .* min_count=2 pictures"):
        Attributes(tiny_embedder(), catalogue(["hat", "shoe", None]), CONFIG)


@torch.no_grad()
def test_leading_dimensions_learn_as_if_the_others_were_zero(tiny_embedder, coloured):
    whole = Attributes(tiny_embedder(), MIXED, CONFIG)
    sliced = Attributes(tiny_embedder(), MIXED, CONFIG.model_copy(update={"slices": (4,)}))
    pixels, rows = torch.from_numpy(coloured(np.arange(6) % 4)), torch.arange(6)
    whole_loss, sliced_loss = (float(objective.loss(pixels, rows)[0]) for objective in (whole, sliced))
    whole.classifier.weight[:, 4:] = 0
    assert sliced_loss == pytest.approx((whole_loss + float(whole.loss(pixels, rows)[0])) / 2, rel=1e-6)
