"""Tune a search: find the candidate dimension, nprobe and rerank depth that reach the recall target at the least cost.

Cost is the number of bytes that a query reads, so the choice is the same on every machine. Queries are rows of the
index: a search for ten finds the query itself and nine others, and recall is measured on the nine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.recipes import choose_recipe, scan_bytes
from retrieval_core.index.topk import exact_search

N_NEAREST = 10
DEPTHS = (1, 2, 3, 5, 8, 12, 20, 32, 50)
STEPS_PER_DOUBLING = 4  # tried values of nprobe; the chosen one is at most a fifth too large
WORTH_A_REBUILD = 2.0  # how many times fewer bytes another dimension must read to replace one that is good enough


class TunableIndex(Protocol):
    """What tuning needs of an open index; `ShardedIndex` has it."""

    @property
    def n_lists(self) -> int: ...

    def query_bytes(self, nprobe: int, rerank_depth: int, k: int = N_NEAREST) -> int: ...

    def reranked(self, candidate_queries: Float32, depth: int, nprobe: int) -> tuple[Int64, Int64]: ...


class TuneQueries(NamedTuple):
    """Rows of the index as queries: their `candidates` (q, candidate_dim) float32, unit length.

    `truth` (q, 9) int64 are the ids of the nearest other rows by exact search in the full dimension, ties by the lower
    id, padded with -1 where there are fewer.
    """

    candidates: Float32
    truth: Int64


class ExactIndex(Protocol):
    """What finding the true neighbours needs of an open index; `ShardedIndex` has it."""

    def vectors_of(self, row_ids: Int64) -> Float32: ...

    def exact(self, queries: Float32, k: int) -> tuple[Float32, Int64]: ...


class TuneResult(NamedTuple):
    """The chosen nprobe (0 for an index without lists) and rerank depth, and the recall measured with them.

    `reached` says whether that recall is at least the target. `curve` holds the Pareto-optimal points tried, from the
    cheapest to the one of highest recall; the chosen point is among them.
    """

    nprobe: int
    rerank_depth: int
    recall: float
    reached: bool
    curve: tuple[TunePoint, ...]


def tune_queries(index: ExactIndex, row_ids: Int64, candidates: Float32) -> TuneQueries:
    """Return rows of the index as queries, given their `candidates` (q, candidate_dim) float32. Raises `NotFound`."""
    _, nearest = index.exact(index.vectors_of(row_ids), N_NEAREST)
    return TuneQueries(candidates, _others(nearest, row_ids))


def tune_search(index: TunableIndex, queries: TuneQueries, config: IndexConfig) -> TuneResult:
    """Find the nprobe and rerank depth that reach `config.recall_target` on `queries` and read the fewest bytes.

    `config.nprobe` and `config.rerank_depth` are used as they are unless they are 0. The target is first raised by one
    standard error, because the cheapest point that passes often does so by luck. When nothing reaches that, the target
    itself counts; when nothing reaches the target, the highest recall possible (`reached` is then False).
    """
    trials = _Trials(index, queries)
    ladder, depths = _ladder(index.n_lists, config.nprobe), (config.rerank_depth,) if config.rerank_depth else DEPTHS
    for min_recall in (_with_margin(config.recall_target, queries.truth), config.recall_target):
        best = _cheapest(trials, ladder, depths, min_recall)
        if best:
            break
    else:
        most = trials(ladder[-1], depths[-1])
        min_recall = most.recall
        best = _cheapest(trials, ladder, depths, min_recall) or most
    _measure_around(trials, ladder, best)
    curve = _pareto(list(trials.points.values()))
    chosen = next(point for point in curve if point.recall >= min_recall)
    reached = chosen.recall >= config.recall_target
    return TuneResult(chosen.nprobe, chosen.rerank_depth, chosen.recall, reached, curve)


def choose_candidate_dim(
    by_dim: Mapping[int, Float32], queries: Int64, n_rows: int, config: IndexConfig, production: int | None = None
) -> int:
    """Choose the dimension, a key of `by_dim`, in which an index of `n_rows` rows finds its candidates.

    `by_dim` maps each dimension to (n, dim) float32 unit vectors of the same rows, all or a random sample; the largest
    dimension is the full one. `queries` (q,) are the positions of the rows that may be queries. A dimension passes when
    exact search and the deepest rerank reach a recall half-way between `config.recall_target` and 1, which leaves room
    for the losses of lists and codes. Of those that pass, the one whose recipe reads the fewest bytes is chosen. The
    dimension of the index in `production` is kept while it reaches the target and reads less than WORTH_A_REBUILD times
    as many bytes, because a change rebuilds every shard. A `config.candidate_dim` other than 0 decides by itself.

    Raises `BadConfig` when `config.candidate_dim` is not in `by_dim`, or no dimension fits `config.memory_gb`.
    """
    if config.candidate_dim:
        if config.candidate_dim in by_dim:
            return config.candidate_dim
        widths = ", ".join(f"{dim}" for dim in sorted(by_dim))
        raise BadConfig(f"index.candidate_dim {config.candidate_dim} is none of {widths}; add it to reduce.dims")
    recipe_bytes = _recipe_bytes(sorted(by_dim), n_rows, config)
    if len(recipe_bytes) == 1:
        return next(iter(recipe_bytes))
    costs = _dim_costs(by_dim, queries, recipe_bytes, config)
    passing = [cost for cost in costs if cost.recall >= _dim_target(config)] or [max(costs, key=lambda c: c.recall)]
    best = min(passing, key=lambda cost: (cost.query_bytes, cost.dim))
    for cost in costs:
        is_good = cost.recall >= config.recall_target and cost.query_bytes < WORTH_A_REBUILD * best.query_bytes
        if cost.dim == production and is_good:
            return cost.dim
    return best.dim


class _Trials:
    """Measures each (nprobe, rerank depth) once."""

    def __init__(self, index: TunableIndex, queries: TuneQueries) -> None:
        self.index = index
        self.queries = queries
        self.points: dict[tuple[int, int], TunePoint] = {}

    def __call__(self, nprobe: int, depth: int) -> TunePoint:
        if (nprobe, depth) not in self.points:
            # A search finds those of the true neighbours that it reranks, as no other row is nearer.
            query, row_ids = self.index.reranked(self.queries.candidates, N_NEAREST * depth, nprobe)
            truth = self.queries.truth
            n_true = np.count_nonzero(truth >= 0)
            n_found = np.count_nonzero((truth[query] == row_ids[:, None]).any(axis=1))
            recall = n_found / n_true if n_true else 1.0
            n_bytes = self.index.query_bytes(nprobe, depth, N_NEAREST)
            self.points[nprobe, depth] = TunePoint(
                nprobe=nprobe, rerank_depth=depth, recall=recall, query_bytes=n_bytes
            )
        return self.points[nprobe, depth]


def _cheapest(trials: _Trials, ladder: Sequence[int], depths: Sequence[int], min_recall: float) -> TunePoint | None:
    """Return the cheapest point with a recall of `min_recall`, None when there is none.

    Recall rises with nprobe and with depth, so a smaller depth needs at least as many lists. The depths are therefore
    tried from the deepest, each from the number of lists that the one before needed up to the cost of the best so far.
    """
    best: TunePoint | None = None
    low = 0
    for depth in sorted(depths, reverse=True):
        high = len(ladder) - 1
        while best and high >= low and trials.index.query_bytes(ladder[high], depth, N_NEAREST) >= best.query_bytes:
            high -= 1
        if high < low:
            continue
        step = _first(lambda n, depth=depth: trials(ladder[n], depth).recall >= min_recall, low, high)  # type: ignore[misc]
        low = high + 1 if step is None else step
        best = best if step is None else trials(ladder[step], depth)
    return best


def _measure_around(trials: _Trials, ladder: Sequence[int], point: TunePoint) -> None:
    """Try a quarter, half and twice as many lists too, so that the curve shows what fewer and more would give."""
    chosen = ladder.index(point.nprobe)
    for step in (chosen - 2 * STEPS_PER_DOUBLING, chosen - STEPS_PER_DOUBLING, chosen + STEPS_PER_DOUBLING):
        if 0 <= step < len(ladder):
            trials(ladder[step], point.rerank_depth)


def _first(passes: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the first of low..high that passes, None when none does; every number after one that passes passes too."""
    failed, number, stride = low - 1, low, 1
    while not passes(number):
        if number == high:
            return None
        failed, number, stride = number, min(high, number + stride), min(2 * stride, STEPS_PER_DOUBLING)
    while number - failed > 1:
        middle = (number + failed) // 2
        failed, number = (failed, middle) if passes(middle) else (middle, number)
    return number


