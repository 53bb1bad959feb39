"""Items whose neighbours disagree with what the catalogue says of them, by odds rather than by a count.

A label may be right after all in two ways, and the odds of both add up.

Its category may look so. Seven of ten neighbours in another category mean little where the two are mixed everywhere,
and much where they never are. So the neighbours of item i are weighed against those that items of each category have on
average (Q): the likelihood ratio of suggested category s against given category g is the product of Q[s, c] / Q[g, c]
over the categories c of the neighbours. Neighbours of one item resemble each other, so they count as fewer than they
are: their log-likelihood is divided by Kish's design effect 1 + (m - 1) rho, with rho the intra-class correlation of
agreement among the items that most neighbours agree with (Kish, "Survey Sampling", Wiley 1965). Prior odds are those of
a wrong label in common data sets, 3.3% (Northcutt, Athalye and Mueller, "Pervasive label errors in test sets
destabilize machine learning benchmarks", NeurIPS 2021).

Or the place may be mixed. Where n of m neighbours have the given category, an item of it is no wonder: against a wrong
label its odds are n to the number with the suggested one, each with its part of Jeffreys' half neighbour, by the same
prior odds.

As in confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021), an item is suspect only where the suggested
category holds at least the share of its neighbours that it holds of its own members' on average.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Bool, Float64, Int64, UInt8
from retrieval_core.metrics.relevance import row_blocks

PRIOR = 0.033
MIN_MEMBERS = 5  # a rarer category or label cannot be told from its neighbours
SMOOTHING = 0.5  # neighbours added to each cell of Q, so that what was never seen is not impossible
LEAST = 0.5  # probability from which a person should look
NO_CODE = -1
MAX_CODES = 2_000  # bounds the table of all pairs
MAX_LOG_ODDS = 700.0  # of which the exponential is still finite

Counts = UInt8


class Suspects(NamedTuple):
    """(s,) suspects: `rows` of what was asked, the codes `suggested` for them, and the `probability` that these fit.

    `n_agree` of `n_neighbours` have the given code, `n_suggested` the suggested one; `typical` is the mean share of
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
    """Weigh (n,) codes of items against the (n, k) codes of their neighbours, -1 for none or unknown; k at most 255.

    Codes of fewer than `MIN_MEMBERS` items, and all but the commonest `MAX_CODES`, are neither doubted nor suggested.
    Suspects have probability `LEAST` or more.
    """
    usable = _usable(given)
    judged = np.flatnonzero(np.isin(given, usable) & (neighbour_codes >= 0).any(axis=1))
    if len(usable) < 2 or not len(judged):
        return _nobody()
    codes = np.searchsorted(usable, given[judged])
    counts = _count_codes(neighbour_codes[judged], usable)
    habits = _habits(codes, counts)
    effect = _design_effect(codes, counts)
    found = [
        _weigh(codes[rows], counts[rows].astype(np.float64), effect[rows], habits)
        for rows in row_blocks(len(judged), counts.shape[1])
    ]
    best, probability = (np.concatenate(parts) for parts in zip(*found, strict=True))
    suspect = np.flatnonzero(probability >= LEAST)
    own, suggested = codes[suspect], best[suspect]
    return Suspects(
        rows=judged[suspect],
        suggested=usable[suggested],
        probability=probability[suspect],
        n_agree=counts[suspect, own].astype(np.int64),
        n_suggested=counts[suspect, suggested].astype(np.int64),
        n_neighbours=counts[suspect].sum(axis=1, dtype=np.int64),
        typical=habits.own_share[own],
    )


def suspect_labels(given: Bool, neighbours: Int64) -> list[Suspects]:
    """For each label of (n, l) bool, whether the neighbours, (n, k) rows of it or -1, say that it is wrong or missing.

    The codes are 0 for an item without the label and 1 for one with it.
    """
    found = []
    absent = neighbours < 0
    for column in range(given.shape[1]):
        label = given[:, column].astype(np.int64)
        found.append(suspect_codes(label, np.where(absent, NO_CODE, label[neighbours])))
    return found


class _Habits(NamedTuple):
    """(c, c + 1) log Q, smoothed, the last column for all codes that are not looked at; (c,) its plain diagonal."""

    log_q: Float64
    own_share: Float64


def _usable(given: Int64) -> Int64:
    """Ascending: the codes that can be told."""
    codes, n_members = np.unique(given[given >= 0], return_counts=True)
    common = np.argsort(-n_members, kind="stable")[:MAX_CODES]
    return np.sort(codes[common[n_members[common] >= MIN_MEMBERS]])


def _count_codes(codes: Int64, usable: Int64) -> Counts:
    """(n, c + 1) how many of each row's codes are each usable one, and last how many are another."""
    counts = np.zeros((len(codes), len(usable) + 1), np.uint8)
    row, column = np.nonzero(codes >= 0)
    known = codes[row, column]
    place = np.minimum(np.searchsorted(usable, known), len(usable) - 1)
    np.add.at(counts, (row, np.where(usable[place] == known, place, len(usable))), 1)
    return counts


def _habits(codes: Int64, counts: Counts) -> _Habits:
    total = np.stack([counts[codes == code].sum(axis=0, dtype=np.float64) for code in range(counts.shape[1] - 1)])
    smooth = total + SMOOTHING
    own_share = np.diag(total) / np.maximum(total.sum(axis=1), 1)
    return _Habits(np.log(smooth / smooth.sum(axis=1, keepdims=True)), own_share)


def _design_effect(codes: Int64, counts: Counts) -> Float64:
    """(n,) how many neighbours are worth one independent one: how much more their agreement varies than by chance.

    Wrong labels would vary it too, so only items that most neighbours agree with are looked at.
    """
    n_agree, size = counts[np.arange(len(codes)), codes], counts.sum(axis=1, dtype=np.int64)
    trusted = np.flatnonzero(n_agree >= counts.max(axis=1))
    share, own, m = n_agree[trusted] / size[trusted], codes[trusted], size[trusted]
    mean = (np.bincount(own, share) / np.maximum(np.bincount(own), 1))[own]
    spread = mean * (1 - mean)
    expected, independent = spread.sum(), (spread / m).sum()
    excess = ((share - mean) ** 2).sum() - independent
    rho = excess / (expected - independent) if expected > independent else 0.0
    return np.asarray(1 + (size - 1) * np.clip(rho, 0.0, 1.0))


def _weigh(codes: Int64, held: Float64, effect: Float64, habits: _Habits) -> tuple[Int64, Float64]:
    """(n,) the code that fits best instead, and the probability that it does; 0 where none is confident."""
    own = np.arange(len(codes)), codes
    likelihood = held @ habits.log_q.T
    gain = (likelihood - likelihood[own][:, None]) / effect[:, None]
    share = held[:, :-1] / held.sum(axis=1, keepdims=True)
    gain[share < habits.own_share] = -np.inf
    gain[own] = -np.inf
    best = gain.argmax(axis=1)
    at_best = np.arange(len(codes)), best
    smoothing = SMOOTHING / held.shape[1]
    by_habit = np.exp(np.minimum(-gain[at_best], MAX_LOG_ODDS))
    by_place = (held[own] + smoothing) / (held[at_best] + smoothing)
    return best, 1 / (1 + (by_habit + by_place) * (1 - PRIOR) / PRIOR)


def _nobody() -> Suspects:
    whole, real = np.empty(0, np.int64), np.empty(0)
    return Suspects(whole, whole, real, whole, whole, whole, real)
