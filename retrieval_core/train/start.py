"""What a training starts from: a network with its weights, and the linear layer on top that becomes the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from retrieval_core.artifacts import backbone_names
from retrieval_core.artifacts.manifests import Backbone
from retrieval_core.config import EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, backbone_fingerprint, load_backbone, read_backbone
from retrieval_core.store.base import Store
from retrieval_core.train.config import DistillTraining, Training

if TYPE_CHECKING:
    from retrieval_core.embed.networks import ImageEmbedder


class Start(NamedTuple):
    """The fingerprint of the backbone that a training starts from, and the artifact, if it is one of the store."""

    fingerprint: str
    artifact: Backbone | None


def start_config(config: Training) -> EmbedConfig:
    """The backbone that a training starts from, as a night would be told of it."""
    return EmbedConfig(backbone=config.backbone, weights=config.weights, size_px=config.size_px, framing=config.framing)


def find_start(store: Store, config: Training) -> Start:
    """Which backbone that is; nothing is loaded. Raises `BadConfig`, and `WeightsInvalid` for an absent file."""
    frozen = start_config(config)
    artifact = backbone_names.named_backbone(store, frozen)
    return Start(artifact.fingerprint if artifact else backbone_fingerprint(frozen), artifact)


def load_start(store: Store, start: Start, config: Training, teacher_dim: int = 0) -> LoadedBackbone:
    """The start with its weights, and the projection that the config asks for; `teacher_dim` is 0 without a teacher.

    An artifact's own projection is kept where its width is the one asked for; a new one is drawn under `config.seed`.
    Raises as `load_backbone` and `read_backbone` do.
    """
    if start.artifact:
        paths = [store.local_path(part.key, part.sha256) for part in start.artifact.parts]
        loaded = read_backbone(paths[0].parent)
    else:
        loaded = load_backbone(start_config(config))
    module = loaded.module
    dim = _projection_dim(config, module, teacher_dim)
    if dim in (0, module.projection.out_features if module.projection is not None else 0):
        return loaded
    import torch

    from retrieval_core.embed.networks import ImageEmbedder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        projection = torch.nn.Linear(loaded.card.dim, dim)
    return loaded._replace(module=ImageEmbedder(loaded.card, module.network, projection))


def _projection_dim(config: Training, start: ImageEmbedder, teacher_dim: int) -> int:
    """Width of the projection to train; 0 leaves the embedding as wide as it is."""
    if config.embedding_dim or not isinstance(config, DistillTraining):
        return config.embedding_dim
    fits = start.dim == teacher_dim and config.trained_layers == "all"
    return 0 if fits else teacher_dim