def _ladder(nlist: int, nprobe: int) -> list[int]:
    """Return the values of nprobe to try, rising; only 0 for an index without lists."""
    if nlist == 0 or nprobe:
        return [min(nprobe, nlist)]
    n_steps = math.ceil(STEPS_PER_DOUBLING * math.log2(nlist)) + 1
    return sorted({min(nlist, round(2 ** (step / STEPS_PER_DOUBLING))) for step in range(n_steps)})


def _with_margin(target: float, truth: Int64) -> float:
    """Return the target plus one standard error of a share of all true neighbours: 0.9915 for 0.99 and 500 queries."""
    n_true = max(1, int(np.count_nonzero(truth >= 0)))
    return min(1.0, target + math.sqrt(target * (1 - target) / n_true))


def _pareto(points: list[TunePoint]) -> tuple[TunePoint, ...]:
    kept: list[TunePoint] = []
    for point in sorted(points, key=lambda p: (p.query_bytes, -p.recall, p.nprobe, p.rerank_depth)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return tuple(kept)


class _DimCost(NamedTuple):
    dim: int
    recall: float  # after the deepest rerank
    query_bytes: int  # with the smallest depth that is enough


def _recipe_bytes(dims: list[int], n_rows: int, config: IndexConfig) -> dict[int, int]:
    """Return the bytes that finding candidates reads, for each dimension whose recipe fits the memory."""
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


def _dim_costs(
    by_dim: Mapping[int, Float32], queries: Int64, recipe_bytes: Mapping[int, int], config: IndexConfig
) -> list[_DimCost]:
    """Measure the recall of exact search and a rerank for each dimension of `recipe_bytes`."""
    full_dim = max(by_dim)
    n_queries = min(config.tune_queries, len(queries))
    sample = np.sort(np.random.default_rng(config.seed).choice(queries, n_queries, replace=False))
    truth = _nearest(by_dim[full_dim], sample, N_NEAREST)
    depths = (config.rerank_depth,) if config.rerank_depth else DEPTHS
    costs = []
    for dim, n_bytes in recipe_bytes.items():
        hits = _nearest(by_dim[dim], sample, N_NEAREST * depths[-1])
        recalls = [_recall(hits[:, : N_NEAREST * depth], truth) for depth in depths]
        enough = min(recalls[-1], _dim_target(config))
        depth = next(depth for depth, recall in zip(depths, recalls, strict=True) if recall >= enough)
        costs.append(_DimCost(dim, recalls[-1], n_bytes + N_NEAREST * depth * full_dim * 4))
    return costs


def _dim_target(config: IndexConfig) -> float:
    """Return the recall that a dimension must allow: half-way to 1, as lists and codes lose some too."""
    return (1 + config.recall_target) / 2


def _nearest(vectors: Float32, rows: Int64, k: int) -> Int64:
    """Return the (q, k) int64 positions of the nearest others of the vectors at `rows`, by exact search."""
    if len(rows) == 0:
        return np.empty((0, k), np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    _, hits = exact_search(vectors[rows], vectors, min(k + 1, len(vectors)))
    return _others(hits, rows)


def _others(hits: Int64, rows: Int64) -> Int64:
    """Drop each query itself from its (q, k + 1) hits, or the last hit when it is not among them; return (q, k)."""
    is_itself = hits == rows[:, None]
    order = np.argsort(is_itself, axis=1, kind="stable")
    others: Int64 = np.take_along_axis(hits, order, axis=1)[:, :-1]
    return others


def _recall(hits: Int64, truth: Int64) -> float:
    """Return the share of the true neighbours among the hits; 1 when there are none."""
    is_found = (truth[:, :, None] == hits[:, None, :]).any(axis=2) & (truth >= 0)
    n_true = np.count_nonzero(truth >= 0)
    return float(np.count_nonzero(is_found) / n_true) if n_true else 1.0
