"""The exact expectation of each metric where the gallery is ranked at random, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retrieval_core.arrays import Float64, Int64
from retrieval_core.metrics.relevance import row_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def hit_probability(n_items: Int64, n_relevant: Int64, k: int) -> Float64:
    """Return the probability, (q,), that k of `n_items` drawn at random hold at least one of `n_relevant`."""
    drawn = np.arange(k)
    n_others = np.maximum((n_items - n_relevant)[:, None] - drawn, 0)
    return 1 - (n_others / np.maximum(n_items[:, None] - drawn, 1)).prod(axis=1)


def expected_precision_sum(n_items: Int64, strict: Int64, tied: Int64, places: Int64, k: int) -> Float64:
    """Return the expected sum over the first k ranks of precision at each relevant hit, (q,).

    Of `n_items`, `strict` are relevant, and of `tied` others the first `places` that are found; all are (q,). The
    average precision is this sum over the number of relevant items or k. The ranks are drawn one by one, with the
    probability of each number of strict and of tied hits so far.
    """
    n_strict, n_tied = np.arange(k + 1)[None, :, None], np.arange(k + 1)[None, None, :]
    probability = np.zeros((len(n_items), k + 1, k + 1))
    probability[:, 0, 0] = 1
    total = np.zeros(len(n_items))
    items, a, t, p = (values[:, None, None] for values in (n_items, strict, tied, places))
    for rank in range(1, k + 1):
        n_left = items - rank + 1
        to_strict = probability * np.maximum(a - n_strict, 0) / np.maximum(n_left, 1)
        to_tied = probability * np.maximum(t - n_tied, 0) / np.maximum(n_left, 1)
        precision = (n_strict + np.minimum(n_tied, p) + 1) / rank
        total += (precision * (to_strict + to_tied * (n_tied < p))).sum(axis=(1, 2))
        probability = np.maximum(probability - to_strict - to_tied, 0) * (n_left > 0)
        probability[:, 1:] += to_strict[:, :-1]
        probability[:, :, 1:] += to_tied[:, :, :-1]
    return total


def expected_map_at_r(n_items: Int64, n_relevant: Int64) -> Float64:
    """Return the expected MAP@R of `n_relevant` of `n_items`, both (q,) and at least 1."""
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, n_relevant.max(initial=0) + 1)))[n_relevant]
    others = (n_relevant - 1) / np.maximum(n_items - 1, 1)
    return (harmonic * (1 - others) + n_relevant * others) / n_items


def iou_moments(query_labels: csr_array, gallery_labels: csr_array, own: Int64) -> tuple[Float64, Float64]:
    """Return the mean and the variance, (q,) each, of a query's label IoU with the gallery items but `own`, or -1.

    The labels are (q, m) and (n, m); every query has at least one item to be compared with. Only pairs that share a
    label are looked at, as all others have an IoU of 0.
    """
    n_queries, n_gallery = query_labels.shape[0], gallery_labels.shape[0]
    n_of_query, n_of_item = query_labels.sum(axis=1), gallery_labels.sum(axis=1)
    queries, gallery = query_labels.astype(np.float32), gallery_labels.astype(np.float32).T.tocsr()
    total, squares = np.zeros(n_queries), np.zeros(n_queries)
    for rows in row_blocks(n_queries, n_gallery):
        shared = queries[rows] @ gallery
        row, item = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr)), shared.indices
        iou = shared.data / (n_of_query[rows][row] + n_of_item[item] - shared.data)
        iou[item == own[rows][row]] = 0
        total[rows] = np.bincount(row, iou, shared.shape[0])
        squares[rows] = np.bincount(row, iou * iou, shared.shape[0])
    n_items = n_gallery - (own >= 0)
    mean = total / n_items
    return mean, np.maximum(squares / n_items - mean**2, 0)
