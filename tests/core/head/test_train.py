"""Training the head on planted structure: what it must learn, what it must refuse, and that it repeats itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.config.stages import HeadConfig
from retrieval_core.errors import BadConfig, DimensionMismatch, ShardCorrupt
from retrieval_core.head.apply import boost, predict
from retrieval_core.head.targets import UNKNOWN, Targets
from retrieval_core.head.train import TrainedHead, train_head

CONFIG = HeadConfig(learning_rate=1e-2, dropout=0.5, max_epochs=40, patience=5)


class Planted(NamedTuple):
    """Embeddings in which strong directions that say nothing hide weak ones that say which attributes a picture has."""

    vectors: Float32
    colour: Int64
    labels: Bool

    def targets(self) -> Targets:
        tasks = {"colour": [f"colour{i}" for i in range(5)], "labels": [f"label{i}" for i in range(8)]}
        return Targets(tasks, {"colour": self.colour.copy()}, self.labels.astype(np.float32))


def plant(n_rows: int = 300, dim: int = 32, seed: int = 0) -> Planted:
    world, rng = np.random.default_rng(7), np.random.default_rng(seed)
    of_colour, of_label, nuisance = (world.normal(size=(k, dim)) for k in (5, 8, 6))
    colour = rng.integers(0, 5, n_rows)
    labels = rng.random((n_rows, 8)) < 0.3
    hidden = of_colour[colour] + labels @ of_label
    vectors = 0.6 * hidden + 2 * rng.normal(size=(n_rows, 6)) @ nuisance + 0.6 * rng.normal(size=(n_rows, dim)) + 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Planted(vectors.astype(np.float32), colour, labels)


def nothing(n_rows: int) -> Bool:
    return np.zeros(n_rows, bool)


def train(planted: Planted, config: HeadConfig = CONFIG) -> TrainedHead:
    return train_head(planted.vectors, planted.targets(), nothing(len(planted.vectors)), config)


def label_iou_at_5(query: Float32, gallery: Float32, query_labels: Float32, gallery_labels: Float32) -> float:
    nearest = np.argsort(-(query @ gallery.T), axis=1)[:, :5]
    shared = query_labels[:, None] * gallery_labels[nearest]
    either = np.maximum(query_labels[:, None], gallery_labels[nearest])
    return float((shared.sum(axis=2) / either.sum(axis=2)).mean())


def known_labels(planted: Planted) -> Float32:
    """Labels and colour as one vocabulary, so that no picture is without a label."""
    return np.hstack([planted.labels, np.eye(5)[planted.colour]]).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("boosting", "gain"), [("classes", 1.2), ("hidden", 2)])
def test_boosted_neighbours_share_more_labels_than_raw_ones(boosting: str, gain: float, seed: int) -> None:
    gallery, query = plant(seed=seed), plant(100, seed=100 + seed)
    head = train(gallery, CONFIG.model_copy(update={"boosting": boosting}))
    raw = label_iou_at_5(query.vectors, gallery.vectors, known_labels(query), known_labels(gallery))
    boosted = label_iou_at_5(
        boost(head.weights, query.vectors),
        boost(head.weights, gallery.vectors),
        known_labels(query),
        known_labels(gallery),
    )
    assert boosted > gain * raw


def test_an_attribute_that_cannot_be_learned_does_not_drown_the_labels() -> None:
    gallery = plant(seed=3)
    noise = np.random.default_rng(5).integers(0, 40, len(gallery.vectors))
    tasks = gallery.targets().tasks | {"colour": [f"colour{i}" for i in range(40)]}
    targets = Targets(tasks, {"colour": noise}, gallery.targets().multi)
    head = train_head(gallery.vectors, targets, nothing(len(gallery.vectors)), CONFIG)
    assert head.metrics["f1_example"] > 0.65


def test_it_predicts_what_it_was_not_shown() -> None:
    head, fresh = train(plant()), plant(200, seed=9)
    predictions = predict(head.weights, fresh.vectors)
    assert (predictions["colour"].argmax(axis=1) == fresh.colour).mean() > 0.8
    scores = predictions["labels"]
    assert scores[fresh.labels].mean() > 1.5 * scores[~fresh.labels].mean()


def test_the_report_holds_the_scores_of_the_validation_rows() -> None:
    head = train(plant())
    assert set(head.metrics) == {
        "f1_example",
        "accuracy_example",
        "precision_example",
        "recall_example",
        "threshold",
        "accuracy/colour",
    }
    assert all(0 <= value <= 1 for value in head.metrics.values())
    assert head.metrics["f1_example"] > 0.6


def test_validation_rows_do_not_shape_the_weights_but_for_when_to_stop() -> None:
    planted, val = plant(), nothing(300)
    val[::5] = True
    config = CONFIG.model_copy(update={"max_epochs": 1})
    head = train_head(planted.vectors, planted.targets(), val, config)
    garbled = planted.targets()
    garbled.single["colour"][val] = (garbled.single["colour"][val] + 1) % 5
    other = train_head(planted.vectors, garbled, val, config)
    for key, weight in head.weights.items():
        np.testing.assert_array_equal(weight, other.weights[key])
    assert head.metrics["accuracy/colour"] != other.metrics["accuracy/colour"]


def test_the_same_call_gives_the_same_head_and_leaves_the_random_state_alone() -> None:
    planted = plant()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    head = train(planted)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = train(planted)
    assert head.history == again.history
    for key, weight in head.weights.items():
        np.testing.assert_array_equal(weight, again.weights[key])


def test_another_seed_gives_another_head() -> None:
    planted = plant(100)
    other = train(planted, CONFIG.model_copy(update={"seed": 1}))
    assert not np.array_equal(train(planted).weights["hidden.weight"], other.weights["hidden.weight"])


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_the_training() -> None:
    noise = plant(80)._replace(colour=np.random.default_rng(3).integers(0, 5, 80))  # nothing to learn but by heart
    val = nothing(80)
    val[:20] = True
    targets = Targets({"colour": list("abcde")}, {"colour": noise.colour}, None)
    config = HeadConfig(learning_rate=1e-2, max_epochs=60, patience=3)
    head = train_head(noise.vectors, targets, val, config)
    losses = [row["val_loss"] for row in head.history]
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    probabilities = predict(head.weights, noise.vectors[:20])["colour"]
    kept_loss = -np.log(probabilities[np.arange(20), noise.colour[:20]]).mean()
    assert kept_loss == pytest.approx(min(losses), abs=1e-4)


def test_the_learning_rate_rises_and_then_falls_to_nearly_nothing() -> None:
    config = CONFIG.model_copy(update={"max_epochs": 30, "patience": 30})
    rates = [row["learning_rate"] for row in train(plant(), config).history]
    highest = int(np.argmax(rates))
    assert 0 < highest < 10
    assert rates[highest] == pytest.approx(config.learning_rate, rel=0.1)
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] < 1e-3 * config.learning_rate


@pytest.mark.parametrize(("n_rows", "expected"), [(60, 50), (8_000, 7), (30_000, 3)])
def test_a_large_catalogue_is_learned_in_fewer_epochs(n_rows: int, expected: int) -> None:
    rng = np.random.default_rng(0)
    targets = Targets({"coin": ["head", "tail"]}, {"coin": rng.integers(0, 2, n_rows)}, None)
    vectors = rng.normal(size=(n_rows, 4)).astype(np.float32)
    head = train_head(vectors, targets, nothing(n_rows), HeadConfig(patience=60, learning_rate=1e-4))
    assert len(head.history) == pytest.approx(expected, rel=0.15)


def test_hundreds_of_labels_do_not_outvote_an_attribute() -> None:
    gallery, fresh = plant(400, seed=4), plant(200, seed=5)
    noise = np.random.default_rng(6).random((400, 300)) < 0.01
    targets = gallery.targets()
    tasks = targets.tasks | {"labels": [f"word{n:03d}" for n in range(300)]}
    crowded = train_head(
        gallery.vectors, Targets(tasks, targets.single, noise.astype(np.float32)), nothing(400), CONFIG
    )
    accuracy = (predict(crowded.weights, fresh.vectors)["colour"].argmax(axis=1) == fresh.colour).mean()
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("boosting", "hidden_dim", "expected"),
    [("classes", 0, 32 + 5 + 8), ("classes", 12, 32 + 5 + 8), ("hidden", 0, 32), ("hidden", 12, 12)],
)
def test_the_boosted_width_is_of_embedding_and_classes_or_of_the_hidden_layer(
    boosting: str, hidden_dim: int, expected: int
) -> None:
    planted = plant(60)
    config = {"boosting": boosting, "hidden_dim": hidden_dim, "max_epochs": 2}
    head = train(planted, CONFIG.model_copy(update=config))
    assert head.dim == expected
    assert boost(head.weights, planted.vectors).shape == (60, expected)
    assert all(weight.dtype == np.float32 for weight in head.weights.values())


def test_constant_dimensions_do_no_harm() -> None:
    planted = plant()
    planted.vectors[:, 0], planted.vectors[:, 1] = 0, 0.1
    head = train(planted)
    assert all(np.isfinite(weight).all() for weight in head.weights.values())
    assert head.weights["std"][:2].tolist() == [1, 1]
    assert head.metrics["accuracy/colour"] > 0.6


@pytest.mark.parametrize("width", [32, 65])
def test_inputs_are_standardised_by_the_training_rows_to_the_last_bit(width: int) -> None:
    planted, is_val = plant(200, width), np.arange(200) % 4 == 0
    weights = train_head(
        planted.vectors, planted.targets(), is_val, CONFIG.model_copy(update={"max_epochs": 1})
    ).weights
    rows = planted.vectors[~is_val]
    assert np.array_equal(weights["mean"], rows.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert np.array_equal(weights["std"], rows.std(axis=0, dtype=np.float64).astype(np.float32))


def test_unknown_targets_are_ignored() -> None:
    planted = plant()
    targets = planted.targets()
    assert targets.multi is not None
    targets.single["colour"][::2] = UNKNOWN
    targets.multi[1::2] = np.nan
    head = train_head(planted.vectors, targets, nothing(300), CONFIG)
    fresh = plant(200, seed=9)
    predictions = predict(head.weights, fresh.vectors)
    assert (predictions["colour"].argmax(axis=1) == fresh.colour).mean() > 0.7
    assert np.isfinite([row["val_loss"] for row in head.history]).all()


def test_pictures_without_any_target_change_nothing() -> None:
    planted = plant(100)
    targets = planted.targets()
    assert targets.multi is not None
    padded = Targets(
        targets.tasks,
        {"colour": np.append(targets.single["colour"], [UNKNOWN] * 3)},
        np.vstack([targets.multi, np.full((3, 8), np.nan, np.float32)]),
    )
    vectors = np.vstack([planted.vectors, np.ones((3, 32), np.float32)])
    val = nothing(103)
    val[100:] = True  # they cannot be validated on either: a tenth of the others is
    padded_head = train_head(vectors, padded, val, CONFIG)
    np.testing.assert_array_equal(padded_head.weights["hidden.weight"], train(planted).weights["hidden.weight"])


@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_a_handful_of_pictures_is_trained_on_whole(n_rows: int) -> None:
    head = train(plant(n_rows), CONFIG.model_copy(update={"max_epochs": 2}))
    assert np.isfinite(head.weights["hidden.weight"]).all()
    assert set(head.metrics) >= {"f1_example", "accuracy/colour"}


def test_no_tasks_are_bad_config() -> None:
    with pytest.raises(BadConfig, match=r"head\.min_count"):
        train_head(plant(10).vectors, Targets({}, {}, None), nothing(10), CONFIG)


def test_a_task_of_one_class_is_bad_config() -> None:
    targets = Targets({"colour": ["red"]}, {"colour": np.zeros(10, np.int64)}, None)
    with pytest.raises(BadConfig, match="'colour' has 1 class"):
        train_head(plant(10).vectors, targets, nothing(10), CONFIG)


def test_validation_rows_that_leave_nothing_to_train_on_are_bad_config() -> None:
    planted = plant(10)
    with pytest.raises(BadConfig, match="leave some"):
        train_head(planted.vectors, planted.targets(), np.ones(10, bool), CONFIG)


def test_training_that_diverges_is_bad_config() -> None:
    planted = plant(60)
    with pytest.raises(BadConfig, match=r"lower head\.learning_rate"):
        train(planted, CONFIG.model_copy(update={"learning_rate": 1e30}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    planted = plant(20)
    planted.vectors[7, 3] = value
    with pytest.raises(ShardCorrupt, match=r"1 of 20 vectors .* row 7"):
        train(planted)


def test_rows_that_do_not_match_are_refused() -> None:
    planted = plant(20)
    targets = planted.targets()
    with pytest.raises(DimensionMismatch):
        train_head(planted.vectors[:19], targets, nothing(20), CONFIG)
    with pytest.raises(DimensionMismatch):
        train_head(planted.vectors, targets, nothing(19), CONFIG)
    with pytest.raises(DimensionMismatch):
        train_head(planted.vectors[:, 0], targets, nothing(20), CONFIG)
    with pytest.raises(DimensionMismatch):
        train_head(planted.vectors, targets._replace(multi=targets.multi[:5]), nothing(20), CONFIG)


def test_a_category_weighs_three_times_as_much_in_boosted_vectors_as_another_task() -> None:
    planted = plant(60)
    targets = planted.targets()
    tasks = {"category": targets.tasks["colour"], "colour": targets.tasks["colour"], "labels": targets.tasks["labels"]}
    single = dict.fromkeys(("category", "colour"), planted.colour)
    head = train_head(
        planted.vectors,
        Targets(tasks, single, targets.multi),
        nothing(60),
        CONFIG.model_copy(update={"max_epochs": 2, "classes_weight": 0.4}),
    )
    weights = {
        key.removeprefix("scale."): float(value[0]) ** 2 for key, value in head.weights.items() if "scale" in key
    }
    assert weights["category"] == pytest.approx(3 * weights["colour"])
    assert weights["labels"] == pytest.approx(weights["colour"])
    assert sum(weights.values()) == pytest.approx(0.4)
