"""The cheapest way to search that keeps the promise of recall: dimensions of the candidates, nprobe, rerank depth.

Cost is the bytes that a query reads, so a choice is the same on every machine. Queries are rows of the index: a search
for ten finds the query and nine others, and recall is that of the nine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.config import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.recipes import choose_recipe, scan_bytes
from retrieval_core.index.topk import exact_search

N_NEAREST = 10
DEPTHS = (1, 2, 3, 5, 8, 12, 20, 32, 50)
STEPS_PER_DOUBLING = 4  # of nprobe: the chosen one is at most a fifth too many
WORTH_A_REBUILD = 2.0  # another dimension must read so many times fewer bytes before a standing one that serves goes


class Tunable(Protocol):
    """What tuning asks of an open index; `ShardedIndex` is one."""

    @property
    def n_lists(self) -> int: ...

    def query_bytes(self, nprobe: int, rerank_depth: int, k: int = N_NEAREST) -> int: ...

    def search(
        self, queries: Float32, candidate_queries: Float32, k: int, rerank_depth: int, *, nprobe: int = 0
    ) -> tuple[Float32, Int64]: ...


class TuneQueries(NamedTuple):
    """Rows of the index as queries: `vectors` (q, dim) and `candidates` (q, candidate_dim) float32, unit length.

    `own` (q,) int64 are their row ids, and `truth` (q, 9) int64 the row ids of the nearest others by exact search in
    the full dimension, ties by the lower id, padded with -1 where there are fewer.
    """

    vectors: Float32
    candidates: Float32
    own: Int64
    truth: Int64


class Exact(Protocol):
    """What finding the truth asks of an open index."""

    def vectors_of(self, row_ids: Int64) -> Float32: ...

    def exact(self, queries: Float32, k: int) -> tuple[Float32, Int64]: ...


class Tuned(NamedTuple):
    """The chosen way to search, and what else was tried.

    `nprobe` is 0 where the index has no lists; `recall` was measured, and `reached` says whether it is the target or
    more. `curve` holds the points that no cheaper one finds as much as, cheapest first; the chosen one is among them.
    """

    nprobe: int
    rerank_depth: int
    recall: float
    reached: bool
    curve: tuple[TunePoint, ...]


def tune_queries(index: Exact, row_ids: Int64, candidates: Float32) -> TuneQueries:
    """These rows of the index as queries; `candidates` (q, candidate_dim) float32 are theirs. Raises `NotFound`."""
    vectors = index.vectors_of(row_ids)
    _, nearest = index.exact(vectors, N_NEAREST)
    return TuneQueries(vectors, candidates, row_ids, _others(nearest, row_ids))


def tune_search(index: Tunable, asked: TuneQueries, config: IndexConfig) -> Tuned:
    """The (nprobe, rerank depth) that reads the fewest bytes of those that reach `config.recall_target` on `asked`.

    `config.nprobe` and `config.rerank_depth` are kept where they are not 0. To reach means to find the target and one
    standard error more, as the cheapest passing point is passed by luck more often than not; where nothing does, the
    target itself; where nothing does that either, as much as can be found (`reached` is False).
    """
    trials = _Trials(index, asked)
    ladder, depths = _ladder(index.n_lists, config.nprobe), (config.rerank_depth,) if config.rerank_depth else DEPTHS
    for wanted in (_with_margin(config.recall_target, asked.truth), config.recall_target):
        best = _cheapest(trials, ladder, depths, wanted)
        if best:
            break
    else:
        most = trials(ladder[-1], depths[-1])
        wanted = most.recall
        best = _cheapest(trials, ladder, depths, wanted) or most
    _measure_around(trials, ladder, best)
    curve = _pareto(list(trials.points.values()))
    chosen = next(point for point in curve if point.recall >= wanted)
    reached = chosen.recall >= config.recall_target
    return Tuned(chosen.nprobe, chosen.rerank_depth, chosen.recall, reached, curve)


def choose_candidate_dim(
    by_dim: Mapping[int, Float32], asking: Int64, n_rows: int, config: IndexConfig, standing: int | None = None
) -> int:
    """In how many dimensions the candidates of an index of `n_rows` rows are found: one of `by_dim`.

    `by_dim` holds the same rows, all or a random sample, (n, width) float32 of unit length for each width on offer;
    the largest is the full one; `asking` (q,) are the places of the rows that may query. Of those in which exact
    search and the deepest rerank find `config.recall_target` of the ten nearest, and half of what it lets go more,
    as lists and codes lose some too, the one whose recipe reads the fewest bytes. `standing`, that of the index in
    production, stays while it reaches the target at less than twice the bytes, for a change rebuilds everything.
    `config.candidate_dim` decides where it is not 0.

    Raises `BadConfig` when that is not on offer, or when no width fits `config.memory_gb`.
    """
    if config.candidate_dim:
        if config.candidate_dim in by_dim:
            return config.candidate_dim
        widths = ", ".join(f"{dim}" for dim in sorted(by_dim))
        raise BadConfig(f"index.candidate_dim {config.candidate_dim} is none of {widths}; add it to reduce.dims")
    recipe_bytes = _recipe_bytes(sorted(by_dim), n_rows, config)
    if len(recipe_bytes) == 1:
        return next(iter(recipe_bytes))
    offers = _offers(by_dim, asking, recipe_bytes, config)
    enough = (1 + config.recall_target) / 2
    reaching = [offer for offer in offers if offer.recall >= enough] or [max(offers, key=lambda offer: offer.recall)]
    best = min(reaching, key=lambda offer: (offer.query_bytes, offer.dim))
    for offer in offers:
        serves = offer.recall >= config.recall_target and offer.query_bytes < WORTH_A_REBUILD * best.query_bytes
        if offer.dim == standing and serves:
            return offer.dim
    return best.dim


class _Trials:
    """Measures ways to search, each once."""

    def __init__(self, index: Tunable, asked: TuneQueries) -> None:
        self.index = index
        self.asked = asked
        self.points: dict[tuple[int, int], TunePoint] = {}

    def __call__(self, nprobe: int, depth: int) -> TunePoint:
        if (nprobe, depth) not in self.points:
            vectors, candidates, own, truth = self.asked
            _, found = self.index.search(vectors, candidates, N_NEAREST, depth, nprobe=nprobe)
            recall = _recall(_others(found, own), truth)
            n_bytes = self.index.query_bytes(nprobe, depth, N_NEAREST)
            self.points[nprobe, depth] = TunePoint(
                nprobe=nprobe, rerank_depth=depth, recall=recall, query_bytes=n_bytes
            )
        return self.points[nprobe, depth]


def _cheapest(trials: _Trials, ladder: Sequence[int], depths: Sequence[int], wanted: float) -> TunePoint | None:
    """The cheapest point that finds `wanted`, None where none does; recall rises with nprobe and with depth.

    So the fewest lists that do at one depth are too few, or just enough, at every smaller one: each depth starts where
    the deeper one ended, and ends where it would cost more than the best so far.
    """
    best: TunePoint | None = None
    low = 0
    for depth in sorted(depths, reverse=True):
        high = len(ladder) - 1
        while best and high >= low and trials.index.query_bytes(ladder[high], depth, N_NEAREST) >= best.query_bytes:
            high -= 1
        if high < low:
            continue
        place = _first(lambda n, depth=depth: trials(ladder[n], depth).recall >= wanted, low, high)  # type: ignore[misc]
        low = high + 1 if place is None else place
        best = best if place is None else trials(ladder[place], depth)
    return best


def _measure_around(trials: _Trials, ladder: Sequence[int], point: TunePoint) -> None:
    """A quarter, half and twice as many lists, for a curve that shows what more and less would give."""
    place = ladder.index(point.nprobe)
    for around in (place - 2 * STEPS_PER_DOUBLING, place - STEPS_PER_DOUBLING, place + STEPS_PER_DOUBLING):
        if 0 <= around < len(ladder):
            trials(ladder[around], point.rerank_depth)


def _first(passes: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first of low..high that passes, where all after it do too; None where even the last does not."""
    failed, place, step = low - 1, low, 1
    while not passes(place):
        if place == high:
            return None
        failed, place, step = place, min(high, place + step), min(2 * step, STEPS_PER_DOUBLING)
    while place - failed > 1:
        middle = (place + failed) // 2
        failed, place = (failed, middle) if passes(middle) else (middle, place)
    return place


