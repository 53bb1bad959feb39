"""Weights files that would run a program when they are unpickled: refused in clear words, and nothing runs."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from retrieval_core.config.stages import ClassifyConfig, CropConfig, EmbedConfig, MaskConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.classes import load_classifier
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import ShardCorrupt, WeightsInvalid
from retrieval_core.head.apply import load_head
from retrieval_core.images import Preprocess
from retrieval_core.mask.detect import DetectorEngine, load_detector
from retrieval_core.mask.unet import build_unet
from retrieval_core.reduce.pca import load_pca
from retrieval_core.state_dict import read_state
from retrieval_core.train.config import RotationTraining
from retrieval_core.train.fit import LAST, fit
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.rotation import Rotation
from retrieval_core.train.split import Split

ROOT = Path(__file__).parents[2]
FLOORS = ("retrieval_core", "tasks", "flows", "deployments", "benchmarks")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


class Attack:
    """Runs a program where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self._witness}'",)


def as_torch_file(attack: Attack, path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2), "bias": attack}}, path)


def as_old_torch_file(attack: Attack, path: Path) -> None:
    torch.save({"conv1.weight": attack}, path, _use_new_zipfile_serialization=False)


def as_plain_pickle(attack: Attack, path: Path) -> None:
    path.write_bytes(pickle.dumps(attack))


def as_class_of_a_network(attack: Attack, path: Path) -> None:
    network = nn.Linear(2, 2)
    network.extra = attack
    torch.save(network, path)


def as_zip_of_a_pickle(attack: Attack, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(attack))
        archive.writestr("archive/version", "3")


WAYS = (as_torch_file, as_old_torch_file, as_plain_pickle, as_class_of_a_network, as_zip_of_a_pickle)
READERS: dict[str, Callable[[Path], Any]] = {
    "backbone": lambda path: load_backbone(EmbedConfig(backbone="resnet18", weights=f"file:{path}", size_px=64)),
    "segmenter": lambda path: build_unet(MaskConfig(weights=f"file:{path}")),
    "detector": lambda path: load_detector(CropConfig(detector="ssdlite320", weights=f"file:{path}")),
    "stored detector": lambda path: DetectorEngine("ssdlite320", path, "cpu", 1),
    "classifier": lambda path: load_classifier(ClassifyConfig(weights=f"file:{path}")),
    "any": read_state,
}

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def attack(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], None]:
    """`attack(path)` writes a file that makes a witness where it is unpickled; none may exist when the test is over."""
    witness = tmp_path / "it ran"
    yield lambda path: request.param(Attack(witness), path)
    assert not witness.exists()


def test_the_attack_is_one(tmp_path: Path) -> None:
    for way in WAYS:
        witness = tmp_path / way.__name__
        way(Attack(witness), tmp_path / "weights")
        try:
            torch.load(tmp_path / "weights", weights_only=False)
        except Exception:
            pickle.loads((tmp_path / "weights").read_bytes())
        assert witness.exists(), way


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_would_run_a_program_is_refused(
    reader: str, attack: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # somebody's setting for another program
    path = tmp_path / "weights.safetensors"  # whatever its name promises
    attack(path)

    with pytest.raises(WeightsInvalid, match=r"holds no plain tensors \(.*\); expected a safetensors file") as caught:
        READERS[reader](path)
    assert path.name in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to let the program run


def test_the_refusal_names_what_would_have_run(tmp_path: Path) -> None:
    as_torch_file(Attack(tmp_path / "it ran"), tmp_path / "weights.pt")
    with pytest.raises(WeightsInvalid, match=r"opening it would call posix\.system, which no weights need"):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("load", [load_head, load_pca], ids=["head", "reducer"])
def test_a_stored_model_that_became_a_pickle_is_refused(
    load: Callable[[Path], Any], attack: Callable[[Path], None], tmp_path: Path
) -> None:
    attack(tmp_path / "model.safetensors")
    with pytest.raises(ShardCorrupt):
        load(tmp_path / "model.safetensors")


def test_a_checkpoint_that_would_run_a_program_is_not_gone_on_from(
    attack: Callable[[Path], None], tmp_path: Path
) -> None:
    attack(tmp_path / LAST)

    with pytest.raises(WeightsInvalid, match=r"last\.ckpt is damaged or no checkpoint .*; delete it to train"):
        _train(tmp_path)


def test_a_checkpoint_that_was_cut_short_or_altered_is_not_gone_on_from(tmp_path: Path) -> None:
    _train(tmp_path)
    whole = (tmp_path / LAST).read_bytes()
    weights = torch.load(tmp_path / LAST, weights_only=True)["best"]["embedder.network.0.weight"]
    place = whole.index(bytes(weights.untyped_storage().tolist())) + 3
    altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for damaged in (b"", whole[:100], whole[:-100], whole[: len(whole) // 2], altered):
        (tmp_path / LAST).write_bytes(damaged)
        with pytest.raises(WeightsInvalid, match=r"last\.ckpt is damaged or no checkpoint .*; delete it to train"):
            _train(tmp_path)


def _train(folder: Path) -> None:
    """A training of one epoch that goes on from the checkpoint in `folder`."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embedder = ImageEmbedder(get_card("resnet18").model_copy(update={"dim": 8}), network, None)
    config = RotationTraining(max_epochs=1, batch_size=4)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    rows = Split(np.arange(6), np.arange(6, 8))
    how = Preprocess(size_px=28, crop_fraction=0.875)
    fit(
        Rotation(embedder, TrainingData(pl.DataFrame()), config), pixels, rows, how, config, device="cpu", folder=folder
    )


def test_nothing_in_the_house_unpickles_what_it_reads() -> None:
    for path in (path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & UNPICKLERS, path
            if isinstance(node, ast.Call):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("allow_pickle") != "True", path
                called = ast.unparse(node.func)
                if called == "torch.load" or given.get("ckpt_path"):
                    assert given.get("weights_only") == "True", path
                assert not called.endswith("load_from_checkpoint"), path
