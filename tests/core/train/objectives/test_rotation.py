"""Quarter turns: how pictures are rotated, and that pictures with an orientation teach them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from retrieval_core.train.config import RotationTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.registry import build_objective
from retrieval_core.train.objectives.rotation import Rotation
from retrieval_core.train.split import Split

CONFIG = RotationTraining(max_epochs=8, batch_size=8, learning_rate=1e-2)
UNLABELLED = TrainingData(pl.DataFrame())


def lit_from_above(n, seed=0):
    """(n, 32, 32, 3) pictures that are bright at the top, in any colour."""
    rng = np.random.default_rng(seed)
    light = np.linspace(1, 0, 32)[:, None, None] * rng.uniform(120, 255, (n, 1, 1, 3))
    return np.clip(light + rng.normal(0, 20, (n, 32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def seen(tiny_embedder):
    """A rotation objective, and the squares that its embedder was shown."""
    objective, shown = Rotation(tiny_embedder(), UNLABELLED, CONFIG), []
    objective.embedder.register_forward_hook(lambda module, inputs, output: shown.append(inputs[0].numpy()))
    return objective, shown


def turn_of(picture, square):
    turns = [turn for turn in range(4) if np.array_equal(square, np.rot90(picture, turn))]
    assert len(turns) == 1
    return turns[0]


def test_each_training_picture_has_one_turn_which_is_its_class(seen):
    objective, shown = seen
    pixels = lit_from_above(40)
    with torch.no_grad():
        loss, figures = objective.loss(torch.from_numpy(pixels), torch.arange(40))
        logits = objective.logits(torch.from_numpy(shown[0])).double()
    turns = [turn_of(*pair) for pair in zip(pixels, shown[0], strict=True)]
    assert set(turns) == {0, 1, 2, 3}
    expected = -logits.log_softmax(dim=1)[torch.arange(40), turns].mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    hits = logits.argmax(dim=1).numpy() == turns
    assert figures == {"train_accuracy": pytest.approx(hits.mean())}


def test_turns_are_drawn_from_torch_s_generator(seen):
    objective, shown = seen
    pixels = torch.from_numpy(lit_from_above(20))
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        objective.loss(pixels, torch.arange(20))
    assert np.array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[0], shown[2])


def test_a_validation_picture_is_shown_in_all_four_turns(seen):
    objective, shown = seen
    pixels = lit_from_above(3)
    outputs = objective.outputs(torch.from_numpy(pixels))
    assert outputs.shape == (3, 16)
    assert [[turn_of(*pair) for pair in zip(pixels, part, strict=True)] for part in shown] == [
        [t] * 3 for t in range(4)
    ]


def test_the_score_is_over_all_turns(tiny_embedder):
    objective = Rotation(tiny_embedder(), UNLABELLED, CONFIG)
    right = 20 * torch.eye(4).flatten().repeat(2, 1)
    assert objective.score(right, np.arange(2)) == pytest.approx({"val_loss": 0, "accuracy": 1}, abs=1e-6)
    always_first = 20 * torch.tensor([1.0, 0, 0, 0]).repeat(4).repeat(2, 1)
    assert objective.score(always_first, np.arange(2)) == pytest.approx({"val_loss": 15, "accuracy": 0.25}, abs=1e-6)


def test_turns_are_learned_from_pictures_with_an_upper_side(tiny_embedder, preprocess, tmp_path):
    objective = build_objective(CONFIG, tiny_embedder(), UNLABELLED)
    split = Split(np.arange(8, 40), np.arange(8))
    done = fit(objective, lit_from_above(40), split, preprocess, CONFIG, device="cpu", folder=tmp_path)
    assert done.metrics["accuracy"] > 0.9
    assert done.metrics["train_accuracy"] > 0.7


def test_nothing_on_top_is_kept(tiny_embedder):
    objective = Rotation(tiny_embedder(), UNLABELLED, CONFIG)
    assert objective.layers() == {}
    assert objective.classes() == []
    assert objective.learnable(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
