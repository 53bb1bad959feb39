"""Items whose neighbours contradict what the catalogue says of them, judged by odds rather than by a count.

There are two ways for a given category to be right although the neighbours disagree. Their odds are added.

First, items of the given category may generally have such neighbours. Seven of ten neighbours in another category mean
little where the two categories are mixed everywhere, and much where they never are. So the neighbours of item i are
compared with the neighbours that items of each category have on average (Q): the likelihood ratio of the suggested
category s against the given category g is the product of Q[s, c] / Q[g, c] over the categories c of the neighbours.
Neighbours of one item resemble each other, so they count as fewer than they are: their log-likelihood is divided by
Kish's design effect 1 + (m - 1) rho, with rho the intra-class correlation of agreement, estimated on the items that
most neighbours agree with (Kish, "Survey Sampling", Wiley 1965). The prior odds are those of a wrong label in common
data sets, 3.3% (Northcutt, Athalye and Mueller, "Pervasive label errors in test sets destabilize machine learning
benchmarks", NeurIPS 2021).

Second, this part of the embedding space may be mixed. If n of m neighbours have the given category, finding an item of
it there is no surprise. The odds against a wrong label are then n to the number of neighbours with the suggested
category, each smoothed by its share of half a neighbour (Jeffreys' prior), times the same prior odds.

As in confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021), an item is a suspect only if the suggested
category holds at least the share of its neighbours that it holds, on average, among the neighbours of its own members.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64, Int64, UInt8
from retrieval_core.metrics.relevance import row_blocks

PRIOR = 0.033
MIN_MEMBERS = 5  # fewer say nothing about the usual neighbours of a category or label
SMOOTHING = 0.5  # neighbours added to each cell of Q, so that a pair that was never seen is not impossible
MIN_PROBABILITY = 0.5  # from which a person should look
NO_CODE = -1
MAX_CODES = 2_000  # bounds the size of Q
MAX_LOG_ODDS = 700.0  # the exponential of more overflows a float64

Counts = UInt8


class Suspects(NamedTuple):
    """(s,) suspects: their `rows` in the input, the codes `suggested`, and the `probability` that these fit better.

    `n_agree` of the `n_neighbours` have the given code, `n_suggested` the suggested one. `typical` is the mean share of
    neighbours with the given code among the items that have it.
    """

    rows: Int64
    suggested: Int64
    probability: Float64
    n_agree: Int64
    n_suggested: Int64
    n_neighbours: Int64
    typical: Float64


def suspect_codes(given: Int64, neighbour_codes: Int64) -> Suspects:
    """Compare (n,) codes of items with the (n, k) codes of their neighbours; -1 is none or unknown, k at most 255.

    Codes with fewer than `MIN_MEMBERS` items, and all but the `MAX_CODES` most frequent, are neither doubted nor
    suggested. Returns the suspects of probability `MIN_PROBABILITY` or more.
    """
    usable = _usable(given)
    judged = np.flatnonzero(np.isin(given, usable) & (neighbour_codes >= 0).any(axis=1))
    if len(usable) < 2 or not len(judged):
        return _no_suspects()
    codes = np.searchsorted(usable, given[judged])
    counts = _count_codes(neighbour_codes[judged], usable)
    habits = _habits(codes, counts)
    effect = _design_effect(codes, counts)
    blocks = [
        _best_alternative(codes[rows], counts[rows].astype(np.float64), effect[rows], habits)
        for rows in row_blocks(len(judged), counts.shape[1])
    ]
    best, probability = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    suspect = np.flatnonzero(probability >= MIN_PROBABILITY)
    given_code, suggested = codes[suspect], best[suspect]
    return Suspects(
        rows=judged[suspect],
        suggested=usable[suggested],
        probability=probability[suspect],
        n_agree=counts[suspect, given_code].astype(np.int64),
        n_suggested=counts[suspect, suggested].astype(np.int64),
        n_neighbours=counts[suspect].sum(axis=1, dtype=np.int64),
        typical=habits.own_share[given_code],
    )


def suspect_labels(given: Bool, neighbours: Int64) -> list[Suspects]:
    """Return, for each label of (n, l) bool `given`, the items that seem to have it wrongly or to lack it.

    `neighbours` are (n, k) rows of `given`, -1 for none. The codes are 1 for an item with the label, 0 without.
    """
    suspects = []
    absent = neighbours < 0
    for column in range(given.shape[1]):
        label = given[:, column].astype(np.int64)
        suspects.append(suspect_codes(label, np.where(absent, NO_CODE, label[neighbours])))
    return suspects


class _Habits(NamedTuple):
    """(c, c + 1) smoothed log Q, with a last column for all unusable codes, and the (c,) diagonal of Q before that."""

    log_q: Float64
    own_share: Float64


def _usable(given: Int64) -> Int64:
    """Return the codes with enough members to be judged, ascending."""
    codes, n_members = np.unique(given[given >= 0], return_counts=True)
    common = np.argsort(-n_members, kind="stable")[:MAX_CODES]
    return np.sort(codes[common[n_members[common] >= MIN_MEMBERS]])


def _count_codes(codes: Int64, usable: Int64) -> Counts:
    """Return (n, c + 1) how often each usable code is among each row's codes; the last column counts all others."""
    counts = np.zeros((len(codes), len(usable) + 1), np.uint8)
    row, column = np.nonzero(codes >= 0)
    values = codes[row, column]
    position = np.minimum(np.searchsorted(usable, values), len(usable) - 1)
    np.add.at(counts, (row, np.where(usable[position] == values, position, len(usable))), 1)
    return counts


