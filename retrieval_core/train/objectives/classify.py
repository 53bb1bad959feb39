"""Predict the class of a picture: a softmax over the categories, or over the values of an attribute.

Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from retrieval_core.arrays import Int64
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.head.targets import UNKNOWN
from retrieval_core.train.config import ClassifyTraining
from retrieval_core.train.objectives.base import LinearObjective, TrainingData, accuracy

CATEGORY = "category"


class Classify(LinearObjective):
    """Classification from the embedding; ignores pictures without a class and classes that are too rare."""

    codes: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: ClassifyTraining) -> None:
        targets = data.targets(config.min_count)
        if config.target not in targets.single:
            raise BadConfig(_why_no_class(data.trainable_items, config))
        super().__init__(embedder, len(targets.tasks[config.target]), config.seed)
        self._names, self._codes = targets.tasks[config.target], targets.single[config.target]
        self.register_buffer("codes", torch.from_numpy(self._codes), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[self._codes[rows] != UNKNOWN]

    def watchable(self, train: Int64, val: Int64) -> Int64:
        """Return the `val` rows whose class is in `train`. Raises `BadConfig` when `train` has a single class."""
        trained = np.unique(self._codes[train])
        if len(trained) == 1:
            raise BadConfig(
                f"all {len(train)} training pictures are of class {self._names[trained[0]]!r}, the others were drawn "
                "for validation; give more pictures of the other classes, or another seed"
            )
        return val[np.isin(self._codes[val], trained)]

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        logits, codes = self.logits(pixels), self.codes[rows]
        return cross_entropy(logits, codes), {"train_accuracy": accuracy(logits, codes)}

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """Return `val_loss` and `accuracy`, the share of pictures whose likeliest class is the true one."""
        codes = torch.from_numpy(self._codes[rows])
        return {"val_loss": float(cross_entropy(outputs, codes)), "accuracy": accuracy(outputs, codes)}

    def classes(self) -> list[str]:
        return self._names


def _why_no_class(items: pl.DataFrame, config: ClassifyTraining) -> str:
    attributes = items.select("attributes").explode("attributes").unnest("attributes")
    category = items.select(pl.lit(CATEGORY).alias("name"), pl.col(CATEGORY).alias("value"))
    values = pl.concat([category, attributes.select("name", "value")]).drop_nulls()
    counts = values.filter(pl.col("name") == config.target)["value"].value_counts(name="n_rows")
    if counts.is_empty():
        names = ", ".join(values["name"].unique().sort()) or "nothing at all"
        return f"no picture to train on has a class of {config.target}; they have classes of {names}; set target to one"
    n_kept = len(counts.filter(pl.col("n_rows") >= config.min_count))
    return (
        f"the pictures to train on are of {len(counts)} classes of {config.target}, of which {n_kept} have "
        f"min_count={config.min_count} pictures or more; two are needed: lower min_count, or set another target"
    )
