"""A student learns its teacher's vectors, from the pictures for which there are any."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn.functional import normalize

from retrieval_core.arrays import Float32, UInt8
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.images import Preprocess
from retrieval_core.train.config import DistillTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.distill import (
    VAL_BLOCK,
    Distill,
    StandardisedLinear,
    agreement,
    cosine_loss,
    relational_loss,
)
from retrieval_core.train.split import Split

SIZE_PX = 16
TEACHER_DIM = 6
HOW = Preprocess(size_px=SIZE_PX)


def embedder(dim: int = TEACHER_DIM) -> ImageEmbedder:
    """Four mean colours of a picture, and a linear layer to `dim`."""
    card = get_card("resnet18").model_copy(update={"dim": 12})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ImageEmbedder(card, nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(12, dim))


def pictures(n: int) -> UInt8:
    """(n, 16, 16, 3) uint8, four quarters of one colour each."""
    colours = np.random.default_rng(0).integers(0, 256, (n, 2, 2, 3), dtype=np.uint8)
    return colours.repeat(SIZE_PX // 2, axis=1).repeat(SIZE_PX // 2, axis=2)


def unit(n: int, dim: int = TEACHER_DIM, seed: int = 1) -> Float32:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def teacher_of(pixels: UInt8) -> Float32:
    """A teacher that a linear layer over the mean colours can learn."""
    means = pixels[:, :: SIZE_PX // 2, :: SIZE_PX // 2].reshape(len(pixels), -1) / 255 - 0.5
    rows = (means @ np.random.default_rng(2).normal(size=(12, TEACHER_DIM))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def distill(teacher: Float32, student: ImageEmbedder | None = None, **config: Any) -> Distill:
    return distill_as(DistillTraining(teacher="cafe", **config), teacher, student)


def distill_as(config: DistillTraining, teacher: Float32, student: ImageEmbedder | None = None) -> Distill:
    items = pl.DataFrame({"item_id": [str(n) for n in range(len(teacher))]})
    return Distill(student or embedder(), TrainingData(items, teacher), config)


def test_the_cosine_loss_is_the_mean_distance_of_directions() -> None:
    student, teacher = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, -1]])
    assert float(cosine_loss(student, teacher)) == pytest.approx((0 + 1 + 2) / 3)


def test_the_relational_loss_is_the_mean_over_pairs_of_different_pictures() -> None:
    student, teacher = unit(5, 3), unit(5, 7)
    pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
    expected = np.mean([(student[a] @ student[b] - teacher[a] @ teacher[b]) ** 2 for a, b in pairs])
    assert float(relational_loss(torch.from_numpy(student), torch.from_numpy(teacher))) == pytest.approx(expected)
    assert float(relational_loss(torch.ones(1, 1), torch.ones(1, 1))) == 0


def test_a_rotated_space_has_the_same_relations_and_other_directions() -> None:
    teacher = torch.from_numpy(unit(9))
    turned = teacher.roll(1, dims=1)
    assert float(relational_loss(turned, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(cosine_loss(turned, teacher)) > 0.5


@pytest.mark.parametrize("loss", ["cosine", "relational", "both"])
def test_the_loss_is_what_the_config_says(loss: str) -> None:
    pixels, teacher = torch.from_numpy(pictures(8)), unit(8)
    objective = distill(teacher, loss=loss, relational_weight=3.0)
    rows = torch.tensor([5, 2, 7])
    student, known = normalize(objective.embedder(pixels[rows])), torch.from_numpy(teacher)[rows]
    cosine, relational = cosine_loss(student, known), relational_loss(student, known)
    expected = {"cosine": cosine, "relational": relational, "both": cosine + 3 * relational}[loss]
    assert float(objective.loss(pixels[rows], rows)[0]) == pytest.approx(float(expected), rel=1e-6)


def test_agreement_is_the_share_of_common_neighbours() -> None:
    student, teacher = unit(40, 3), unit(40, 4, seed=2)
    nearest = [
        NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows).kneighbors()[1] for rows in (student, teacher)
    ]
    expected = np.mean([len(set(ours) & set(theirs)) / 5 for ours, theirs in zip(*nearest, strict=True)])
    assert 0 < expected < 1
    assert agreement(7 * student, teacher, 5) == pytest.approx(expected)
    assert agreement(teacher, teacher, 5) == 1
    assert agreement(student[:3], teacher[:3], 5) == 1, "both have no others to name"
    assert agreement(student[:1], teacher[:1], 5) == 1


def test_a_collapsed_student_agrees_by_chance() -> None:
    assert agreement(np.ones((200, 3), np.float32), unit(200), 5) < 0.1


def test_a_teacher_of_another_catalogue_is_refused_with_how_many_match() -> None:
    teacher = unit(10)
    teacher[:5] = np.nan
    assert len(distill(teacher).learnable(np.arange(10))) == 5
    teacher[5] = np.nan
    with pytest.raises(BadConfig, match="cafe has a vector of 4 of 10 pictures"):
        distill(teacher)


def test_a_student_of_another_width_can_only_learn_relations() -> None:
    with pytest.raises(BadConfig, match="the student has 4 dimensions, the teacher cafe 6"):
        distill(unit(10), embedder(dim=4))
    objective = distill(unit(10), embedder(dim=4), loss="relational")
    assert math.isfinite(float(objective.loss(torch.from_numpy(pictures(10)), torch.arange(10))[0]))


def test_pictures_without_a_teachers_vector_are_not_learned_from() -> None:
    teacher = unit(10)
    teacher[[2, 7]] = np.nan
    assert distill(teacher).learnable(np.array([9, 7, 2, 1])).tolist() == [9, 1]


def test_the_score_of_many_blocks_is_that_of_all_pictures() -> None:
    n = 2 * VAL_BLOCK + 1
    teacher, student = unit(n), unit(n, seed=5)
    rows = np.random.default_rng(3).permutation(n)
    scores = distill(teacher, loss="cosine").score(torch.from_numpy(student), rows)
    assert scores["val_loss"] == pytest.approx(1 - (student * teacher[rows]).sum(axis=1).mean(), rel=1e-5)
    assert scores["agreement@5"] == agreement(student, teacher[rows], 5)


def test_vectors_that_are_not_finite_score_as_such() -> None:
    outputs = torch.full((6, TEACHER_DIM), torch.nan)
    assert math.isnan(distill(unit(6)).score(outputs, np.arange(6))["val_loss"])


@pytest.mark.parametrize(("trained", "standardised"), [("projection", True), ("all", False)])
def test_features_are_standardised_only_if_the_network_is_frozen(trained: str, standardised: bool) -> None:
    student = embedder()
    distill(unit(4), student, trained_layers=trained)
    assert isinstance(student.projection, StandardisedLinear) is standardised


def test_checkpoints_do_not_carry_the_teacher() -> None:
    assert not any("teacher" in name for name in distill(unit(10)).state_dict())


@pytest.mark.parametrize("loss", ["cosine", "relational", "both"])
def test_a_student_comes_to_agree_with_its_teacher(loss: str, tmp_path: Path) -> None:
    pixels = pictures(160)
    teacher = teacher_of(pixels)
    teacher[::9] = np.nan
    config = DistillTraining(loss=loss, max_epochs=25, batch_size=32, learning_rate=0.02, augment=False, patience=25)
    objective = distill_as(config, teacher)
    split = Split(np.arange(100), np.arange(100, 160))
    val = objective.learnable(split.val)
    before = objective.score(objective.embedder(torch.from_numpy(pixels[val])), val)
    trained = fit(objective, pixels, split, HOW, config, device="cpu", folder=tmp_path)
    after = objective.score(objective.embedder(torch.from_numpy(pixels[val])), val)
    assert after["agreement@5"] > max(0.8, before["agreement@5"])
    assert after["val_loss"] < before["val_loss"] / 5
    assert trained.metrics["val_loss"] == pytest.approx(after["val_loss"], abs=1e-5)
