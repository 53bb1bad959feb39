"""The training loop: what is kept, when it ends, and that a kill, a second call or the random state change nothing."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from retrieval_core.errors import BadConfig
from retrieval_core.train import fit as fit_module
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.fit import LAST, fit
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.rotation import Rotation
from retrieval_core.train.split import Split

CONFIG = RotationTraining(max_epochs=4, patience=4, batch_size=8, learning_rate=1e-3)
FINE = CONFIG.model_copy(update={"schedule": "cosine", "network_rate": 0.3, "weight_decay": 0.05})
UNLABELLED = TrainingData(pl.DataFrame())
SPLIT = Split(np.arange(4, 24), np.arange(4))


class Killed(BaseException):
    """An error that nothing in the loop catches."""


class Scripted(Objective):
    """One weight that falls with every step, and given scores of the epochs; `seen` and `kept` are by epoch."""

    def __init__(self, embedder, scores):
        super().__init__(embedder)
        self.weight = nn.Parameter(torch.zeros(()))
        self.scores, self.epoch = scores, -1
        self.seen, self.kept = [], []

    def begin_epoch(self, epoch):
        self.epoch = epoch
        self.seen.append([])

    def loss(self, pixels, rows):
        self.seen[-1].append((rows.tolist(), pixels))
        return self.weight + 0 * self.embedder(pixels).sum(), {"n": float(len(rows))}

    def outputs(self, pixels):
        return self.embedder(pixels)

    def score(self, outputs, rows):
        assert rows.tolist() == SPLIT.val.tolist()
        self.kept.append(float(self.weight.detach()))
        return {"val_loss": self.scores[self.epoch]}


class Rising(Scripted):
    better = "max"


class Uneven(Scripted):
    """As many batches as the epoch draws, all of one row."""

    def batches(self, rows, size, rng):
        return [np.full(2, row) for row in rows[: rng.integers(1, 12)]]


@pytest.fixture
def pixels(coloured):
    return coloured(np.arange(24) % 4)


@pytest.fixture
def train(pixels, preprocess, tmp_path):
    """Trains an objective in the test's own folder."""

    def run(objective, config=CONFIG, split=SPLIT, folder=tmp_path, on_epoch=None):
        return fit(objective, pixels, split, preprocess, config, device="cpu", folder=folder, on_epoch=on_epoch)

    return run


