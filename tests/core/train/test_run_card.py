"""The run card records the code, the libraries and the device of a training; what it made may read texts or not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest

from retrieval_core.embed.backbones import LoadedBackbone
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.images import Preprocess
from retrieval_core.train import run_card
from retrieval_core.train.config import CaptionsTraining, RotationTraining, Training
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.rotation import Rotation


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like the project, in which the module appears to be."""
    code = tmp_path / "retrieval_core" / "train" / "run_card.py"
    code.parent.mkdir(parents=True)
    code.write_text("one")
    monkeypatch.setattr(run_card, "__file__", str(code))
    return tmp_path


def test_in_a_checkout_the_revision_is_the_commit_and_whether_files_were_changed(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    git(checkout, "tag", "-a", "v1", "-m", "one")
    commit = git(checkout, "rev-parse", "HEAD")
    assert run_card.code_revision() == commit
    Path(run_card.__file__).write_text("two")
    assert run_card.code_revision() == f"{commit}-dirty"


def test_outside_git_and_before_the_first_commit_it_is_the_packages_version(checkout: Path) -> None:
    assert run_card.code_revision() == f"vitrine {version('vitrine')}"
    git(checkout, "init", "-q")
    assert run_card.code_revision() == f"vitrine {version('vitrine')}"


def test_every_library_that_shapes_weights_is_installed_and_named() -> None:
    assert {"torch", "lightning", "timm"} <= set(run_card.library_versions())


def test_the_cpu_is_named_with_its_threads() -> None:
    assert run_card.device_name("cpu", 3) == "cpu, 3 threads"


@pytest.mark.parametrize(
    ("config", "dim", "reads_text"),
    [
        (CaptionsTraining(), 0, True),
        (CaptionsTraining(trained_layers="projection"), 16, True),
        (RotationTraining(), 0, False),
        (RotationTraining(trained_layers="projection"), 0, True),
        (RotationTraining(trained_layers="projection"), 16, False),
    ],
    ids=["captions", "captions by a projection", "pictures", "a frozen network", "a projection by pictures"],
)
def test_texts_are_searched_in_vectors_that_stayed_or_that_learned_from_texts(
    config: Training, dim: int, reads_text: bool, tiny_embedder: Callable[..., ImageEmbedder]
) -> None:
    objective = Rotation(tiny_embedder(dim=dim), TrainingData(pl.DataFrame()), RotationTraining())
    start = LoadedBackbone(get_card("clip_vit_b32"), Preprocess(size_px=32), objective.embedder, has_text=True)
    assert run_card.trained_backbone(start, objective, config).has_text is reads_text
    assert not run_card.trained_backbone(start._replace(has_text=False), objective, config).has_text
