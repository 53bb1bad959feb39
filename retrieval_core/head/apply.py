"""Apply a trained head with numpy only, so that a search boosts its query without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.errors import DimensionMismatch, ShardCorrupt
from retrieval_core.head.targets import LABELS

Weights = Mapping[str, Float32]

HALF = np.float32(0.5)
WEIGHTS_FILE = "weights.safetensors"
SCALE = "scale."  # and a task's name: how long its part of a boosted vector is beside the embedding
HIDDEN_KEYS = ("mean", "std", "hidden.weight", "hidden.bias")


def boost(weights: Weights, vectors: Float32) -> Float32:
    """Return boosted vectors (n, dim) float32 of unit length from embeddings (n, d).

    They are the embedding, beside the square roots of the probabilities that the head predicts, scaled for each task.
    So the product of two is their cosine plus, for each task, its weight times the Bhattacharyya coefficient of the
    predicted classes: 1 where they are equal, 0 where they share none. A head without scales boosts by its hidden ReLU
    activations alone, where a vector that activates no unit stays zero.

    Raises `DimensionMismatch` when `d` is not the head's input width.
    """
    tasks = _scaled_tasks(weights)
    if not tasks:
        return unit_length(_hidden(weights, vectors))
    probabilities = predict(weights, vectors)
    roots = (weights[SCALE + task] * unit_length(np.sqrt(probabilities[task])) for task in tasks)
    return unit_length(np.concatenate([unit_length(vectors), *roots], axis=1, dtype=np.float32))


def boosted_dim(weights: Weights) -> int:
    """Return the width of the vectors that `boost` makes."""
    tasks = _scaled_tasks(weights)
    if not tasks:
        return len(weights["hidden.bias"])
    return len(weights["mean"]) + sum(len(weights[f"task.{task}.bias"]) for task in tasks)


def _scaled_tasks(weights: Weights) -> list[str]:
    return sorted(key.removeprefix(SCALE) for key in weights if key.startswith(SCALE))


def predict(weights: Weights, vectors: Float32) -> dict[str, Float32]:
    """Return the probabilities (n, classes) of each task from embeddings (n, d).

    They are a softmax, and for the task "labels" one sigmoid per label. Raises `DimensionMismatch` when `d` is not the
    head's input width.
    """
    activations = _hidden(weights, vectors)
    names = [key.removeprefix("task.").removesuffix(".weight") for key in weights if _is_task_weight(key)]
    return {name: _probabilities(weights, name, activations) for name in names}


def _is_task_weight(key: str) -> bool:
    return key.startswith("task.") and key.endswith(".weight")


def _hidden(weights: Weights, vectors: Float32) -> Float32:
    width = len(weights["mean"])
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise DimensionMismatch(f"the head was trained on vectors of width {width}, got shape {vectors.shape}")
    standardised = (vectors.astype(np.float32, copy=False) - weights["mean"]) / weights["std"]
    return np.maximum(standardised @ weights["hidden.weight"].T + weights["hidden.bias"], np.float32(0))


def _probabilities(weights: Weights, name: str, activations: Float32) -> Float32:
    logits = activations @ weights[f"task.{name}.weight"].T + weights[f"task.{name}.bias"]
    if name == LABELS:
        return np.tanh(logits * HALF) * HALF + HALF  # the sigmoid without overflow
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def save_head(weights: Weights, path: Path) -> None:
    """Write the weights as safetensors; equal weights give equal bytes."""
    save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, path)


def load_head(path: Path) -> dict[str, Float32]:
    """Return the weights that `save_head` wrote, bit for bit. Raises `ShardCorrupt` when the file holds no head."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ShardCorrupt(f"{path} is not a trained head: {error}; train it again") from error
    missing = [key for key in HIDDEN_KEYS if key not in weights]
    if missing:
        raise ShardCorrupt(f"{path} is not a trained head: it lacks {', '.join(missing)}; train it again")
    return weights
