"""A training starts from the configured network, under the configured projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.embed import networks
from retrieval_core.embed.backbones import backbone_fingerprint, load_backbone, save_backbone
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from retrieval_core.train.config import CaptionsTraining, ClassifyTraining, DistillTraining, TripletTraining
from retrieval_core.train.inputs import find_start, load_start, start_config
from tests.core.open_clip_folder import write_model

SIZE = {"size_px": 32}
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


def classify(**config: Any) -> ClassifyTraining:
    return ClassifyTraining(**{**SIZE, **config})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained backbone: ResNet-18 under a projection to 5, without a graph, which no training reads."""
    folder = tmp_path_factory.mktemp("kept")
    empty, config = open_store(str(folder / "store")), classify(weights="random:3", embedding_dim=5, seed=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "export_onnx", lambda module, size_px, path: path.write_bytes(b""))
        save_backbone(load_start(empty, find_start(empty, config), config), folder)
    return folder


@pytest.fixture
def store(local_store: Store, kept: Path) -> Store:
    """A store that holds it under the name `mine`."""
    files = sorted(kept.iterdir())
    parts = put_parts(local_store, f"backbones/{'f' * 32}", {file.name: file for file in files})
    made = Backbone(fingerprint="f" * 32, parts=parts, card="resnet18", dim=5, size_px=32, objective="classify")
    made.seal(local_store)
    backbone_names.point_backbone(local_store, "mine", "production", made.fingerprint)
    return local_store


def test_a_start_is_the_backbone_that_a_run_would_embed_with(local_store: Store) -> None:
    config = classify(weights="random:7")
    start = find_start(local_store, config)
    assert (start.fingerprint, start.artifact) == (backbone_fingerprint(start_config(config)), None)
    loaded = load_start(local_store, start, config)
    assert torch.equal(loaded.module(PIXELS), load_backbone(start_config(config)).module(PIXELS))


def test_a_new_projection_is_initialised_from_the_seed(local_store: Store) -> None:
    def load(seed: int) -> Any:
        config = TripletTraining(**SIZE, embedding_dim=9, seed=seed)
        return load_start(local_store, find_start(local_store, config), config).module

    before = torch.get_rng_state()
    first, again, other = load(0), load(0), load(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dim == 9
    assert first(PIXELS).shape == (3, 9)
    assert torch.equal(first.projection.weight, again.projection.weight)
    assert not torch.equal(first.projection.weight, other.projection.weight)


@pytest.mark.parametrize("layers", ["all", "projection"])
def test_captions_start_where_the_texts_lie(layers: Any, local_store: Store, tmp_path: Path) -> None:
    config = CaptionsTraining(backbone=f"local-dir:{write_model(tmp_path)}", trained_layers=layers)
    module = load_start(local_store, find_start(local_store, config), config).module
    assert (module.projection is not None) is (layers == "projection")
    torch.testing.assert_close(module(PIXELS), load_backbone(start_config(config)).module(PIXELS))


def test_an_artifact_keeps_its_projection_if_it_has_the_needed_width(store: Store) -> None:
    for dim in (0, 5):
        config = classify(weights="artifact:mine", embedding_dim=dim, size_px=0, seed=1)
        start = find_start(store, config)
        assert start.fingerprint == "f" * 32
        loaded = load_start(store, start, config)
        again = load_start(store, start, config.model_copy(update={"seed": 2}))
        assert loaded.preprocess.size_px == 32
        assert torch.equal(loaded.module(PIXELS), again.module(PIXELS))


def test_another_width_replaces_an_artifacts_projection_and_keeps_its_network(store: Store) -> None:
    config = classify(weights="artifact:mine@production", embedding_dim=6, size_px=0)
    loaded = load_start(store, find_start(store, config), config)
    assert loaded.module.dim == 6
    frozen = load_backbone(start_config(classify(weights="random:3"))).module
    assert torch.equal(loaded.module.network(PIXELS.permute(0, 3, 1, 2).float()), frozen.network(
        PIXELS.permute(0, 3, 1, 2).float()
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("config", "teacher_dim", "dim"),
    [
        ({}, 7, 7),
        ({"trained_layers": "all"}, 7, 7),
        ({}, 512, 512),
        ({"trained_layers": "all"}, 512, 0),
        ({"embedding_dim": 3}, 7, 3),
    ],
)
def test_a_student_is_projected_to_its_teachers_width(
    config: dict[str, Any], teacher_dim: int, dim: int, local_store: Store
) -> None:
    training = DistillTraining(**SIZE, **config)
    module = load_start(local_store, find_start(local_store, training), training, teacher_dim).module
    assert (module.projection.out_features if module.projection is not None else 0) == dim


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"weights": "artifact:nobody"}, BadConfig, "mine@production"),
        ({"weights": "artifact:mine", "backbone": "resnet34", "size_px": 0}, BadConfig, "is a resnet18"),
        ({"weights": "file:absent.pt"}, WeightsInvalid, "absent.pt"),
        ({"backbone": "resnet19"}, BadConfig, "resnet19"),
        ({"backbone": "vit_b16"}, BadConfig, "squares of 224"),
    ],
)
def test_a_start_that_cannot_be_loaded_is_one_clear_error(
    config: dict[str, Any], error: type[Exception], says: str, store: Store
) -> None:
    training = classify(**config)
    with pytest.raises(error, match=says):
        load_start(store, find_start(store, training), training)
