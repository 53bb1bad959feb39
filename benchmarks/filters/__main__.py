"""Recall and time of searches with a filter, for queries that pass it and for those that do not.

    python -m benchmarks.filters [--rows 200000] [--dim 128] [--store STORE] [--queries 100]

Rows are drawn in categories that lie apart, or are those of the release that a store publishes. Three searches run in
turn for each single query: one with no more lists and candidates than tuning chose for searches without a filter, the
one that is served, and the comparison of every row that passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.filters.drawn_categories import draw_categories
from benchmarks.index import Data, Ours
from benchmarks.synthetic_vectors import draw_row_ids, draw_tune_queries, recall
from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import IndexSet, Reducer, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.config.stages import IndexConfig
from retrieval_core.index import lookup
from retrieval_core.index.lookup import RowSelection, ShardedIndex, open_index
from retrieval_core.index.recipes import choose_recipe
from retrieval_core.index.tune import tune_search
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.reduce.pca import PCA_FILE, apply_pca, fit_pca, load_pca
from retrieval_core.settings import Settings

K = 10
CANDIDATE_DIM = 64  # of drawn rows
N_TIMED = 30


class Catalogue(NamedTuple):
    """An opened index with its vectors, candidates and row ids, and the number of the category of each row."""

    opened: ShardedIndex
    rerank_depth: int
    vectors: Float32
    candidates: Float32
    row_ids: Int64
    category: Int64  # 0 is the most frequent one
    colour: Int64 | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--store", help="measure the release that it publishes, instead of drawn rows")
    parser.add_argument("--queries", type=int, default=100, help="that pass each filter, and that do not")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        catalogue = (
            _open(arguments.store) if arguments.store else _build(arguments.rows, arguments.dim, Path(name) / "built")
        )
        _measure(catalogue, arguments.queries)


def _build(n_rows: int, dim: int, folder: Path) -> Catalogue:
    """Index drawn rows as a run does, with candidates in fewer dimensions."""
    drawn, config = draw_categories(n_rows, dim), IndexConfig()
    recipe = choose_recipe(n_rows, CANDIDATE_DIM, dim, config)
    data = Data(drawn.vectors, drawn.vectors[:0], draw_row_ids(n_rows), config, recipe, CANDIDATE_DIM)
    ours = Ours(data, folder, fit_pca([data.sample], CANDIDATE_DIM))
    folder.mkdir()
    ours.build()
    index = ours.open()
    tuned = tune_search(index, draw_tune_queries(index, data.row_ids, config, ours.reduced), config)
    index = ShardedIndex.open(ours.folders, dim, CANDIDATE_DIM, tuned.nprobe)
    print(f"{n_rows:,} x {dim}: {recipe.key}, recall@10 without a filter {tuned.recall:.3f}")
    candidates = ours.reduced(drawn.vectors)
    return Catalogue(index, tuned.rerank_depth, drawn.vectors, candidates, data.row_ids, drawn.category, drawn.colour)


def _open(url: str) -> Catalogue:
    """Open the release that a store publishes."""
    store = Settings.load(store=url).open_store()
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None:
        raise SystemExit(f"{url} publishes nothing")
    index_set, vector_set = IndexSet.open(store, release.index), VectorSet.open(store, release.vectors)
    items = indexable_items(store, load_items(store, release.catalog.name), vector_set)
    vectors = candidates = load_vectors(store, vector_set, items["content_id"].to_list())
    if release.reducer and index_set.candidate_dim < index_set.dim:
        pca = load_pca(Reducer.open(store, release.reducer).local_folder(store) / PCA_FILE)
        candidates = apply_pca(pca, vectors, index_set.candidate_dim, release.nightly_config().reduce.whiten)
    counts = items["category"].drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    numbers = {name: number for number, name in enumerate(counts["category"].to_list())}
    category = np.array([numbers.get(name, len(numbers)) for name in items["category"].to_list()])
    print(f"{len(items):,} x {index_set.dim}: {index_set.recipe}, recall@10 without a filter {index_set.recall:.3f}")
    row_ids = items["row_id"].to_numpy()
    return Catalogue(open_index(store, index_set), index_set.rerank_depth, vectors, candidates, row_ids, category)


def _filters(catalogue: Catalogue) -> Iterator[tuple[str, Bool]]:
    category, shares = catalogue.category, np.random.default_rng(1).random(len(catalogue.category))
    yield from ((f"category {rank + 1}", category == rank) for rank in (0, 1, 4, 9, 19))
    yield "any of categories 1 to 10", category < 10
    yield "any but category 1", category != 0
    if catalogue.colour is not None:
        yield "one colour of 12", catalogue.colour == 0
        yield "category 1 in one colour", (category == 0) & (catalogue.colour == 0)
    yield from ((f"random {percent:g}%", shares < percent / 100) for percent in (50, 10, 1, 0.1))


def _measure(catalogue: Catalogue, n_queries: int) -> None:
    print("\n| filter | rows | queries | recall@10 tuned alone | served | ms tuned alone | served | every row |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    for name, passes in _filters(catalogue):
        searches = _searches(catalogue, np.flatnonzero(passes))
        truth_rows = np.flatnonzero(passes)
        for group, rows in (("pass", truth_rows), ("do not", np.flatnonzero(~passes))):
            queries = rng.choice(rows, min(n_queries, len(rows)), replace=False)
            _, nearest = exact_topk(catalogue.vectors[queries], catalogue.vectors[truth_rows], K)
            truth = catalogue.row_ids[truth_rows][nearest]
            recalls = [recall(search(queries), truth) for search in searches[:2]]
            ms = _median_ms(searches, queries[:N_TIMED])
            print(f"| {name} | {len(truth_rows):,} | {group} ", end="")
            print("| " + " | ".join([*(f"{value:.3f}" for value in recalls), *(f"{value:.2f}" for value in ms)]) + " |")


def _tuned_effort() -> Any:
    """Return a context in which a filter adds nothing to the lists and candidates that tuning chose."""
    return patch.multiple(lookup, MORE_LISTS=1, MORE_CANDIDATES=1, MAX_COMPARED=1)


def _searches(catalogue: Catalogue, passing: Int64) -> list[Callable[[Int64], Int64]]:
    """Return the three searches of the module's docstring, from rows as queries to (q, 10) row ids."""
    index, row_ids = catalogue.opened, catalogue.row_ids[passing]

    def search(queries: Int64, only: RowSelection) -> Int64:
        vectors, candidates = catalogue.vectors[queries], catalogue.candidates[queries]
        return index.search(vectors, candidates, K, catalogue.rerank_depth, only=only)[1]

    def tuned_alone(queries: Int64) -> Int64:
        with _tuned_effort():
            return search(queries, plain)

    with _tuned_effort():
        plain = index.select(row_ids)
    served, every = index.select(row_ids), index.select(row_ids)
    every.is_exact = True
    return [tuned_alone, lambda queries: search(queries, served), lambda queries: search(queries, every)]


def _median_ms(searches: list[Callable[[Int64], Int64]], queries: Int64) -> list[float]:
    """Time single queries, each by every search in turn."""
    elapsed_ms: list[list[float]] = [[] for _ in searches]
    for row in range(len(queries)):
        for search, times in zip(searches, elapsed_ms, strict=True):
            start = time.perf_counter()
            search(queries[row : row + 1])
            times.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(times)) for times in elapsed_ms]


if __name__ == "__main__":
    main()
