"""Naming what a picture shows: a backbone under the classifier it was published with, or trained with here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int32, UInt8
from retrieval_core.artifacts.parts import N_TOP_CLASSES
from retrieval_core.config import ClassifyConfig, EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone, read_backbone, save_backbone
from retrieval_core.embed.cards import CARDS, Card, get_card
from retrieval_core.embed.engine import Engine
from retrieval_core.embed.extract import Picture, SquareLoader, in_batches
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid, WeightsUnavailable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval_core.embed.networks import ImageEmbedder


CLASSIFIER_FILE = "classifier.safetensors"
CLASSES_FILE = "classes.json"


class LoadedClassifier(NamedTuple):
    """`backbone.module` maps (n, size, size, 3) uint8 to (n, len(names)) float32 logits of the classes called so."""

    backbone: LoadedBackbone
    names: list[str]


class Classified(NamedTuple):
    """The likeliest classes of pictures, the likeliest first: twice (n, N_TOP_CLASSES), rows those of `content_ids`.

    `classes` is int32, -1 where there are fewer; `probabilities` is float32, 0 to 1, and 0 there.
    """

    content_ids: list[str]
    classes: Int32
    probabilities: Float32


class ClassifierEngine:
    """The engine of a folder that `save_classifier` wrote, ready to name what pictures show."""

    def __init__(self, engine: Engine) -> None:
        self.preprocess, self.max_rows, self._engine = engine.preprocess, engine.max_rows, engine

    def classify(self, pixels: UInt8) -> tuple[Int32, Float32]:
        """Classes and probabilities as in `Classified` of (n, size, size, 3) uint8. Raises as `Engine.outputs` does."""
        return top_classes(self._engine.outputs(pixels))

    def for_worker(self) -> ClassifierEngine:
        """The engine that each of several threads may call at the same time."""
        return ClassifierEngine(self._engine.for_worker())


def top_classes(logits: Float32) -> tuple[Int32, Float32]:
    """Classes and probabilities, as in `Classified`, of (n, n_classes) float32 logits; ties go by the lower class."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :N_TOP_CLASSES]
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares /= shares.sum(axis=1, keepdims=True)
    missing = ((0, 0), (0, N_TOP_CLASSES - best.shape[1]))
    probabilities = np.pad(np.take_along_axis(shares, best, axis=1), missing)
    return np.pad(best, missing, constant_values=-1).astype(np.int32), probabilities.astype(np.float32)


