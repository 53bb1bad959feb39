"""Which pictures are alike: what a metric objective moves together and apart, and how its batches are put together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float32, Float64, Int64
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.relevance import Judgements, encode, iou_matrix, label_iou, row_blocks, same_code
from retrieval_core.train.config import MetricTraining
from retrieval_core.train.objectives.targets import free_items

Kind = Literal["product", "category", "labels"]

PER_CLASS = 4  # pictures of one class that go into a batch together; three or more leave no last one alone
MIN_BATCH = 3 * PER_CLASS  # smaller batches would hold a single class, and so nothing unlike


class Pairs(NamedTuple):
    """Rows of a batch against each other, (b, b) bool each, symmetric: to move together, to move apart, or neither.

    Neither is a picture that stands in the batch twice and its other view: that would be too easy, or no pair at all.
    """

    alike: Bool
    unlike: Bool


class Relation(ABC):
    """Which of the rows of some items are alike."""

    @abstractmethod
    def partnered(self, rows: Int64) -> Int64:
        """Those of `rows` that have one alike among them; none where nothing could be unlike."""

    @abstractmethod
    def pairs(self, rows: Int64) -> Pairs:
        """Which of (b,) rows are alike, and which are known to be unlike."""

    @abstractmethod
    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Batches of at most `size` rows in which each of `rows` meets one alike; `rng` alone decides which.

        `rows` are such as `partnered` gives, `size` is `MIN_BATCH` or more.
        """

    @abstractmethod
    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """(n,) relevance, 0 to 1, of what was found for each of `rows`: (n, k) positions among them, -1 for nothing."""


def relate(items: pl.DataFrame, config: MetricTraining) -> Relation:
    """What `config.alike` means for items with the columns product_id, category, labels, attributes and split.

    `auto` takes the first of product, category and labels by which some pictures that may be trained on are alike and
    some are not. Raises `BadConfig` where there is no such thing.
    """
    judged = encode(items)
    free = free_items(items.with_row_index("row"))["row"].cast(pl.Int64).to_numpy()
    kinds: tuple[Kind, ...] = ("product", "category", "labels") if config.alike == "auto" else (config.alike,)
    lacks = []
    for kind in kinds:
        found = _by_labels(judged, free, config) if kind == "labels" else _by_class(judged, free, kind)
        if not isinstance(found, str):
            return found
        lacks.append(found)
    raise BadConfig(
        f"{len(free)} pictures may be trained on, but alike={config.alike} compares none of them: {'; '.join(lacks)}. "
        "Give the catalogue products, categories or labels, or set alike to one of those it has"
    )


def _by_class(judged: Judgements, free: Int64, kind: Literal["product", "category"]) -> SameClass | str:
    """The relation, or what it lacks."""
    codes = judged.product if kind == "product" else judged.category
    if codes is None or not len(known := codes[free][codes[free] >= 0]):
        return f"no picture has a {kind}"
    n_pictures = np.unique(known, return_counts=True)[1]
    n_shown = np.count_nonzero(n_pictures > 1)
    if n_shown > 1:
        return SameClass(codes)
    name = {"product": "products", "category": "categories"}[kind]
    return f"of {len(n_pictures)} {name} {n_shown} have two pictures or more, two such are needed"


def _by_labels(judged: Judgements, free: Int64, config: MetricTraining) -> SharedLabels | str:
    """The relation, or what it lacks."""
    if judged.labels is None or not judged.labels[free].any():
        return "no picture has labels"
    relation = SharedLabels(judged.labels, config.alike_iou, config.unlike_iou)
    if not relation.tells_apart(free):
        return f"no two pictures share less than {config.unlike_iou:g} of their labels (unlike_iou)"
    if not len(relation.partnered(free)):
        return f"no two pictures share {config.alike_iou:g} of their labels or more (alike_iou)"
    return relation


