from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import load_backbone
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import CARDS

SMALL = 32


def config_of(weights: str, backbone: str = "resnet18", **fields: object) -> EmbedConfig:
    return EmbedConfig.model_validate({"backbone": backbone, "weights": weights, "size_px": SMALL} | fields)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_backbone(config_of("random:3")).module.network.state_dict()


def test_seed_alone_decides_random_weights(state):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = load_backbone(config_of("random:3")).module.network.state_dict()
    other = load_backbone(config_of("random:4")).module.network.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
    assert not torch.equal(other["conv1.weight"], state["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_embedder_learns_when_it_is_asked_to():
    module = ImageEmbedder(
        CARDS["resnet18"], load_backbone(config_of("random:0")).module.network, torch.nn.Linear(512, 4)
    )
    assert not any(parameter.requires_grad for parameter in module.parameters())
    module.requires_grad_(True).train()
    module(torch.zeros(2, SMALL, SMALL, 3, dtype=torch.uint8)).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_saved_graph_names_no_path_of_this_machine(backbone):
    graph = (backbone.folder / "model.onnx").read_bytes()
    assert b"site-packages" not in graph
    assert str(Path.cwd()).encode() not in graph
