"""Which pictures are alike or unlike, for metric learning, and batches in which every picture meets an alike one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64, Int64
from retrieval_core.errors import BadConfig
from retrieval_core.metrics.relevance import (
    ByLabel,
    Judgements,
    encode,
    iou_matrix,
    is_labelled,
    label_iou,
    row_blocks,
    same_code,
)
from retrieval_core.train.config import MetricTraining
from retrieval_core.train.objectives.base import TrainingData

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Kind = Literal["product", "category", "labels"]

PER_CLASS = 4  # largest group of one class; with 3 or more, splitting a class never leaves a group of one picture
MIN_BATCH = 3 * PER_CLASS  # a smaller batch may hold a single class, and so nothing unlike


class Pairs(NamedTuple):
    """Which rows of a batch to move together and which to move apart: two symmetric (b, b) bool matrices.

    Two views of the same picture are neither alike nor unlike: as a pair they would teach nothing.
    """

    alike: Bool
    unlike: Bool


class Relation(ABC):
    """Decides which of a catalogue's rows are alike, and forms batches accordingly."""

    @abstractmethod
    def partnered(self, rows: Int64) -> Int64:
        """Return those of `rows` with an alike row among them; none if no two of these are unlike."""

    @abstractmethod
    def pairs(self, rows: Int64) -> Pairs:
        """Return which of the (b,) rows are alike, and which are known to be unlike."""

    @abstractmethod
    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Return batches of at most `size` rows in which each of `rows` meets an alike one, drawn by `rng`.

        `rows` come from `partnered`; `size` is at least `MIN_BATCH`.
        """

    @abstractmethod
    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """Return the relevance, (n,) from 0 to 1, of the hits of each of the (n,) `rows`.

        `positions` is (n, k): positions in `rows`, -1 for no hit.
        """


def relate(data: TrainingData, config: MetricTraining) -> Relation:
    """Return the relation that `config.alike` names.

    `auto` takes the first of product, category and labels by which some trainable pictures are alike and some are
    unlike. Raises `BadConfig` if there is none.
    """
    judgements, rows = encode(data.items), np.flatnonzero(data.is_trainable)
    if config.alike == "chosen":
        return _by_choice(data, rows)
    kinds: tuple[Kind, ...] = ("product", "category", "labels") if config.alike == "auto" else (config.alike,)
    problems = []
    for kind in kinds:
        relation = _by_labels(judgements, rows, config) if kind == "labels" else _by_class(judgements, rows, kind)
        if not isinstance(relation, str):
            return relation
        problems.append(relation)
    raise BadConfig(
        f"{len(rows)} pictures may be trained on, but alike={config.alike} compares none of them: "
        f"{'; '.join(problems)}. Give the catalogue products, categories or labels, or set alike to one that it has"
    )


def _by_choice(data: TrainingData, rows: Int64) -> SameClass:
    """Return the relation by what shoppers chose for each other. Raises `BadConfig` where that compares nothing."""
    codes = np.full(len(data.items), -1, np.int64)
    if "chosen" in data.items.columns:
        codes = data.items["chosen"].rank("dense").fill_null(0).to_numpy().astype(np.int64) - 1
    relation = SameClass(codes)
    if not len(relation.partnered(rows)):
        raise BadConfig(
            f"of {len(rows)} pictures that may be trained on, shoppers chose too few for each other (alike=chosen): "
            "two groups are needed at least; `vitrine feedback` makes them of what `vitrine serve` recorded"
        )
    return relation


def _by_class(judgements: Judgements, rows: Int64, kind: Literal["product", "category"]) -> SameClass | str:
    """Return the relation by class, or why `rows` cannot be compared by it."""
    codes = judgements.product if kind == "product" else judgements.category
    if codes is None or not (codes[rows] >= 0).any():
        return f"no picture has a {kind}"
    class_sizes = np.unique(codes[rows][codes[rows] >= 0], return_counts=True)[1]
    n_pairable = np.count_nonzero(class_sizes > 1)
    if n_pairable > 1:
        return SameClass(codes)
    name = {"product": "products", "category": "categories"}[kind]
    return f"of {len(class_sizes)} {name} {n_pairable} have two pictures or more, two such are needed"


def _by_labels(judgements: Judgements, rows: Int64, config: MetricTraining) -> SharedLabels | str:
    """Return the relation by labels, or why `rows` cannot be compared by it."""
    if judgements.labels is None or not is_labelled(judgements.labels[rows]).any():
        return "no picture has labels"
    relation = SharedLabels(judgements.labels, config.alike_iou, config.unlike_iou)
    if not relation.has_unlike(rows):
        return f"no two pictures share less than {config.unlike_iou:g} of their labels (unlike_iou)"
    if not len(relation.partnered(rows)):
        return f"no two pictures share {config.alike_iou:g} of their labels or more (alike_iou)"
    return relation


class SameClass(Relation):
    """Rows of the same class are alike, of two classes unlike; `codes` are (n,) int64, -1 unknown and thus neither."""

    def __init__(self, codes: Int64) -> None:
        self.codes = codes

    def partnered(self, rows: Int64) -> Int64:
        counts = self._counts(rows)
        return rows[counts > 1] if len(np.unique(self.codes[rows][counts > 1])) > 1 else rows[:0]

    def pairs(self, rows: Int64) -> Pairs:
        codes = self.codes[rows]
        is_same = codes[:, None] == codes
        is_known = (codes >= 0)[:, None] & (codes >= 0)
        return Pairs(is_known & is_same & (rows[:, None] != rows), is_known & ~is_same)

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Return each row once, in a group with two or three others of its class if it has that many."""
        groups: list[Int64] = []
        positions: list[Float64] = []
        for members in self._classes(rng.permutation(rows)):
            parts = np.array_split(members, -(-len(members) // PER_CLASS))
            groups += parts
            # Spread evenly over the epoch, so that even a very common class rarely fills a batch.
            positions.append((np.arange(len(parts)) + rng.random()) / len(parts))
        order = np.argsort(np.concatenate(positions), kind="stable")
        n_batches = -(-len(groups) // (size // max(map(len, groups))))
        return [np.concatenate([groups[number] for number in part]) for part in np.array_split(order, n_batches)]

    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """Return the number of alike hits, divided by k or by the number of alike rows if that is smaller."""
        codes = self.codes[rows]
        n_best = np.minimum(self._counts(rows) - 1, positions.shape[1])
        relevance: Float64 = same_code(codes, codes, positions).sum(axis=1) / np.maximum(n_best, 1)
        return relevance

    def _counts(self, rows: Int64) -> Int64:
        """Return how many of `rows` are of the same class as each, itself included, (n,); 0 if its class is unknown."""
        codes = self.codes[rows]
        return np.append(np.bincount(codes[codes >= 0], minlength=self.codes.max() + 1), 0)[codes]

    def _classes(self, rows: Int64) -> list[Int64]:
        by_class = rows[np.argsort(self.codes[rows], kind="stable")]
        return np.split(by_class, np.flatnonzero(np.diff(self.codes[by_class])) + 1)


class SharedLabels(Relation):
    """Rows of (n, L) sparse `labels` are alike if their IoU is at least `alike_iou`, and unlike if below `unlike_iou`.

    Rows without labels are unlabelled, so neither alike nor unlike to any. Rows with the same set of labels are counted
    together: memory and time depend on the number of distinct label sets.
    """

    def __init__(self, labels: csr_array, alike_iou: float, unlike_iou: float) -> None:
        self._labels, self._alike_iou, self._unlike_iou = labels, alike_iou, unlike_iou
        has_labels = is_labelled(labels)
        sets, numbers = np.unique(labels[has_labels].toarray(), axis=0, return_inverse=True)
        self._sets: csr_array = type(labels)(sets)
        self._by_label = ByLabel.of(self._sets)
        self._set_of = np.full(labels.shape[0], -1, np.int64)
        self._set_of[has_labels] = numbers.reshape(-1)

    def has_unlike(self, rows: Int64) -> bool:
        """Return whether any two of `rows` are unlike."""
        numbers = np.unique(self._set_of[rows][self._set_of[rows] >= 0])
        sets = self._sets[numbers]
        by_label = ByLabel.of(sets)
        ious = (iou_matrix(sets[block], by_label) for block in row_blocks(len(numbers), len(numbers)))
        return any(bool((iou < self._unlike_iou).any()) for iou in ious)

    def partnered(self, rows: Int64) -> Int64:
        labelled = rows[self._set_of[rows] >= 0]
        if not self.has_unlike(labelled):
            return rows[:0]
        counts = self._counts(labelled)
        numbers = np.flatnonzero(counts)
        has_partner = np.zeros(len(counts), np.bool_)
        for block in row_blocks(len(numbers), len(counts)):
            has_partner[numbers[block]] = self._n_alike(numbers[block], counts).sum(axis=1) > 0
        return labelled[has_partner[self._set_of[labelled]]]

    def pairs(self, rows: Int64) -> Pairs:
        labels = self._labels[rows]
        has_labels = is_labelled(labels)
        is_known = has_labels[:, None] & has_labels
        iou = iou_matrix(labels, ByLabel.of(labels))
        is_other = rows[:, None] != rows
        return Pairs(is_known & is_other & (iou >= self._alike_iou), is_known & (iou < self._unlike_iou))

    def batches(self, rows: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
        """Return each row once as an anchor, and for each anchor a partner drawn from the alike ones of `rows`."""
        anchors = rng.permutation(rows)
        partners = self._draw_partners(anchors, rng)
        n_batches = -(-len(anchors) // (size // 2))
        halves = zip(np.array_split(anchors, n_batches), np.array_split(partners, n_batches), strict=True)
        return [np.concatenate(half) for half in halves]

    def relevance(self, rows: Int64, positions: Int64) -> Float64:
        """Return the mean label IoU with the hits."""
        labels = self._labels[rows]
        is_hit, iou = positions >= 0, np.zeros(positions.shape)
        row, slot = np.nonzero(is_hit)
        iou[row, slot] = label_iou(labels[row], labels[positions[row, slot]])
        return np.asarray(iou.sum(axis=1) / np.maximum(is_hit.sum(axis=1), 1))

    def _draw_partners(self, anchors: Int64, rng: np.random.Generator) -> Int64:
        """Return (n,) rows of `anchors`, each alike to the anchor at the same position but not the same row."""
        order = np.argsort(self._set_of[anchors], kind="stable")
        counts = self._counts(anchors)
        starts = np.cumsum(counts) - counts
        anchor_set = self._set_of[anchors]
        rank = np.empty(len(anchors), np.int64)  # of each anchor within its set
        rank[order] = np.arange(len(anchors)) - starts[anchor_set[order]]
        partners = np.empty_like(anchors)
        for block in row_blocks(len(anchors), len(counts)):
            n_alike = self._n_alike(anchor_set[block], counts)
            ends = np.cumsum(n_alike, axis=1)
            drawn = rng.integers(ends[:, -1])
            chosen = (ends <= drawn[:, None]).sum(axis=1)
            member = drawn - np.where(chosen > 0, ends[np.arange(len(chosen)), chosen - 1], 0)
            member += (chosen == anchor_set[block]) & (member >= rank[block])
            partners[block] = anchors[order[starts[chosen] + member]]
        return partners

    def _n_alike(self, numbers: Int64, counts: Int64) -> Int64:
        """Return (m, n_sets): how many of the `counts` rows of each set are alike to a row of set `numbers`."""
        n_alike = (iou_matrix(self._sets[numbers], self._by_label) >= self._alike_iou) * counts
        n_alike[np.arange(len(numbers)), numbers] -= 1  # the row itself
        return n_alike

    def _counts(self, rows: Int64) -> Int64:
        return np.bincount(self._set_of[rows], minlength=self._sets.shape[0])
