"""Predict everything the catalogue says of a picture: category, attributes and labels, from one embedding.

Importing this module imports torch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrieval_core.arrays import Bool, Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.head.targets import CATEGORY, LABELS
from retrieval_core.train.config import AttributesTraining
from retrieval_core.train.objectives.base import LinearObjective, TrainingData, padded
from retrieval_core.train.objectives.metric import nearest
from retrieval_core.train.objectives.relations import Relation, SameClass, SharedLabels


class Attributes(LinearObjective):
    """One softmax for the category, one for each attribute and one for all labels; the weighted mean of their losses.

    A picture with several labels is to divide its probability equally among them, which taught more than one sigmoid
    per label in Mahajan et al., ECCV 2018. A picture does not count in the tasks where it has no target.

    The watched score, val_relevance@5, is the mean over the tasks of `relevance@5/TASK`: how many of the five
    validation pictures nearest to each one have its value, and for labels the mean label IoU with them.
    """

    watched: ClassVar[str] = "val_relevance@5"
    better: ClassVar[Literal["min", "max"]] = "max"
    targets: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: AttributesTraining) -> None:
        found = data.targets(config.min_count)
        if not found.tasks:
            raise BadConfig(
                f"no category, attribute or label of the {len(data.trainable_items)} pictures to train on has two "
                f"values on min_count={config.min_count} pictures each; lower min_count, or train rotation without any"
            )
        self._sizes = [len(names) for names in found.tasks.values()]
        weights = [config.category_weight if name == CATEGORY else 1.0 for name in found.tasks]
        self._weights = [weight / sum(weights) for weight in weights]
        super().__init__(embedder, sum(self._sizes), config.seed)
        self.slices, self._smoothing, self._seed = config.slices, config.label_smoothing, config.seed
        self._relations: dict[str, Relation] = {}
        columns: list[Bool] = []
        for name, names in found.tasks.items():
            if name == LABELS and found.multi is not None:
                columns.append(np.nan_to_num(found.multi) > 0)
                self._relations[name] = SharedLabels(csr_array(columns[-1]), 1.0, 0.0)
            else:
                columns.append(np.equal.outer(found.single[name], np.arange(len(names))))
                self._relations[name] = SameClass(found.single[name])
        self._has_target: list[Bool] = [np.asarray(column.any(axis=1)) for column in columns]
        self.register_buffer("targets", torch.from_numpy(np.hstack(columns)), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[np.logical_or.reduce(self._has_target)[rows]]

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        targets = self.targets[rows]
        return self.on_slices(self.embedder(pixels), lambda vectors: self._compare(vectors, targets)), {}

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.embedder(pixels)
        return vectors

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return `val_loss`, `val_relevance@5` and the `relevance@5` of each task that the rows have."""
        with torch.no_grad():
            device = self.targets.device
            loss = self._compare(outputs.to(device), self.targets[torch.from_numpy(rows).to(device)])
        positions = nearest(outputs, self._seed)
        relevance = {
            f"relevance@5/{name}": float(relation.relevance(rows, positions)[has_target[rows]].mean())
            for (name, relation), has_target in zip(self._relations.items(), self._has_target, strict=True)
            if has_target[rows].any()
        }
        return {"val_loss": float(loss), self.watched: float(np.mean([*relevance.values()])), **relevance}

    def _compare(self, vectors: Tensor, targets: Tensor) -> Tensor:
        losses = []
        logits = self.classifier(padded(vectors, self.embedder.dim)).split(self._sizes, dim=1)
        for task, target, weight in zip(logits, targets.split(self._sizes, dim=1), self._weights, strict=True):
            n_values = target.sum(dim=1, keepdim=True)
            share, has_target = target / n_values.clamp(min=1), n_values[:, 0] > 0
            each = cross_entropy(task, share, reduction="none", label_smoothing=self._smoothing)
            losses.append(weight * (each * has_target).sum() / has_target.sum().clamp(min=1))
        return torch.stack(losses).sum()
