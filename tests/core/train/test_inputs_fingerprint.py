"""A trained backbone is named by its config and its parents, and by nothing else."""

from __future__ import annotations

from retrieval_core.train.config import DistillTraining, RotationTraining, Training
from retrieval_core.train.inputs import training_fingerprint, training_question


def trained(config: Training, margin: float = 0.1, **parents: str) -> str:
    question = training_question(config, margin)
    return training_fingerprint(question, {"catalog": "c", "start": "s", **parents})


def test_a_training_is_named_by_its_config_and_what_it_learns_from() -> None:
    base = RotationTraining()
    names = {
        trained(base),
        trained(RotationTraining(seed=1)),
        trained(RotationTraining(background="masked"), masks="m"),
        trained(RotationTraining(background="crop"), 0.1, masks="m"),
        trained(RotationTraining(background="crop"), 0.2, masks="m"),
        trained(base, start="t"),
        trained(base, catalog="d"),
        trained(DistillTraining(), teacher="m"),
        trained(DistillTraining(), teacher="n"),
    }
    assert len(names) == 9
    assert trained(base, 0.1) == trained(base, 0.2), "the margin is a crop's"
    # The same weights under another name, and a teacher by the start of its fingerprint, are the same training.
    assert trained(RotationTraining(weights="file:a.pt")) == trained(RotationTraining(weights="file:b.pt"))
    assert trained(DistillTraining(teacher="ab"), teacher="m") == trained(DistillTraining(teacher="abc"), teacher="m")
