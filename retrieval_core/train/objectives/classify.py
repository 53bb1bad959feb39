"""Which class a picture has: a softmax over the category, or over the values of an attribute.

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
from retrieval_core.train.objectives.base import LinearObjective
from retrieval_core.train.objectives.targets import free_items, free_targets

CATEGORY = "category"


class Classify(LinearObjective):
    """The class of a picture from its embedding; pictures without one, or of a class too rare, are left out."""

    codes: Tensor

    def __init__(self, embedder: ImageEmbedder, items: pl.DataFrame, config: ClassifyTraining) -> None:
        found = free_targets(items, config.min_count)
        if config.target not in found.single:
            raise BadConfig(_why_no_class(free_items(items), config))
        super().__init__(embedder, len(found.tasks[config.target]), config.seed)
        self._names, self._codes = found.tasks[config.target], found.single[config.target]
        self.register_buffer("codes", torch.from_numpy(self._codes), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[self._codes[rows] != UNKNOWN]

    def watchable(self, train: Int64, val: Int64) -> Int64:
        """Those of a class that is trained on. Raises `BadConfig` where that is one class alone."""
        trained = np.unique(self._codes[train])
        if len(trained) == 1:
            raise BadConfig(
                f"all {len(train)} training pictures are of class {self._names[trained[0]]!r}, the others were drawn "
                "for validation; give more pictures of the others, or another seed"
            )
        return val[np.isin(self._codes[val], trained)]

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        logits, codes = self.logits(pixels), self.codes[rows]
        return cross_entropy(logits, codes), {"train_accuracy": _accuracy(logits, codes)}

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        """`val_loss` and `accuracy`, the share of pictures whose likeliest class is their own."""
        codes = torch.from_numpy(self._codes[rows])
        return {"val_loss": float(cross_entropy(outputs, codes)), "accuracy": _accuracy(outputs, codes)}

    def classes(self) -> list[str]:
        return self._names


def _accuracy(logits: Tensor, codes: Tensor) -> float:
    return float((logits.argmax(dim=1) == codes).float().mean())


def _why_no_class(items: pl.DataFrame, config: ClassifyTraining) -> str:
    attributes = items.select("attributes").explode("attributes").unnest("attributes")
    category = items.select(pl.lit(CATEGORY).alias("name"), pl.col(CATEGORY).alias("value"))
    known = pl.concat([category, attributes.select("name", "value")]).drop_nulls()
    counts = known.filter(pl.col("name") == config.target)["value"].value_counts(name="n_rows")
    if counts.is_empty():
        names = ", ".join(known["name"].unique().sort()) or "no class at all"
        return f"no picture to train on names its {config.target}, they name {names}; set target to what they name"
    n_kept = len(counts.filter(pl.col("n_rows") >= config.min_count))
    return (
        f"the pictures to train on are of {len(counts)} classes of {config.target}, of which {n_kept} have "
        f"min_count={config.min_count} pictures or more; two are needed: lower min_count, or set another target"
    )