class SameClass(Relation):
    """Rows of one class (n,) int64 are alike, of two classes unlike; -1 is unknown, and neither."""

    def __init__(self, codes: Int64) -> None:
        self._codes = codes

    def partnered(self, rows: Int64) -> Int64:
        counts = self._counts(rows)
        return rows[counts > 1] if len(np.unique(self._codes[rows][counts > 1])) > 1 else rows[:0]

    def pairs(self, rows: Int64) -> Pairs:
        codes = self._codes[rows]
        equal = codes[:, None] == codes
        known = (codes >= 0)[:, None] & (codes >= 0)
        return Pairs(known & equal & (rows[:, None] != rows), known & ~equal)

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Each row once, beside two or three others of its class where there are as many."""
        groups: list[Int64] = []
        places: list[Float64] = []
        for members in self._classes(rng.permutation(rows)):
            parts = np.array_split(members, -(-len(members) // PER_CLASS))
            groups += parts
            # Evenly over the epoch, so that a batch rarely holds one class alone, however common the class.
            places.append((np.arange(len(parts)) + rng.random()) / len(parts))
        order = np.argsort(np.concatenate(places), kind="stable")
        n_batches = -(-len(groups) // (size // max(map(len, groups))))
        return [np.concatenate([groups[number] for number in part]) for part in np.array_split(order, n_batches)]

    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """The share that is alike of what was found, or of all there are where they are fewer."""
        codes = self._codes[rows]
        n_best = np.minimum(self._counts(rows) - 1, positions.shape[1])
        found: Float64 = same_code(codes, codes, positions).sum(axis=1) / np.maximum(n_best, 1)
        return found

    def _counts(self, rows: Int64) -> Int64:
        """(n,) how many of `rows` each has its class in common with, itself included; 0 where that is unknown."""
        codes = self._codes[rows]
        return np.append(np.bincount(codes[codes >= 0], minlength=self._codes.max() + 1), 0)[codes]

    def _classes(self, rows: Int64) -> list[Int64]:
        ordered = rows[np.argsort(self._codes[rows], kind="stable")]
        return np.split(ordered, np.flatnonzero(np.diff(self._codes[ordered])) + 1)


class SharedLabels(Relation):
    """Rows of (n, L) bool labels are alike from an IoU of `alike_iou` on, unlike below `unlike_iou`, else neither.

    A row without labels is neither to any: nobody labelled it. Pictures of the same labels are counted together, so
    that memory and time go with the number of different label sets.
    """

    def __init__(self, labels: Bool, alike_iou: float, unlike_iou: float) -> None:
        self._labels, self._alike_iou, self._unlike_iou = labels, alike_iou, unlike_iou
        labelled = labels.any(axis=1)
        sets, numbers = np.unique(labels[labelled], axis=0, return_inverse=True)
        self._sets: Float32 = sets.astype(np.float32)
        self._set_of = np.full(len(labels), -1, np.int64)
        self._set_of[labelled] = numbers.reshape(-1)

    def tells_apart(self, rows: Int64) -> bool:
        """Whether any two of `rows` are unlike."""
        numbers = np.unique(self._set_of[rows][self._set_of[rows] >= 0])
        sets = self._sets[numbers]
        ious = (iou_matrix(sets[block], sets) for block in row_blocks(len(sets), len(sets)))
        return any(bool((iou < self._unlike_iou).any()) for iou in ious)

    def partnered(self, rows: Int64) -> Int64:
        labelled = rows[self._set_of[rows] >= 0]
        if not self.tells_apart(labelled):
            return rows[:0]
        counts = self._counts(labelled)
        numbers = np.flatnonzero(counts)
        lonely = np.zeros(len(counts), np.bool_)
        for block in row_blocks(len(numbers), len(counts)):
            lonely[numbers[block]] = self._n_alike(numbers[block], counts).sum(axis=1) == 0
        return labelled[~lonely[self._set_of[labelled]]]

    def pairs(self, rows: Int64) -> Pairs:
        labels = self._labels[rows].astype(np.float32)
        labelled = labels.sum(axis=1) > 0
        known = labelled[:, None] & labelled
        iou = iou_matrix(labels, labels)
        others = rows[:, None] != rows
        return Pairs(known & others & (iou >= self._alike_iou), known & (iou < self._unlike_iou))

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Each row once as an anchor, and for each a partner drawn among those of `rows` that are alike."""
        anchors = rng.permutation(rows)
        partners = self._draw_partners(anchors, rng)
        n_batches = -(-len(anchors) // (size // 2))
        halves = zip(np.array_split(anchors, n_batches), np.array_split(partners, n_batches), strict=True)
        return [np.concatenate(half) for half in halves]

    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """The mean label IoU with what was found."""
        labels, found = self._labels[rows], positions >= 0
        total = np.empty(len(rows), np.float64)
        for block in row_blocks(len(rows), positions.shape[1] * labels.shape[1]):
            total[block] = (label_iou(labels[block], labels[positions[block]]) * found[block]).sum(axis=1)
        return total / np.maximum(found.sum(axis=1), 1)

    def _draw_partners(self, anchors: Int64, rng: np.random.Generator) -> Int64:
        """(n,) rows of `anchors`, each alike to the anchor at its place and another than it."""
        order = np.argsort(self._set_of[anchors], kind="stable")
        counts = self._counts(anchors)
        starts = np.cumsum(counts) - counts
        own = self._set_of[anchors]
        rank = np.empty(len(anchors), np.int64)  # of each anchor within its own set
        rank[order] = np.arange(len(anchors)) - starts[own[order]]
        partners = np.empty_like(anchors)
        for block in row_blocks(len(anchors), len(counts)):
            n_alike = self._n_alike(own[block], counts)
            ends = np.cumsum(n_alike, axis=1)
            drawn = rng.integers(ends[:, -1])
            chosen = (ends <= drawn[:, None]).sum(axis=1)
            member = drawn - np.where(chosen > 0, ends[np.arange(len(chosen)), chosen - 1], 0)
            member += (chosen == own[block]) & (member >= rank[block])
            partners[block] = anchors[order[starts[chosen] + member]]
        return partners

    def _n_alike(self, numbers: Int64, counts: Int64) -> Int64:
        """(m, n_sets) how many of the counted rows of each set are alike to a row of set `numbers`, itself left out."""
        n_alike = (iou_matrix(self._sets[numbers], self._sets) >= self._alike_iou) * counts
        n_alike[np.arange(len(numbers)), numbers] -= 1
        return n_alike

    def _counts(self, rows: Int64) -> Int64:
        return np.bincount(self._set_of[rows], minlength=len(self._sets))
