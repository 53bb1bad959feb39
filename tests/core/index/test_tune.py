from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import TunePoint
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import choose_recipe, shard_of
from retrieval_core.index.tune import DEPTHS, TuneQueries, choose_candidate_dim, tune_search
from retrieval_core.metrics.exact_knn import exact_topk

NLIST = 64
LADDER = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32, 38, 45, 54, 64)
PLAIN = IndexConfig(recall_target=0.9)


class DrawnIndex:
    """Finds true neighbour j of query i when nprobe and depth reach the values drawn for it, so recall is monotone."""

    def __init__(self, seed: int, n_queries: int = 40, n_lists: int = NLIST, list_bytes: int = 100) -> None:
        rng = np.random.default_rng(seed)
        self.n_lists = n_lists
        self.list_bytes = list_bytes
        self.own = np.arange(n_queries)
        self.truth = 1000 + np.arange(9 * n_queries).reshape(n_queries, 9)
        self.needs_nprobe = np.ceil(rng.gamma(0.7, rng.uniform(1, 15), self.truth.shape))
        self.needs_depth = np.ceil(rng.gamma(0.7, rng.uniform(0.5, 15), self.truth.shape))
        self.searches = 0

    @property
    def asked(self) -> TuneQueries:
        nothing = np.zeros((len(self.own), 1), np.float32)
        return TuneQueries(nothing, self.truth)

    def query_bytes(self, nprobe: int, rerank_depth: int, k: int = 10) -> int:
        return self.list_bytes * nprobe + 64 * k * rerank_depth

    def reranked(self, candidate_queries: np.ndarray, depth: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        assert depth % 10 == 0
        self.searches += 1
        met = (self.needs_depth <= depth // 10) & ((self.needs_nprobe <= nprobe) | (self.n_lists == 0))
        met &= self.truth >= 0
        return np.nonzero(met)[0], self.truth[met]

    def recall(self, nprobe: int, depth: int) -> float:
        return len(self.reranked(self.own, 10 * depth, nprobe)[1]) / self.truth.size


def cheapest_of_the_grid(index: DrawnIndex, wanted: float) -> int | None:
    reaching = [(n, d) for n in LADDER for d in DEPTHS if index.recall(n, d) >= wanted]
    return min((index.query_bytes(*point) for point in reaching), default=None)


drawn = st.builds(
    DrawnIndex, st.integers(0, 2**32 - 1), n_queries=st.integers(1, 60), list_bytes=st.sampled_from([1, 50, 5_000])
)


@settings(max_examples=60)
@given(index=drawn, target=st.floats(0.3, 1))
def test_the_choice_is_the_cheapest_of_the_whole_grid(index: DrawnIndex, target: float) -> None:
    tuned = tune_search(index, index.asked, IndexConfig(recall_target=target))
    margin = np.sqrt(target * (1 - target) / index.truth.size)
    safe, bare = cheapest_of_the_grid(index, min(1.0, target + margin)), cheapest_of_the_grid(index, target)
    most = cheapest_of_the_grid(index, index.recall(LADDER[-1], DEPTHS[-1]))
    assert index.query_bytes(tuned.nprobe, tuned.rerank_depth) == next(x for x in (safe, bare, most) if x is not None)
    assert tuned.recall == index.recall(tuned.nprobe, tuned.rerank_depth)
    assert tuned.reached == (bare is not None) == (tuned.recall >= target)


@settings(max_examples=40)
@given(index=drawn, target=st.floats(0.3, 1))
def test_the_curve_rises_and_holds_the_choice(index: DrawnIndex, target: float) -> None:
    tuned = tune_search(index, index.asked, IndexConfig(recall_target=target))
    n_bytes, recalls = [p.query_bytes for p in tuned.curve], [p.recall for p in tuned.curve]
    assert n_bytes == sorted(set(n_bytes))
    assert recalls == sorted(set(recalls))
    chosen = TunePoint(
        nprobe=tuned.nprobe,
        rerank_depth=tuned.rerank_depth,
        recall=tuned.recall,
        query_bytes=index.query_bytes(tuned.nprobe, tuned.rerank_depth),
    )
    assert chosen in tuned.curve


def test_tuning_tries_a_fraction_of_the_grid_and_is_repeatable() -> None:
    index = DrawnIndex(5)
    first = tune_search(index, index.asked, PLAIN)
    n_searches = index.searches
    assert n_searches < len(LADDER) * len(DEPTHS) / 4
    assert tune_search(index, index.asked, PLAIN) == first
    assert index.searches == 2 * n_searches


@pytest.mark.parametrize(("nprobe", "rerank_depth"), [(7, 0), (0, 4), (7, 4), (10**6, 0)])
def test_values_fixed_by_the_config_are_kept(nprobe: int, rerank_depth: int) -> None:
    index = DrawnIndex(5)
    tuned = tune_search(index, index.asked, PLAIN.model_copy(update={"nprobe": nprobe, "rerank_depth": rerank_depth}))
    assert nprobe == 0 or {p.nprobe for p in tuned.curve} == {min(nprobe, NLIST)}
    assert rerank_depth == 0 or {p.rerank_depth for p in tuned.curve} == {rerank_depth}


def test_a_target_out_of_reach_gets_the_highest_recall_and_counts_as_missed() -> None:
    index = DrawnIndex(1)
    index.needs_depth[:20] = 10**6
    index.needs_depth[20:], index.needs_nprobe[:] = 3, 9
    tuned = tune_search(index, index.asked, PLAIN)
    assert (tuned.recall, tuned.reached) == (0.5, False)
    assert (tuned.nprobe, tuned.rerank_depth) == (10, 3)


def test_a_target_reached_by_less_than_a_standard_error_is_reached() -> None:
    index = DrawnIndex(1, n_queries=10)
    index.needs_depth[:], index.needs_nprobe[:] = 1, 1
    index.needs_depth[0] = 10**6
    tuned = tune_search(index, index.asked, PLAIN)
    assert (tuned.nprobe, tuned.rerank_depth, tuned.recall, tuned.reached) == (1, 1, 0.9, True)


def test_an_index_without_lists_is_tuned_in_depth_alone() -> None:
    index = DrawnIndex(2, n_lists=0)
    tuned = tune_search(index, index.asked, PLAIN)
    assert tuned.nprobe == 0
    assert tuned.reached


def test_missing_neighbours_do_not_count_against_recall() -> None:
    index = DrawnIndex(3, n_queries=2)
    index.truth[:, 1:] = -1
    index.needs_nprobe[:], index.needs_depth[:] = 1, 1
    assert tune_search(index, index.asked, PLAIN).recall == 1.0
    index.truth[:] = -1
    assert tune_search(index, index.asked, PLAIN).recall == 1.0


def unit(drawn: np.ndarray) -> np.ndarray:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def low_rank(n: int, dim: int, rank: int, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Unit vectors of which the first `rank` coordinates hold nearly everything."""
    rng = np.random.default_rng(seed)
    scale = np.where(np.arange(dim) < rank, 1.0, noise)
    return unit(rng.standard_normal((n, dim)) * scale)


def cut(full: np.ndarray, *dims: int) -> Mapping[int, np.ndarray]:
    return {full.shape[1]: full, **{dim: unit(full[:, :dim]) for dim in dims}}


def everyone(offered: Mapping[int, np.ndarray]) -> np.ndarray:
    return np.arange(len(offered[max(offered)]))


@pytest.mark.parametrize("key", ["Flat", "IVF32,SQ8", "IVF32,PQ8x4fs"])
def test_a_real_index_keeps_its_promise_on_other_queries(key: str, tmp_path: Path) -> None:
    full = low_rank(4_000, 24, 10, noise=0.15)
    low = unit(full[:, :16])
    row_ids = np.sort(np.random.default_rng(1).choice(2**62, len(full), replace=False))
    config = IndexConfig(recipe=key, recall_target=0.95, sample_rows=4_000)
    recipe = choose_recipe(len(full), 16, 24, config)
    template = train_template(low, recipe, seed=0)
    shard = shard_of(row_ids, 2)
    for number in range(2):
        build_shard(template, *(x[shard == number] for x in (row_ids, low, full)), tmp_path / str(number))
    index = ShardedIndex.open([tmp_path / "0", tmp_path / "1"], 24, 16, recipe.nprobe)

    def asked(place: np.ndarray) -> TuneQueries:
        truth = exact_topk(full[place], full, 9, exclude=place)[1]
        return TuneQueries(low[place], row_ids[truth])

    place = np.random.default_rng(2).permutation(len(full))[:600]
    tuned = tune_search(index, asked(place[:300]), config)
    assert tuned.reached
    place_asked, truth = place[:300], asked(place[:300]).truth
    _, hits = index.search(full[place_asked], low[place_asked], 10, tuned.rerank_depth, nprobe=tuned.nprobe)
    assert tuned.recall == (truth[:, :, None] == hits[:, None, :]).any(axis=2).mean()  # what a search finds
    fixed = config.model_copy(update={"nprobe": tuned.nprobe, "rerank_depth": tuned.rerank_depth})
    assert tune_search(index, asked(place[:300]), fixed).recall == tuned.recall
    assert tune_search(index, asked(place[300:]), fixed).recall > 0.94
    assert tune_search(index, asked(place[:300]), config) == tuned


def test_few_dimensions_are_chosen_where_they_hold_the_neighbours() -> None:
    offered = cut(low_rank(3_000, 64, 8), 4, 16, 32)
    assert choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig()) == 16


def test_the_full_dimension_is_chosen_where_every_dimension_counts() -> None:
    offered = cut(low_rank(3_000, 32, 32), 4, 8)
    assert choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig()) == 32


def test_the_chosen_dimension_does_reach_the_target_by_an_oracle() -> None:
    full = low_rank(2_000, 48, 6, noise=0.1)
    offered = cut(full, 4, 8, 16)
    dim = choose_candidate_dim(offered, everyone(offered), 2_000, IndexConfig(recall_target=0.98))
    low = unit(full[:, :dim]).astype(np.float64)
    hits = 0
    for own in range(0, 2_000, 20):
        scores, rough = full.astype(np.float64) @ full[own], low @ low[own]
        scores[own] = rough[own] = -9
        hits += np.isin(np.argsort(-scores)[:10], np.argsort(-rough)[:500]).sum()
    assert dim < 48
    assert hits / 1_000 >= 0.98


def test_the_dimension_in_production_stays_while_it_is_good_enough() -> None:
    offered = cut(low_rank(3_000, 64, 8), 4, 16, 24)
    assert choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig(), production=24) == 24


@pytest.mark.parametrize("production", [4, 64, 40])
def test_the_dimension_in_production_gives_way_when_it_misses_the_target_costs_double_or_is_absent(
    production: int,
) -> None:
    offered = cut(low_rank(3_000, 64, 8), 4, 16)
    assert choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig(), production=production) == 16


def test_the_config_decides_the_dimension_and_names_those_on_offer() -> None:
    offered = cut(low_rank(50, 64, 8), 4, 16)
    assert choose_candidate_dim(offered, everyone(offered), 50, IndexConfig(candidate_dim=4), production=16) == 4
    with pytest.raises(BadConfig, match=r"index\.candidate_dim 20 is none of 4, 16, 64"):
        choose_candidate_dim(offered, everyone(offered), 50, IndexConfig(candidate_dim=20))


def test_memory_rules_dimensions_out() -> None:
    offered = cut(low_rank(2_000, 32, 32), 4, 8)
    assert choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig(memory_gb=0.026)) == 8
    with pytest.raises(BadConfig, match="rows of 4 dimensions need"):
        choose_candidate_dim(offered, everyone(offered), 1_000_000, IndexConfig(memory_gb=0.001))


@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_a_handful_of_rows_is_enough(n_rows: int) -> None:
    offered = cut(low_rank(n_rows, 16, 4), 4, 8)
    assert choose_candidate_dim(offered, everyone(offered), n_rows, IndexConfig()) in (4, 8, 16)


def test_the_rows_that_are_queried_decide_how_many_dimensions_are_needed() -> None:
    plain, hard = low_rank(1_500, 32, 8), low_rank(500, 32, 32, seed=5)
    offered = cut(np.concatenate([plain, hard]), 8)
    plainly, hardly = np.arange(1_500), np.arange(1_500, 2_000)
    assert choose_candidate_dim(offered, plainly, 1_000_000, IndexConfig()) == 8
    assert choose_candidate_dim(offered, hardly, 1_000_000, IndexConfig()) == 32