def steps(history):
    """The history without durations."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def assert_same_weights(one: nn.Module, other: nn.Module):
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("moment", ["in a batch", "while scoring", "between epochs"])
@pytest.mark.parametrize("config", [CONFIG, FINE], ids=["plateau", "cosine"])
def test_a_killed_training_resumes_and_ends_as_one_that_ran_through(
    moment, config, train, tiny_embedder, tmp_path, monkeypatch
):
    whole, killed, resumed = (Rotation(tiny_embedder(), UNLABELLED, config) for _ in range(3))
    (tmp_path / "whole").mkdir()
    expected = train(whole, config, folder=tmp_path / "whole")

    def kill_at(epoch):
        if len(seen) == epoch:
            raise Killed

    seen: list[dict[str, float]] = []
    if moment == "in a batch":
        monkeypatch.setattr(killed, "loss", lambda *batch: (kill_at(2), Rotation.loss(killed, *batch))[1])
    if moment == "while scoring":
        monkeypatch.setattr(killed, "score", lambda *scored: (kill_at(2), Rotation.score(killed, *scored))[1])

    def on_epoch(row):
        seen.append(row)
        if moment == "between epochs":
            kill_at(2)

    with pytest.raises(Killed):
        train(killed, config, on_epoch=on_epoch)
    assert [row["epoch"] for row in seen] == [1, 2]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / LAST, elsewhere)  # the one file is all that is needed
    torch.manual_seed(99)
    done = train(resumed, config, folder=elsewhere)
    assert steps(done.history) == steps(expected.history)
    assert steps([done.metrics]) == steps([expected.metrics])
    assert_same_weights(resumed, whole)


def test_a_training_that_stopped_early_does_not_continue(train, tiny_embedder):
    config = CONFIG.model_copy(update={"max_epochs": 9, "patience": 2})
    scores = [3.0, 2.0, 2.5, 2.0, 0.0, 0.0]
    first, second = Scripted(tiny_embedder(), scores), Scripted(tiny_embedder(), scores)
    done = train(first, config)
    again = train(second, config)
    assert len(done.history) == 4
    assert again == done
    assert second.seen == []
    assert_same_weights(first, second)


def test_a_training_that_ran_all_epochs_does_not_continue(train, tiny_embedder):
    first, second = Scripted(tiny_embedder(), [2.0, 1.0, 0.5, 0.2]), Scripted(tiny_embedder(), [])
    assert train(first) == train(second)
    assert_same_weights(first, second)


@pytest.mark.parametrize(("kind", "sign"), [(Scripted, 1), (Rising, -1)])
def test_the_first_best_epoch_is_kept_and_patience_ends_the_training(kind, sign, train, tiny_embedder):
    scores = [sign * score for score in (3.0, 1.0, 2.0, 1.0, 5.0, 0.0)]
    objective = kind(tiny_embedder(), scores)
    done = train(objective, CONFIG.model_copy(update={"max_epochs": 6, "patience": 3}))
    assert [row["val_loss"] for row in done.history] == scores[:5]
    assert done.metrics == done.history[1]
    assert float(objective.weight) == objective.kept[1] != objective.kept[2]
    assert not objective.training
    assert not any(parameter.requires_grad for parameter in objective.parameters())


def test_the_learning_rate_falls_tenfold_on_a_plateau(train, tiny_embedder):
    objective = Scripted(tiny_embedder(), [1.0] * 9)
    done = train(objective, CONFIG.model_copy(update={"max_epochs": 9, "patience": 8}))
    assert [row["learning_rate"] for row in done.history] == pytest.approx([1e-3] * 5 + [1e-4] * 4)


def test_the_cosine_schedule_runs_all_epochs_and_ends_with_small_steps(train, tiny_embedder):
    objective = Scripted(tiny_embedder(), [1.0] * 9)
    done = train(objective, CONFIG.model_copy(update={"max_epochs": 9, "patience": 1, "schedule": "cosine"}))
    rates = [row["learning_rate"] for row in done.history]
    assert len(rates) == 9
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9e-3
    assert rates[-1] < 0.01e-3


def test_networks_are_trained_in_the_layout_that_is_fast_and_kept_in_the_usual_one(train, tiny_embedder):
    class Layout(Scripted):
        def loss(self, pixels, rows):
            kernel = self.embedder.network[0].weight
            self.is_fast = kernel.is_contiguous(memory_format=torch.channels_last)
            return super().loss(pixels, rows)

    objective = Layout(tiny_embedder(), [1.0] * 4)
    train(objective)
    assert objective.is_fast
    assert objective.embedder.network[0].weight.is_contiguous()


def test_without_a_terminal_the_log_says_how_far_an_epoch_is(train, tiny_embedder, monkeypatch, caplog):
    monkeypatch.setattr(fit_module, "LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO):
        train(Scripted(tiny_embedder(), [1.0] * 4))
    lines = [record.getMessage() for record in caplog.records if "pictures/s" in record.getMessage()]
    assert len(lines) == 4 * 3
    assert re.fullmatch(r"epoch 2 of 4: 67%, [\d.]+ pictures/s, [\d.]+ minutes left", lines[4])


def test_figures_of_an_epoch_are_averaged_over_its_batches(train, tiny_embedder):
    seen = []
    done = train(Scripted(tiny_embedder(), [2.0, 1.0, 1.0, 1.0]), on_epoch=seen.append)
    assert tuple(seen) == done.history
    assert [row["epoch"] for row in seen] == [1, 2, 3, 4]
    assert all(row["n"] == pytest.approx(20 / 3) and row["seconds"] > 0 for row in seen)
    # Adam takes steps of the learning rate: the mean of three weights, each before its step.
    assert seen[0]["train_loss"] == pytest.approx(-1e-3, rel=1e-3)


def test_every_epoch_sees_each_picture_once_in_another_order_and_another_view(train, tiny_embedder):
    objective = Scripted(tiny_embedder(), [1.0] * 4)
    train(objective)
    orders = [[row for rows, _ in epoch for row in rows] for epoch in objective.seen]
    assert all(sorted(order) == SPLIT.train.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    views = [
        {row: view for rows, pixels in epoch for row, view in zip(rows, pixels, strict=True)}
        for epoch in objective.seen
    ]
    assert not any(torch.equal(views[0][row], views[1][row]) for row in SPLIT.train.tolist())


def test_without_augmentation_every_view_is_the_centre(train, tiny_embedder, pixels):
    objective = Scripted(tiny_embedder(), [1.0] * 4)
    train(objective, CONFIG.model_copy(update={"augment": False}))
    for rows, views in objective.seen[0]:
        np.testing.assert_array_equal(views.numpy(), pixels[rows][:, 2:30, 2:30])


def test_an_epoch_may_have_more_or_fewer_batches_and_draw_a_picture_twice(train, tiny_embedder):
    objective = Uneven(tiny_embedder(), [1.0] * 4)
    done = train(objective)
    drawn = [np.random.default_rng((0, epoch)).integers(1, 12) for epoch in range(4)]
    assert [len(epoch) for epoch in objective.seen] == drawn
    assert len(set(drawn)) > 1
    assert len(done.history) == 4
    assert not any(torch.equal(*views) for epoch in objective.seen for _, views in epoch)


def test_the_same_call_gives_the_same_weights_whatever_was_drawn_before(train, tiny_embedder, tmp_path):
    def trained(seed, state):
        config = CONFIG.model_copy(update={"seed": seed})
        objective = Rotation(tiny_embedder(), UNLABELLED, config)
        folder = tmp_path / f"{seed}-{state}"
        folder.mkdir()
        torch.manual_seed(state)
        before = torch.get_rng_state()
        train(objective, config, folder=folder)
        assert torch.equal(torch.get_rng_state(), before)
        return objective

    first = trained(0, 1)
    assert_same_weights(first, trained(0, 2))
    other = trained(1, 1)
    assert not torch.equal(first.embedder.network[0].weight, other.embedder.network[0].weight)


def test_weights_averaged_with_the_initial_ones_are_scored_anew(train, tiny_embedder, tmp_path):
    config = CONFIG.model_copy(update={"weights": "file:unread", "trained_share": 0.5})
    folders = [tmp_path / name for name in ("whole", "half")]
    for folder in folders:
        folder.mkdir()
    whole, half = (Rotation(tiny_embedder(), UNLABELLED, CONFIG) for _ in folders)
    first, second = train(whole, CONFIG, folder=folders[0]), train(half, config, folder=folders[1])
    initial = tiny_embedder().network[0].weight
    torch.testing.assert_close(half.embedder.network[0].weight, (initial + whole.embedder.network[0].weight) / 2)
    assert steps(second.history) == steps(first.history)
    assert second.metrics["trained_share"] == 0.5
    assert second.metrics["val_loss"] != first.metrics["val_loss"]


def test_an_objective_that_starts_trained_is_scored_before_training_too(train, tiny_embedder, monkeypatch, tmp_path):
    plain, scored = Rotation(tiny_embedder(), UNLABELLED, CONFIG), Rotation(tiny_embedder(), UNLABELLED, CONFIG)
    folders = [tmp_path / name for name in ("plain", "scored")]
    for folder in folders:
        folder.mkdir()
    expected = train(plain, CONFIG, folder=folders[0])
    monkeypatch.setattr(Rotation, "starts_trained", True)
    done = train(scored, CONFIG, folder=folders[1])
    assert not any(name.startswith("start_") for name in expected.metrics)
    assert {name for name in done.metrics if name.startswith("start_")} == {"start_val_loss", "start_accuracy"}
    assert done.metrics["start_val_loss"] > done.metrics["val_loss"]
    assert_same_weights(plain, scored)


def test_batch_norms_learn_the_pictures_statistics(train, tiny_embedder):
    objective = Rotation(tiny_embedder(), UNLABELLED, CONFIG)
    train(objective)
    norm = objective.embedder.network[1]
    assert norm.running_mean.abs().min() > 0
    assert not torch.equal(norm.weight, torch.ones_like(norm.weight))


def test_a_frozen_network_is_unchanged_and_the_layers_on_top_are_trained(train, tiny_embedder):
    config = CONFIG.model_copy(update={"trained_layers": "projection"})
    objective, before = Rotation(tiny_embedder(dim=6), UNLABELLED, config), tiny_embedder(dim=6)
    train(objective, config)
    assert_same_weights(objective.embedder.network, before.network)
    assert not torch.equal(objective.embedder.projection.weight, before.projection.weight)


def test_a_frozen_network_with_nothing_on_top_is_refused(train, tiny_embedder):
    class Bare(Scripted):
        def __init__(self, embedder, scores):
            super().__init__(embedder, scores)
            del self.weight

    with pytest.raises(BadConfig, match="has no layer on top; set embedding_dim"):
        train(Bare(tiny_embedder(), []), CONFIG.model_copy(update={"trained_layers": "projection"}))


def test_a_training_that_diverges_says_so(train, tiny_embedder):
    config = CONFIG.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(BadConfig, match=r"diverged in epoch 1: its loss is nan; lower learning_rate, which is 1e\+30"):
        train(Rotation(tiny_embedder(), UNLABELLED, config), config)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_a_divergence(score, train, tiny_embedder):
    with pytest.raises(BadConfig, match="diverged in epoch 2: its val_loss is"):
        train(Scripted(tiny_embedder(), [1.0, score]))


@pytest.mark.parametrize(("n_train", "n_val"), [(0, 4), (1, 4), (10, 0)])
def test_too_few_pictures_are_refused(n_train, n_val, train, tiny_embedder, tmp_path):
    split = Split(np.arange(4, 4 + n_train), np.arange(n_val))
    with pytest.raises(BadConfig, match=f"{n_train} training and {n_val} validation pictures"):
        train(Rotation(tiny_embedder(), UNLABELLED, CONFIG), split=split)
    assert list(tmp_path.iterdir()) == []


def test_one_checkpoint_is_written_and_nothing_is_printed_or_left_behind(
    train, tiny_embedder, tmp_path, monkeypatch, capfd
):
    (tmp_path / "here").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(Rotation(tiny_embedder(), UNLABELLED, CONFIG), folder=tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [LAST]
    assert list(Path.cwd().iterdir()) == []
    said = capfd.readouterr()
    assert said.out == said.err == ""
