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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_core.arrays import Float64, Int64, UInt8
from retrieval_core.artifacts.manifests import Value
from retrieval_core.metrics.relevance import row_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PRIOR = 0.033
MIN_MEMBERS = 5  # fewer say nothing about the usual neighbours of a category or label
SMOOTHING = 0.5  # neighbours added to each cell of Q, so that a pair that was never seen is not impossible
MIN_PROBABILITY = 0.5  # from which a person should look
NO_CODE = -1
PLANTED_SHARE, MIN_PLANTED = 0.02, 10  # of the items
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
    judgement = _judge(codes, _count_codes(neighbour_codes[judged], usable), np.ones(len(judged)))
    suspect = np.flatnonzero(judgement.probability >= MIN_PROBABILITY)
    return _suspects(judgement, suspect, judged[suspect])._replace(suggested=usable[judgement.best[suspect]])


def suspect_labels(given: csr_array, neighbours: Int64) -> list[Suspects]:
    """Return, for each label of (n, l) sparse bool `given`, the items that seem to have it wrongly or to lack it.

    `neighbours` are (n, k) rows of `given`, -1 for none. The codes are 1 for an item with the label, 0 without. This is
    `suspect_codes` for one label after another: with two codes, items with equally many neighbours, and equally many
    with the label, are judged alike, so that each such kind is judged once.
    """
    from scipy.sparse import csc_array, csr_array

    size = (neighbours >= 0).sum(axis=1)
    judged = np.flatnonzero(size > 0)
    if not len(judged):
        return [_no_suspects()] * given.shape[1]
    n_rows = given.shape[0]
    item, rank = np.nonzero(neighbours >= 0)
    linked = csr_array((np.ones(len(item), np.int64), (item, neighbours[item, rank])), (n_rows, n_rows))
    labels = csc_array(given, dtype=np.int64)
    n_with = csc_array(linked @ labels)
    members = np.diff(labels.indptr)
    usable = (members >= MIN_MEMBERS) & (n_rows - members >= MIN_MEMBERS)
    kinds = _LabelKinds(size, np.bincount(size, minlength=neighbours.shape[1] + 1))
    return [
        kinds.suspects(
            labels.indices[slice(*labels.indptr[column : column + 2])],
            n_with.indices[slice(*n_with.indptr[column : column + 2])],
            n_with.data[slice(*n_with.indptr[column : column + 2])],
        )
        if usable[column]
        else _no_suspects()
        for column in range(given.shape[1])
    ]