def _ladder(nlist: int, nprobe: int) -> list[int]:
    """The numbers of lists to try, rising; 0 alone where there are none."""
    if nlist == 0 or nprobe:
        return [min(nprobe, nlist)]
    n_steps = math.ceil(STEPS_PER_DOUBLING * math.log2(nlist)) + 1
    return sorted({min(nlist, round(2 ** (step / STEPS_PER_DOUBLING))) for step in range(n_steps)})


def _with_margin(target: float, truth: Int64) -> float:
    """The target and one standard error of a share of all true neighbours: 0.9914 for 0.99 of 500 queries."""
    n_true = max(1, int(np.count_nonzero(truth >= 0)))
    return min(1.0, target + math.sqrt(target * (1 - target) / n_true))


def _pareto(points: list[TunePoint]) -> tuple[TunePoint, ...]:
    kept: list[TunePoint] = []
    for point in sorted(points, key=lambda p: (p.query_bytes, -p.recall, p.nprobe, p.rerank_depth)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return tuple(kept)


class _Offer(NamedTuple):
    dim: int
    recall: float  # after the deepest rerank
    query_bytes: int  # with the smallest depth that does


def _recipe_bytes(dims: list[int], n_rows: int, config: IndexConfig) -> dict[int, int]:
    """Bytes that finding candidates reads in each dimension whose recipe fits the memory."""
    n_bytes: dict[int, int] = {}
    refused: BadConfig | None = None
    for dim in dims:
        try:
            recipe = choose_recipe(n_rows, dim, dims[-1], config)
        except BadConfig as error:
            refused = refused or error
            continue
        n_bytes[dim] = scan_bytes(recipe, n_rows, dim)
    if not n_bytes and refused:
        raise refused
    return n_bytes


def _offers(
    by_dim: Mapping[int, Float32], asking: Int64, recipe_bytes: Mapping[int, int], config: IndexConfig
) -> list[_Offer]:
    full_dim = max(by_dim)
    n_queries = min(config.tune_queries, len(asking))
    own = np.sort(np.random.default_rng(config.seed).choice(asking, n_queries, replace=False))
    truth = _nearest(by_dim[full_dim], own, N_NEAREST)
    depths = (config.rerank_depth,) if config.rerank_depth else DEPTHS
    offers = []
    for dim, n_bytes in recipe_bytes.items():
        found = _nearest(by_dim[dim], own, N_NEAREST * depths[-1])
        recalls = [_recall(found[:, : N_NEAREST * depth], truth) for depth in depths]
        enough = min(recalls[-1], (1 + config.recall_target) / 2)
        depth = next(depth for depth, recall in zip(depths, recalls, strict=True) if recall >= enough)
        offers.append(_Offer(dim, recalls[-1], n_bytes + N_NEAREST * depth * full_dim * 4))
    return offers


def _nearest(vectors: Float32, own: Int64, k: int) -> Int64:
    """(q, k) int64 places of the other rows nearest to the rows `own`, by exact search."""
    if len(own) == 0:
        return np.empty((0, k), np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    width = min(k + 1, len(vectors))
    _, found = exact_search(vectors[own], vectors, width)
    return _others(found, own)


def _others(found: Int64, own: Int64) -> Int64:
    """`found` (q, k + 1) without each query itself, (q, k); without the last where the query was not found."""
    itself = found == own[:, None]
    order = np.argsort(itself, axis=1, kind="stable")
    others: Int64 = np.take_along_axis(found, order, axis=1)[:, :-1]
    return others


def _recall(found: Int64, truth: Int64) -> float:
    """Share of the true neighbours that were found; 1 where there are none."""
    hits = (truth[:, :, None] == found[:, None, :]).any(axis=2) & (truth >= 0)
    n_true = np.count_nonzero(truth >= 0)
    return float(np.count_nonzero(hits) / n_true) if n_true else 1.0