def classify(
    pictures: Sequence[Picture],
    engine: ClassifierEngine,
    batch_size: int,
    threads: int,
    max_pixels: int,
    on_batch: Callable[[int], None] | None = None,
) -> Classified:
    """The likeliest classes of raw pictures in the order given, without those that cannot be read."""
    worker = engine.for_worker()
    load = SquareLoader(None, "raw", 0.0, engine.preprocess, max_pixels)

    def work(batch: Sequence[Picture]) -> Classified:
        loaded = load(batch)
        return Classified(loaded.content_ids, *worker.classify(loaded.pixels))

    empty = Classified([], np.empty((0, N_TOP_CLASSES), np.int32), np.empty((0, N_TOP_CLASSES), np.float32))
    parts = [empty, *in_batches(pictures, work, min(batch_size, worker.max_rows), threads, on_batch)]
    return Classified(
        [key for part in parts for key in part.content_ids],
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def backbone_config(config: ClassifyConfig) -> EmbedConfig:
    """The backbone under a classifier, as a config of its own."""
    return EmbedConfig(backbone=config.backbone, weights=config.weights, size_px=config.size_px)


def load_classifier(config: ClassifyConfig, trained: Path | None = None) -> LoadedClassifier:
    """The configured classifier with the weights that the config names, and no others.

    `trained` is the folder of the backbone that `artifact:NAME` names, which the caller has found. Raises `BadConfig`
    (a card without a classifier, weights it cannot have), `WeightsInvalid` (a file that is absent, of another model or
    without its classifier), `WeightsUnavailable` (no hub and nothing cached), `ShardCorrupt` (a damaged folder).
    """
    if trained:
        backbone = read_backbone(trained)
        return _under(_trained_layer(trained, backbone.module.dim), backbone, _read_names(trained))
    card = get_card(config.backbone)
    if not card.n_classes:
        known = ", ".join(name for name, other in CARDS.items() if other.n_classes)
        raise BadConfig(
            f"{card.name} was published without a classifier; classify.backbone is one of {known}, "
            "or a backbone trained to classify, with classify.weights=artifact:NAME"
        )
    try:
        backbone = load_backbone(backbone_config(config))
    except (BadConfig, WeightsUnavailable) as error:  # the way out it names is that of the embedder
        raise type(error)(str(error).replace("embed.", "classify.")) from error
    return _under(_published_layer(card, config.weights), backbone, _published_names(card))


def save_classifier(loaded: LoadedClassifier, folder: Path) -> None:
    """Write what `save_backbone` does, the classifier in the projection's place, and the names as `classes.json`."""
    save_backbone(loaded.backbone, folder)
    (folder / CLASSES_FILE).write_text(json.dumps(loaded.names, ensure_ascii=False), encoding="utf-8")


def _under(layer: nn.Linear, backbone: LoadedBackbone, names: list[str]) -> LoadedClassifier:
    from retrieval_core.embed.networks import ImageEmbedder

    whole = ImageEmbedder(backbone.card, backbone.module.network, _joined(backbone.module, layer))
    return LoadedClassifier(backbone._replace(module=whole), names)


def _joined(module: ImageEmbedder, layer: nn.Linear) -> nn.Linear:
    """One layer for the embedder's own projection and the classifier upon it."""
    below = module.projection
    if below is None:
        return layer
    weight, bias = layer.weight.double(), layer.bias.double()
    shift = weight @ below.bias.double() if below.bias is not None else 0.0
    return _linear((weight @ below.weight.double()).float(), (bias + shift).float())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    from torch import nn

    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _published_layer(card: Card, weights: str) -> nn.Linear:
    """The linear classifier of a published file, which lies among the keys that no embedding needs."""
    import torch
    from torch import nn

    from retrieval_core.embed.weights import pretrained_file, split_state
    from retrieval_core.state_dict import read_state

    kind, _, value = weights.partition(":")
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(value))
            return nn.Linear(card.dim, card.n_classes)
    path = pretrained_file(card) if kind == "pretrained" else Path(value)
    state = split_state(read_state(path)).network
    for prefix in card.unused_keys:
        weight, bias = state.get(f"{prefix}weight"), state.get(f"{prefix}bias")
        if weight is not None and bias is not None and weight.shape == (card.n_classes, card.dim):
            return _linear(weight, bias)
    layer = card.unused_keys[0].rstrip(".")
    raise WeightsInvalid(
        f"{path} holds a {card.name} without its classifier; expected {layer}.weight of ({card.n_classes}, {card.dim}) "
        f"and {layer}.bias: give the whole published file"
    )


def _published_names(card: Card) -> list[str]:
    """The lemmas of the ImageNet classes that so many classes are."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": card.n_classes})
    return list(ImageNetInfo(subset).label_descriptions()) if subset else [str(n) for n in range(card.n_classes)]


def _trained_layer(folder: Path, dim: int) -> nn.Linear:
    from retrieval_core.state_dict import read_state

    state = read_state(folder / CLASSIFIER_FILE)
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != dim:
        raise ShardCorrupt(f"{folder / CLASSIFIER_FILE} is no classifier of {dim}-dimensional vectors; train it again")
    return _linear(weight, bias)


def _read_names(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / CLASSES_FILE).read_bytes())]
    except (OSError, ValueError) as error:
        raise ShardCorrupt(f"{folder / CLASSES_FILE} names no classes: {error}; train the classifier again") from error
