"""Captions: each picture near the title of its item, as a frozen text tower reads it, far from other titles.

Importing this module imports torch and pytorch-metric-learning.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.train.config import CaptionsTraining, MetricTraining
from retrieval_core.train.objectives.base import Objective, TrainingData
from retrieval_core.train.objectives.metric import N_NEIGHBOURS, nearest
from retrieval_core.train.objectives.relations import Relation, SameClass, relate

MAX_SCALE = 100.0  # CLIP's own bound, without which its training is unstable


class Captions(Objective):
    """CLIP's symmetric loss (Radford et al., ICML 2021) of the pictures and the captions of a batch.

    The text tower is frozen, as the pictures of a store are searched by it: pictures are pulled towards their texts.
    Items with one caption are alike, and the target is spread over them (UniCL, Yang et al., CVPR 2022). The
    temperature starts as the network's own. SigLIP's networks learn by this loss too: its bias has no effect in a
    softmax.

    The watched score, text_recall@5, searches the validation pictures by each of their captions: the share of its own
    pictures among the first five, of as many as fit there. val_relevance@5 searches them by each other, for what the
    training costs there: alike by product, category or labels as `relate` finds them, else by caption. It is left out
    where no two validation pictures are alike.
    """

    watched: ClassVar[str] = "text_recall@5"
    better: ClassVar[Literal["min", "max"]] = "max"
    starts_trained: ClassVar[bool] = True
    texts: Tensor
    caption_of: Tensor

    def __init__(self, embedder: ImageEmbedder, data: TrainingData, config: CaptionsTraining) -> None:
        super().__init__(embedder)
        captions, names = data.captions, ", ".join(config.text_fields)
        if captions is None:
            raise BadConfig("captions needs a catalogue whose items have captions, and the vectors of these")
        self._codes, self._vectors = captions.codes, captions.vectors
        trainable = self._codes[data.is_trainable & (self._codes >= 0)]
        if len(np.unique(trainable)) < 2:
            raise BadConfig(
                f"of {int(data.is_trainable.sum())} pictures to train on {len(trainable)} have a caption (fields "
                f"{names}), and these have {len(np.unique(trainable))} different ones; at least two are needed: give "
                "the catalogue a column title, or set text_fields to the fields that say what an item is"
            )
        if captions.vectors.shape[1] != embedder.dim:
            raise BadConfig(
                f"pictures have {embedder.dim} dimensions, the texts {captions.vectors.shape[1]}; start from a "
                "backbone that embeds both alike"
            )
        self.slices, self._seed = config.slices, config.seed
        self._relation = _relation(data, captions.codes)
        self.log_scale = nn.Parameter(torch.tensor(math.log(captions.scale)))
        self._max_log_scale = math.log(max(captions.scale, MAX_SCALE))
        # Not persistent, so that checkpoints stay small.
        self.register_buffer("texts", torch.from_numpy(captions.vectors), persistent=False)
        self.register_buffer("caption_of", torch.from_numpy(captions.codes), persistent=False)

    def learnable(self, rows: Int64) -> Int64:
        return rows[self._codes[rows] >= 0]

    def loss(self, pixels: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        pictures, codes = self.embedder(pixels), self.caption_of[rows]
        texts, alike = self.texts[codes], codes[:, None] == codes
        with torch.no_grad():
            self.log_scale.clamp_(max=self._max_log_scale)
        # Half precision would round away the angles between near neighbours.
        with torch.autocast(pictures.device.type, enabled=False):
            scale = self.log_scale.exp()
            loss = self.on_slices(
                pictures.float(), lambda part: caption_loss(scale, part, texts[:, : part.shape[1]], alike)
            )
        return loss, {"scale": float(scale.detach())}

    def outputs(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.embedder(pixels)
        return vectors

    def score(self, outputs: Tensor, rows: Int64) -> dict[str, float]:
        scores = {self.watched: self._text_recall(outputs, rows)}
        partnered = self._relation.partnered(rows)
        if len(partnered):
            positions = nearest(outputs[torch.from_numpy(np.isin(rows, partnered))], self._seed)
            scores["val_relevance@5"] = float(self._relation.relevance(partnered, positions).mean())
        return scores

    def _text_recall(self, outputs: Tensor, rows: Int64) -> float:
        """Return the mean over the captions of `rows` of the share of their pictures that are among the first five."""
        caption_of = self._codes[rows]
        captions, n_own = np.unique(caption_of, return_counts=True)
        _, positions = exact_topk(self._vectors[captions], unit_length(outputs.numpy()), N_NEIGHBOURS)
        is_own = (positions >= 0) & (caption_of[positions] == captions[:, None])
        return float((is_own.sum(axis=1) / np.minimum(n_own, N_NEIGHBOURS)).mean())


def caption_loss(scale: Tensor, pictures: Tensor, texts: Tensor, alike: Tensor) -> Tensor:
    """Return the mean cross-entropy of pictures given texts and of texts given pictures, both (b, d) of any length.

    The logits are the cosines times `scale`; the target of a row is spread evenly over the `alike` ones, (b, b) bool
    and symmetric, with True on the diagonal.
    """
    logits = scale * normalize(pictures) @ normalize(texts).T
    target = alike / alike.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def _relation(data: TrainingData, codes: Int64) -> Relation:
    """Return which pictures are alike as the catalogue says it, or by their captions where it says nothing else."""
    try:
        return relate(data, MetricTraining())
    except BadConfig:
        return SameClass(codes)
