"""An average of initial and trained weights: its share as configured, or chosen by the score."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from retrieval_core.train.config import RotationTraining
from retrieval_core.train.interpolation import average_with_start, network_weights
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.rotation import Rotation


@pytest.fixture
def trained(tiny_embedder):
    """An objective whose weights are all 2 where they began as 0, and its initial weights."""
    objective = Rotation(tiny_embedder(), TrainingData(None), RotationTraining())
    with torch.no_grad():
        for value in objective.state_dict().values():
            value.fill_(0)
        start = network_weights(objective)
        for value in objective.state_dict().values():
            value.fill_(2)
    return objective, start


def test_the_network_is_averaged_and_new_layers_stay_as_trained(trained):
    objective, start = trained
    assert average_with_start(objective, start, 0.25, score=lambda: 0.0) == 0.25
    assert (objective.embedder.network[0].weight == 0.5).all()
    assert (objective.embedder.network[1].running_var == 0.5).all()
    assert objective.embedder.network[1].num_batches_tracked == 2
    assert (objective.classifier.weight == 2).all()


def test_a_projection_that_starts_trained_is_averaged_too(tiny_embedder, monkeypatch):
    monkeypatch.setattr(Rotation, "starts_trained", True)
    objective = Rotation(tiny_embedder(dim=6), TrainingData(None), RotationTraining())
    start = network_weights(objective)
    with torch.no_grad():
        objective.embedder.projection.weight += 2
        objective.classifier.weight.fill_(2)
    average_with_start(objective, start, 0.5, score=lambda: 0.0)
    torch.testing.assert_close(objective.embedder.projection.weight, start["embedder.projection.weight"] + 1)
    assert (objective.classifier.weight == 2).all()


@pytest.mark.parametrize(("better", "best"), [("max", 0.5), ("min", 1.0)])
def test_a_share_of_zero_takes_the_best_by_score(better, best, trained):
    objective, start = trained
    type(objective).better, usual = better, type(objective).better
    scores = {0.25: 0.7, 0.5: 0.9, 0.75: 0.8, 1.0: 0.1}
    try:
        chosen = average_with_start(
            objective, start, 0, lambda: scores[float(objective.embedder.network[0].weight.mean()) / 2]
        )
    finally:
        type(objective).better = usual
    assert chosen == best
    assert (objective.embedder.network[0].weight == 2 * best).all()


def test_random_weights_are_not_averaged_with():
    with pytest.raises(ValidationError, match="random ones know nothing"):
        RotationTraining(trained_share=0.5)
