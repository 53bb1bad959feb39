"""Pictures learn to lie near their captions, and nothing moves the captions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from retrieval_core.arrays import Float32
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import BadConfig
from retrieval_core.images import Preprocess
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.captions import CaptionVectors, number_captions
from retrieval_core.train.config import CaptionsTraining
from retrieval_core.train.fit import fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.captions import Captions, caption_loss
from retrieval_core.train.split import Split

DIM = 8
TITLES = ["red dress", "blue jeans", "green cap", "yellow bag"]


def unit(n: int, seed: int = 1) -> Float32:
    rows = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def data_of(captions: list[str | None], scale: float = 10.0, **columns: Any) -> TrainingData:
    ids = [f"{row:03}" for row in range(len(captions))]
    items = conform(pl.DataFrame({"item_id": ids, "image_uri": ids, **columns}), "drawn")
    texts, codes = number_captions(pl.Series(captions, dtype=pl.String))
    return TrainingData(items, captions=CaptionVectors(unit(len(texts)), codes, scale))


def embedder(dim: int = DIM) -> ImageEmbedder:
    """Nine mean colours of a picture, under a linear layer."""
    card = get_card("resnet18").model_copy(update={"dim": dim})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, dim))
    return ImageEmbedder(card, network)


def captions(data: TrainingData, **config: Any) -> Captions:
    return Captions(embedder(), data, CaptionsTraining(**config))


def test_the_loss_of_different_captions_is_clip_s() -> None:
    pictures, texts, scale = torch.randn(6, DIM), torch.randn(6, DIM), torch.tensor(7.0)
    expected = open_clip.ClipLoss()(normalize(pictures), normalize(texts), scale)
    torch.testing.assert_close(caption_loss(scale, pictures, texts, torch.eye(6, dtype=torch.bool)), expected)


def test_pictures_of_one_caption_are_all_right_answers() -> None:
    texts = torch.from_numpy(unit(2))[[0, 0, 1]]
    alike = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    scale = torch.tensor(50.0)
    together = caption_loss(scale, texts, texts, alike)
    assert float(together) == pytest.approx(math.log(2) * 2 / 3, abs=1e-3), "the least that two right answers allow"
    apart = torch.stack([texts[0], torch.randn(DIM), texts[2]])
    assert float(caption_loss(scale, apart, texts, alike)) > float(together)


def test_the_loss_of_a_batch_reads_each_picture_s_own_caption() -> None:
    objective = captions(data_of([*TITLES, None, TITLES[0]]))
    pixels, rows = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8), torch.tensor([5, 2, 0])
    loss, figures = objective.loss(pixels, rows)
    alike = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    texts = torch.from_numpy(unit(4))[[0, 2, 0]]
    torch.testing.assert_close(loss, caption_loss(torch.tensor(10.0), objective.embedder(pixels), texts, alike))
    assert figures == {"scale": pytest.approx(10)}


@pytest.mark.parametrize(("start", "bound"), [(14.0, 100.0), (120.0, 120.0)])
def test_the_scale_is_learned_up_to_a_bound(start: float, bound: float) -> None:
    objective = captions(data_of(TITLES, start))
    assert float(objective.log_scale.detach().exp()) == pytest.approx(start)
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    _, figures = objective.loss(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.arange(2))
    assert figures["scale"] == pytest.approx(bound, rel=1e-5)


def test_pictures_without_a_caption_are_not_learned_from() -> None:
    objective = captions(data_of(["a", None, "b"]))
    assert objective.learnable(np.array([2, 1, 0])).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("titles", "says"),
    [
        ([None, None], r"of 2 pictures to train on 0 have a caption \(fields title, description\).*column title"),
        (["a", "a", None], "of 3 pictures to train on 2 have a caption .* 1 different ones; at least two"),
    ],
)
def test_a_catalogue_without_two_captions_is_refused(titles: list[str | None], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        captions(data_of(titles))


def test_captions_of_held_out_pictures_teach_nothing() -> None:
    with pytest.raises(BadConfig, match="of 1 pictures to train on 1 have a caption"):
        captions(data_of(["a", "b"], split=["train", "query"]))


def test_pictures_of_another_width_than_the_texts_are_refused() -> None:
    with pytest.raises(BadConfig, match=f"pictures have 5 dimensions, the texts {DIM}"):
        Captions(embedder(5), data_of(TITLES), CaptionsTraining())


def test_text_recall_is_the_share_of_a_caption_s_pictures_among_the_first_five() -> None:
    objective = captions(data_of(["a"] * 7 + ["b"] * 2 + ["c"] * 4))
    a, b, c = (torch.from_numpy(vector) for vector in unit(3))
    outputs = torch.stack([*[a] * 7, b, -b, *[c] * 4])
    scores = objective.score(3 * outputs, np.arange(13))
    assert scores["text_recall@5"] == pytest.approx((5 / 5 + 1 / 2 + 4 / 4) / 3)


def test_collapsed_pictures_are_found_by_chance() -> None:
    titles = [f"title {row}" for row in range(100)]
    scores = captions(data_of(titles)).score(torch.ones(100, DIM), np.arange(100))
    assert scores == {"text_recall@5": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("columns", "relevance"),
    [({"category": ["x"] * 7 + ["y"] * 7}, 1.0), ({}, 0.0)],
    ids=["by category", "by caption where nothing else is known"],
)
def test_what_the_training_costs_among_pictures_is_scored_beside(columns: dict[str, Any], relevance: float) -> None:
    objective = captions(data_of([f"title {row}" for row in range(7)] * 2, **columns))
    outputs = torch.eye(DIM)[[0] * 7 + [1] * 7]
    assert objective.score(outputs, np.arange(14))["val_relevance@5"] == relevance


def test_pictures_come_to_be_found_by_their_captions_and_the_texts_stay(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 120
    kinds = np.arange(n) % len(TITLES)
    colours = np.array([[220, 40, 40], [40, 60, 220], [40, 200, 60], [230, 210, 40]], np.uint8)
    pixels = rng.integers(0, 80, (n, 32, 32, 3), dtype=np.uint8)
    pixels[:, 8:24, 8:24] = colours[kinds][:, None, None]
    data = data_of([TITLES[kind] for kind in kinds])
    config = CaptionsTraining(max_epochs=6, batch_size=16, network_rate=1.0, learning_rate=0.02, slices=(4,))
    objective = captions(data, slices=(4,))
    texts = objective.texts.clone()
    split = Split(np.arange(80), np.arange(80, n))
    trained = fit(objective, pixels, split, Preprocess(size_px=28), config, device="cpu", folder=tmp_path)
    assert trained.metrics["text_recall@5"] == 1 > trained.metrics["start_text_recall@5"]
    assert {"start_val_relevance@5", "val_relevance@5", "trained_share", "scale"} <= set(trained.metrics)
    assert trained.metrics["trained_share"] > 0
    assert torch.equal(objective.texts, texts)
    assert not any("texts" in name for name in objective.state_dict()), "checkpoints stay small"
