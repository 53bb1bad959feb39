"""Margin softmax: which classes it tells apart, by which loss, and that leading dimensions learn alone too."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import MarginTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.margin import Margin
from retrieval_core.train.split import Split

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
    cosines = normalize(objective.embedder(pixels)) @ normalize(objective.losses["16"].W, dim=0)
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
    assert Margin(tiny_embedder(), data, CONFIG).losses["16"].W.shape == (16, 2)


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
    expected = [float(objective.losses[str(dim)](vectors[:, :dim], classes)) for dim in (16, 4, 8)]
    loss, _ = objective.loss(pixels, torch.arange(4))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)
