"""What a training starts from and learns from: the initial backbone, the teacher, and the fingerprint of all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import backbone_names, releases
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import MANIFEST, Backbone, Ref, Value, VectorSet, fingerprint
from retrieval_core.artifacts.parts import iter_vectors
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, backbone_fingerprint, load_backbone, read_backbone
from retrieval_core.errors import BadConfig
from retrieval_core.store.base import Store
from retrieval_core.train.config import CaptionsTraining, DistillTraining, Training

if TYPE_CHECKING:
    from retrieval_core.embed.networks import ImageEmbedder

TEACHER_ALIASES = (releases.PRODUCTION, releases.LATEST)
N_LISTED = 10


class TrainingInputs(Value):
    """What a training learns from: a catalogue, the fields of its items, masks, and a teacher's vectors.

    `masks` show the pictures as the config's background says, `crop_margin` wide around a crop; None for raw pictures.
    """

    catalog: Ref
    fields: Ref | None = None
    masks: Ref | None = None
    crop_margin: float
    teacher: Ref | None = None


class Start(NamedTuple):
    """The fingerprint of the backbone that a training starts from, and its artifact if the store holds one."""

    fingerprint: str
    artifact: Backbone | None


def start_config(config: Training) -> EmbedConfig:
    """Return the embed config of the backbone that a training starts from."""
    return EmbedConfig(backbone=config.backbone, weights=config.weights, size_px=config.size_px, framing=config.framing)


def find_start(store: Store, config: Training) -> Start:
    """Find the backbone that a training starts from, without loading it.

    Raises `BadConfig`, and `WeightsInvalid` for a missing file.
    """
    embed = start_config(config)
    artifact = backbone_names.named_backbone(store, embed)
    return Start(artifact.fingerprint if artifact else backbone_fingerprint(embed), artifact)


def load_start(store: Store, start: Start, config: Training, teacher_dim: int = 0) -> LoadedBackbone:
    """Load the backbone to train, with the projection that the config needs; `teacher_dim` is 0 without a teacher.

    An artifact's projection is kept if it has the needed width; a new one is initialised from `config.seed`, or as the
    identity for captions, whose texts lie in the space of the network's vectors. Raises as `load_backbone` and
    `read_backbone` do.
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
    if isinstance(config, CaptionsTraining):
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    return loaded._replace(module=ImageEmbedder(loaded.card, module.network, projection))


def _projection_dim(config: Training, start: ImageEmbedder, teacher_dim: int) -> int:
    """Return the width of the projection to train; 0 keeps the start's embedding as it is."""
    if isinstance(config, CaptionsTraining):
        return start.dim if config.trained_layers == "projection" else 0
    if config.embedding_dim or not isinstance(config, DistillTraining):
        return config.embedding_dim
    fits = start.dim == teacher_dim and config.trained_layers == "all"
    return 0 if fits else teacher_dim


def find_teacher(store: Store, name: str) -> VectorSet:
    """Return the vector set of a fingerprint or a unique prefix of one, or of the release `production` or `latest`.

    Raises `BadConfig` that lists the store's vector sets.
    """
    release = releases.read_release(store, name) if name in TEACHER_ALIASES else None
    if release:
        return VectorSet.open(store, release.vectors)
    keys = [key.removesuffix(f"/{MANIFEST}") for key in store.list(f"{VectorSet.folder}/") if key.endswith(MANIFEST)]
    matches = [key for key in keys if name and key.rsplit("/", 1)[-1].startswith(name)]
    if len(matches) == 1:
        return _open(store, matches[0])
    vector_sets = (_open(store, key) for key in keys[:N_LISTED])
    listed = ", ".join(f"{vectors.fingerprint[:12]} ({vectors.variant})" for vectors in vector_sets)
    problem = f"is ambiguous among {len(matches)} vector sets" if matches else "names no vector set"
    raise BadConfig(
        f"teacher {name!r} {problem} of {store.url}; give the fingerprint of one, or {releases.PRODUCTION}; "
        f"it has {listed or 'none'}"
    )


def _open(store: Store, key: str) -> VectorSet:
    return VectorSet.open(store, Ref(kind="VectorSet", key=key))


def teacher_vectors(store: Store, vectors: VectorSet, content_ids: Sequence[str]) -> Float32:
    """Return the teacher's unit-length vectors of distinct `content_ids`, (len(content_ids), dim) float32, in order.

    Rows of pictures that the vector set lacks are NaN.
    """
    row_of = {content_id: row for row, content_id in enumerate(content_ids)}
    aligned = np.full((len(content_ids), vectors.dim), np.nan, np.float32)
    for ids, part in iter_vectors(store, vectors):
        pairs = [(row_of[content_id], source) for source, content_id in enumerate(ids) if content_id in row_of]
        if pairs:
            rows, sources = zip(*pairs, strict=True)
            aligned[list(rows)] = part[list(sources)]
    return aligned


def training_question(config: Training, margin: float) -> dict[str, Any]:
    """Return the part of a trained backbone's config that its fingerprint covers; `margin` is that of the view `crop`.

    Start and teacher are left out: they count as parents, by their fingerprints.
    """
    question = config.model_dump(mode="json", exclude={"backbone", "weights", "teacher"})
    return question | ({"margin": margin} if config.background == "crop" else {})


def training_fingerprint(question: dict[str, Any], parents: dict[str, str]) -> str:
    """Return the fingerprint of the backbone trained from `parents`.

    These are fingerprints by role: catalog and start, and masks and teacher if there are any.
    """
    named = [f"{role} {parents[role]}" for role in sorted(parents)]
    return fingerprint("training", STAGE_VERSIONS["train"], question, named)
