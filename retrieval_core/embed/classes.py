"""Classify pictures: a backbone under the classifier that it was published with, or that was trained here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Float32, Int32, UInt8
from retrieval_core.artifacts.parts import N_TOP_CLASSES
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig
from retrieval_core.embed.backbones import LoadedBackbone, load_backbone, read_backbone, save_backbone
from retrieval_core.embed.cards import Card
from retrieval_core.embed.engine import Engine
from retrieval_core.embed.extract import Loaded, SquareLoader, cut_and_run, pace_of
from retrieval_core.embed.registry import CARDS, adapter_of, get_card
from retrieval_core.errors import BadConfig, ShardCorrupt, WeightsInvalid, WeightsUnavailable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval_core.embed.networks import ImageEmbedder


CLASSIFIER_FILE = "classifier.safetensors"
CLASSES_FILE = "classes.json"


class LoadedClassifier(NamedTuple):
    """A backbone whose `module` maps (n, size, size, 3) uint8 to (n, len(names)) float32 logits of the classes."""

    backbone: LoadedBackbone
    names: list[str]


class Classified(NamedTuple):
    """The likeliest classes of pictures, best first; both arrays are (n, N_TOP_CLASSES), in `content_ids` order.

    `classes` is int32 and `probabilities` float32 in 0 to 1; where there are fewer classes they hold -1 and 0.
    """

    content_ids: list[str]
    classes: Int32
    probabilities: Float32


class ClassifierEngine:
    """Classifies pictures with the engine of a folder that `save_classifier` wrote."""

    def __init__(self, engine: Engine) -> None:
        self.preprocess, self._engine = engine.preprocess, engine
        self.max_rows, self.is_device = engine.max_rows, engine.is_device

    def classify(self, pixels: UInt8) -> tuple[Int32, Float32]:
        """Return classes and probabilities as in `Classified` for (n, size, size, 3) uint8 pixels."""
        return top_classes(self._engine.outputs(pixels))

    def for_worker(self) -> ClassifierEngine:
        """Return an engine that several threads may call at the same time."""
        return ClassifierEngine(self._engine.for_worker())


def top_classes(logits: Float32) -> tuple[Int32, Float32]:
    """Return classes and probabilities as in `Classified` for (n, n_classes) float32 logits; ties go by number."""
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
    """Return the likeliest classes of raw pictures, in their order, without the pictures that cannot be read."""
    worker = engine.for_worker()
    load = SquareLoader(None, "raw", 0.0, engine.preprocess, max_pixels)

    def run(batches: Sequence[Loaded]) -> Classified:
        content_ids = [key for loaded in batches for key in loaded.content_ids]
        return Classified(content_ids, *worker.classify(np.concatenate([loaded.pixels for loaded in batches])))

    empty = Classified([], np.empty((0, N_TOP_CLASSES), np.int32), np.empty((0, N_TOP_CLASSES), np.float32))
    parts = [empty, *cut_and_run(pictures, load, run, pace_of([worker], batch_size, threads), on_batch)]
    return Classified(
        [key for part in parts for key in part.content_ids],
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def backbone_config(config: ClassifyConfig) -> EmbedConfig:
    """Return the config of the backbone under a classifier."""
    return EmbedConfig(backbone=config.backbone, weights=config.weights, size_px=config.size_px)


def load_classifier(config: ClassifyConfig, trained: Path | None = None) -> LoadedClassifier:
    """Return the configured classifier with exactly the weights that the config names.

    `trained` is the folder of the backbone that `artifact:NAME` names. Raises `BadConfig` (a card without a classifier,
    weights it cannot have), `WeightsInvalid` (a file that is absent, of another model or without its classifier),
    `WeightsUnavailable` (no hub and nothing cached), `ShardCorrupt` (a damaged folder).
    """
    if trained:
        backbone = read_backbone(trained)
        return _classifier(_trained_layer(trained, backbone.module.dim), backbone, _read_names(trained))
    card = get_card(config.backbone)
    if not card.n_classes:
        classifiers = ", ".join(name for name, other in CARDS.items() if other.n_classes)
        raise BadConfig(
            f"{card.name} was published without a classifier; classify.backbone is one of {classifiers}, "
            "or a backbone trained to classify, with classify.weights=artifact:NAME"
        )
    try:
        backbone = load_backbone(backbone_config(config))
    except (BadConfig, WeightsUnavailable) as error:  # its advice names the keys of the embedder's config
        raise type(error)(str(error).replace("embed.", "classify.")) from error
    return _classifier(_published_layer(card, config.weights), backbone, _published_names(card))


def save_classifier(loaded: LoadedClassifier, folder: Path) -> None:
    """Write what `save_backbone` writes, the classifier as its projection, and the class names as `classes.json`."""
    save_backbone(loaded.backbone, folder)
    (folder / CLASSES_FILE).write_text(json.dumps(loaded.names, ensure_ascii=False), encoding="utf-8")


def _classifier(layer: nn.Linear, backbone: LoadedBackbone, names: list[str]) -> LoadedClassifier:
    from retrieval_core.embed.networks import ImageEmbedder

    module = ImageEmbedder(backbone.card, backbone.module.network, _merge_projection(backbone.module, layer))
    return LoadedClassifier(backbone._replace(module=module), names)


def _merge_projection(module: ImageEmbedder, layer: nn.Linear) -> nn.Linear:
    """Return one layer that does what the embedder's projection and the classifier on top of it do."""
    projection = module.projection
    if projection is None:
        return layer
    weight, bias = layer.weight.double(), layer.bias.double()
    shift = weight @ projection.bias.double() if projection.bias is not None else 0.0
    return _linear((weight @ projection.weight.double()).float(), (bias + shift).float())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    from torch import nn

    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _published_layer(card: Card, weights: str) -> nn.Linear:
    """Return the linear classifier of a published file, which is among the keys that no embedding needs."""
    import torch
    from torch import nn

    from retrieval_core.embed.weights import read_weights

    kind, _, value = weights.partition(":")
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(value))
            return nn.Linear(card.dim, card.n_classes)
    path = adapter_of(card).weights_file(card) if kind == "pretrained" else Path(value)
    state = read_weights(path, card).network
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
    """Return the names of the ImageNet classes of that number; numbers where ImageNet has no such subset."""
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
