"""Predict the labels of a picture: one sigmoid per label, binary cross-entropy.

Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.head.scores import best_threshold, example_metrics
from retrieval_core.head.targets import LABELS
from retrieval_core.train.config import MultilabelTraining
from retrieval_core.train.objectives.base import LinearObjective, TrainingData


class Multilabel(LinearObjective):
    """Multi-label classification from the embedding; ignores pictures without any label.

    To train from scratch, start from weights `random:SEED`: timm initialises the convolutions of its ResNets,
    MobileNets and EfficientNets by Kaiming's rule, normally distributed with variance 2 / fan-out (He et al., ICCV
    2015).
    """

    targets: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: MultilabelTraining) -> None:
        targets = data.targets(config.min_count)
        if targets.multi is None:
            raise BadConfig(_why_no_label(data.trainable_items, config.min_count))
        super().__init__(embedder, targets.multi.shape[1], config.seed)
        self._labels, self._multi = targets.tasks[LABELS], targets.multi
        self.register_buffer("targets", torch.from_numpy(targets.multi), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[~np.isnan(self._multi[rows]).any(axis=1)]

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        return binary_cross_entropy_with_logits(self.logits(pixels), self.targets[rows]), {}

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return `val_loss`, and the example-wise scores at the threshold with the best F1."""
        truth, scores = self._multi[rows] == 1, outputs.sigmoid().numpy()
        loss = binary_cross_entropy_with_logits(outputs, torch.from_numpy(self._multi[rows]))
        return {"val_loss": float(loss)} | example_metrics(truth, scores, best_threshold(truth, scores))

    def classes(self) -> list[str]:
        return self._labels


def _why_no_label(items: pl.DataFrame, min_count: int) -> str:
    labels = items["labels"].list.unique()
    counts = labels.explode().drop_nulls().value_counts(sort=True, name="n_rows").sort("n_rows", "labels")
    if counts.is_empty():
        return f"none of the {len(items)} pictures to train on has a label; add labels, or train rotation without any"
    label, n_rows = counts.row(-1)
    if n_rows < min_count:
        return (
            f"each of {len(counts)} labels is on fewer than min_count={min_count} of the pictures to train on, the "
            f"most frequent, {label!r}, on {n_rows}; lower min_count, or label more pictures"
        )
    return (
        f"no label tells pictures apart: {label!r} is on each of the {n_rows} labelled pictures to train on, and no "
        f"other label is on min_count={min_count} of them; add labels, or lower min_count"
    )