def _habits(codes: Int64, counts: Counts) -> _Habits:
    total = np.stack([counts[codes == code].sum(axis=0, dtype=np.float64) for code in range(counts.shape[1] - 1)])
    smooth = total + SMOOTHING
    own_share = np.diag(total) / np.maximum(total.sum(axis=1), 1)
    return _Habits(np.log(smooth / smooth.sum(axis=1, keepdims=True)), own_share)


def _design_effect(codes: Int64, counts: Counts) -> Float64:
    """Return (n,) Kish's design effect: how much more the neighbours' agreement varies than that of independent ones.

    Wrong labels would add to the variation, so only items that most neighbours agree with are used.
    """
    n_agree, size = counts[np.arange(len(codes)), codes], counts.sum(axis=1, dtype=np.int64)
    trusted = np.flatnonzero(n_agree >= counts.max(axis=1))
    share, code, m = n_agree[trusted] / size[trusted], codes[trusted], size[trusted]
    mean = (np.bincount(code, share) / np.maximum(np.bincount(code), 1))[code]
    spread = mean * (1 - mean)
    expected, independent = spread.sum(), (spread / m).sum()
    excess = ((share - mean) ** 2).sum() - independent
    rho = excess / (expected - independent) if expected > independent else 0.0
    return np.asarray(1 + (size - 1) * np.clip(rho, 0.0, 1.0))


def _best_alternative(codes: Int64, counts: Float64, effect: Float64, habits: _Habits) -> tuple[Int64, Float64]:
    """Return (n,) the alternative code that fits best and the probability that it does; 0 if no code is confident."""
    given = np.arange(len(codes)), codes
    likelihood = counts @ habits.log_q.T
    gain = (likelihood - likelihood[given][:, None]) / effect[:, None]
    share = counts[:, :-1] / counts.sum(axis=1, keepdims=True)
    gain[share < habits.own_share] = -np.inf
    gain[given] = -np.inf
    best = gain.argmax(axis=1)
    at_best = np.arange(len(codes)), best
    smoothing = SMOOTHING / counts.shape[1]
    odds_by_habit = np.exp(np.minimum(-gain[at_best], MAX_LOG_ODDS))
    odds_by_mixture = (counts[given] + smoothing) / (counts[at_best] + smoothing)
    return best, 1 / (1 + (odds_by_habit + odds_by_mixture) * (1 - PRIOR) / PRIOR)


def _no_suspects() -> Suspects:
    integers, floats = np.empty(0, np.int64), np.empty(0)
    return Suspects(integers, integers, floats, integers, integers, integers, floats)