class _LabelKinds(NamedTuple):
    """(n,) how many neighbours each item has, and how many items have 0, 1, … neighbours."""

    size: Int64
    n_of_size: Int64

    def suspects(self, holders: Int64, near: Int64, n_near: Int64) -> Suspects:
        """Return the suspects of a label: it is held by `holders`, and by `n_near` neighbours of the items `near`."""
        n_sizes = len(self.n_of_size)
        rows = np.union1d(holders, near)
        rows = rows[self.size[rows] > 0]
        n_with = np.zeros(len(self.size), np.int64)
        n_with[near] = n_near
        holds = np.isin(rows, holders, assume_unique=True)
        number = (holds * n_sizes + n_with[rows]) * n_sizes + self.size[rows]
        n_of_kind = np.bincount(number, minlength=2 * n_sizes * n_sizes)
        # All other items are without the label, and so are their neighbours.
        n_of_kind[:n_sizes] += self.n_of_size - np.bincount(self.size[rows], minlength=n_sizes)
        n_of_kind[0] = 0
        kinds = np.flatnonzero(n_of_kind)
        size, n_with_label = kinds % n_sizes, kinds // n_sizes % n_sizes
        counts = np.stack([size - n_with_label, n_with_label, np.zeros_like(size)], axis=1).astype(np.uint8)
        judgement = _judge(kinds // n_sizes**2, counts, n_of_kind[kinds].astype(np.float64))
        kind = np.searchsorted(kinds, number)
        suspect = np.flatnonzero(judgement.probability[kind] >= MIN_PROBABILITY)
        return _suspects(judgement, kind[suspect], rows[suspect])


class PlantedErrors(Value):
    """What became of `n_planted` codes that were replaced by wrong ones: the share `found` of them, and the share of
    the suspicions that arose by it that was `confirmed`, that is, doubts a planted code.
    """

    n_planted: int
    found: float
    confirmed: float


def plant_errors(codes: Int64, rows: Int64, neighbours: Int64, seed: int) -> PlantedErrors | None:
    """Measure `suspect_codes` on errors that are planted in some of the codes, which stay as they are.

    `codes` (n,) are those of all items, `neighbours` (q, k) the rows that are nearest to the (q,) `rows`, -1 for none.
    A planted code is the code of another item, drawn at random. None where fewer than `MIN_PLANTED` can be planted.
    """
    usable = np.flatnonzero(np.isin(codes[rows], _usable(codes[rows])))
    n_planted = round(PLANTED_SHARE * len(usable))
    rng = np.random.default_rng(seed)
    places, donors = rng.permutation(usable)[:n_planted], rng.permutation(usable)[:n_planted]
    is_wrong = codes[rows[places]] != codes[rows[donors]]
    places, donors = places[is_wrong], donors[is_wrong]
    if len(places) < MIN_PLANTED:
        return None
    wrong = codes.copy()
    wrong[rows[places]] = codes[rows[donors]]
    doubted, doubted_before = (
        suspect_codes(given[rows], np.append(given, NO_CODE)[neighbours]).rows for given in (wrong, codes)
    )
    arisen = np.setdiff1d(doubted, np.setdiff1d(doubted_before, places))
    n_found = np.isin(places, arisen).sum()
    return PlantedErrors(n_planted=len(places), found=n_found / len(places), confirmed=n_found / max(len(arisen), 1))


class _Judgement(NamedTuple):
    """(n,) codes with their (n, c + 1) counts of neighbours, the best alternative to each, and its probability."""

    codes: Int64
    counts: Counts
    best: Int64
    probability: Float64
    own_share: Float64


def _judge(codes: Int64, counts: Counts, weights: Float64) -> _Judgement:
    """Judge (n,) codes by the codes of their neighbours; each row stands for (n,) `weights` items."""
    habits = _habits(codes, counts, weights)
    effect = _design_effect(codes, counts, weights)
    blocks = [
        _best_alternative(codes[rows], counts[rows].astype(np.float64), effect[rows], habits)
        for rows in row_blocks(len(codes), counts.shape[1])
    ]
    best, probability = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return _Judgement(codes, counts, best, probability, habits.own_share)


def _suspects(judgement: _Judgement, suspect: Int64, rows: Int64) -> Suspects:
    """Return the (s,) judged rows `suspect` as suspects, whose rows in the input are `rows`."""
    given, suggested, counts = judgement.codes[suspect], judgement.best[suspect], judgement.counts[suspect]
    each = np.arange(len(suspect))
    return Suspects(
        rows=rows,
        suggested=suggested,
        probability=judgement.probability[suspect],
        n_agree=counts[each, given].astype(np.int64),
        n_suggested=counts[each, suggested].astype(np.int64),
        n_neighbours=counts.sum(axis=1, dtype=np.int64),
        typical=judgement.own_share[given],
    )


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
    row, column = np.nonzero(codes >= 0)
    values = codes[row, column]
    position = np.minimum(np.searchsorted(usable, values), len(usable) - 1)
    cell = row * (len(usable) + 1) + np.where(usable[position] == values, position, len(usable))
    return np.bincount(cell, minlength=len(codes) * (len(usable) + 1)).reshape(len(codes), -1).astype(np.uint8)


def _habits(codes: Int64, counts: Counts, weights: Float64) -> _Habits:
    total = np.stack(
        [weights[codes == code] @ counts[codes == code].astype(np.float64) for code in range(counts.shape[1] - 1)]
    )
    smooth = total + SMOOTHING
    own_share = np.diag(total) / np.maximum(total.sum(axis=1), 1)
    return _Habits(np.log(smooth / smooth.sum(axis=1, keepdims=True)), own_share)


def _design_effect(codes: Int64, counts: Counts, weights: Float64) -> Float64:
    """Return (n,) Kish's design effect: how much more the neighbours' agreement varies than that of independent ones.

    Wrong labels would add to the variation, so only items that most neighbours agree with are used.
    """
    n_agree, size = counts[np.arange(len(codes)), codes], counts.sum(axis=1, dtype=np.int64)
    trusted = np.flatnonzero(n_agree >= counts.max(axis=1))
    share, code, m, weight = n_agree[trusted] / size[trusted], codes[trusted], size[trusted], weights[trusted]
    n_of_code = np.maximum(np.bincount(code, weight, counts.shape[1]), 1)
    mean = (np.bincount(code, weight * share, counts.shape[1]) / n_of_code)[code]
    spread = weight * mean * (1 - mean)
    expected, independent = spread.sum(), (spread / m).sum()
    excess = (weight * (share - mean) ** 2).sum() - independent
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
