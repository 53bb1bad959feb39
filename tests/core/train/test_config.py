"""Which training configs are valid, and how they are read from a file and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from retrieval_core.errors import BadConfig
from retrieval_core.train.config import (
    CONFIG_BY_OBJECTIVE,
    ClassifyTraining,
    ContrastiveTraining,
    MetricTraining,
    MultilabelTraining,
    SupconTraining,
    Training,
    TripletTraining,
    load_training,
)


@pytest.mark.parametrize(("name", "kind"), CONFIG_BY_OBJECTIVE.items())
def test_every_objective_has_defaults_and_names_itself(name: str, kind: type[Training]) -> None:
    config = kind()
    assert kind.__name__.lower() == f"{name}training" == f"{config.objective}training"
    assert kind.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("kind", CONFIG_BY_OBJECTIVE.values())
@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "guess"},
        {"backbon": "resnet18"},
        {"background": "both"},
        {"batch_size": 1},
        {"learning_rate": 0},
        {"max_epochs": 0},
        {"patience": 0},
        {"val_fraction": 0},
        {"val_fraction": 1},
        {"trained_layers": "last"},
        {"seed": -1},
    ],
    ids=str,
)
def test_a_value_out_of_bounds_and_an_unknown_key_are_refused(kind: type[Training], wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(wrong)


@pytest.mark.parametrize("kind", [TripletTraining, ContrastiveTraining, SupconTraining])
def test_the_threshold_of_unlike_pictures_is_not_above_that_of_alike_ones(kind: type[MetricTraining]) -> None:
    with pytest.raises(ValidationError, match=r"unlike_iou 0\.6 is above alike_iou 0\.5"):
        kind(unlike_iou=0.6)
    assert kind(alike_iou=0.3, unlike_iou=0.3).alike_iou == 0.3


def test_a_growing_margin_does_not_start_above_its_end() -> None:
    with pytest.raises(ValidationError, match=r"margin_start 2\.0 is above margin 1\.0"):
        TripletTraining(margin_start=2)


def test_classes_of_one_picture_cannot_be_kept() -> None:
    with pytest.raises(ValidationError):
        ClassifyTraining(min_count=1)


def test_an_override_wins_over_the_table_of_its_objective(tmp_path: Path) -> None:
    path = tmp_path / "vitrine.toml"
    path.write_text("[train.multilabel]\nmax_epochs = 3\nmin_count = 2\n[train.triplet]\nmargin = 0.5\n")
    config = load_training("multilabel", path, ["max_epochs=4", "backbone=resnet50", "augment=false"])
    assert isinstance(config, MultilabelTraining)
    assert (config.max_epochs, config.min_count, config.backbone, config.augment) == (4, 2, "resnet50", False)


@pytest.mark.parametrize(
    ("objective", "override", "says"),
    [
        ("guess", "", r"unknown objective 'guess'; expected one of multilabel, rotation"),
        ("rotation", "margin=1", r"unknown config key train\.rotation\.margin; "),
        ("rotation", "margin", "expects key=value, got 'margin'"),
        ("rotation", "max_epochs=0", "max_epochs"),
        ("triplet", "margin_start=2", r"margin_start 2\.0 is above margin 1\.0"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(objective: str, override: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        load_training(objective, None, [override])
